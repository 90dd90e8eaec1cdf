"""Docstrings and exports keep up with the code."""

import ast
import importlib
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = sorted(ROOT.glob("app/**/*.py"))


def documented_arguments(docstring: str) -> list[str]:
    section = re.search(r"^Args:\n((?:    .*\n?|\n)+)", docstring, re.MULTILINE)
    names = re.findall(r"^    (\w[\w, ]*):", section[1], re.MULTILINE) if section else []
    return [name for group in names for name in group.split(", ")]


def test_docstrings_name_the_arguments_that_there_are() -> None:
    unknown = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                arguments = {one.arg for one in ast.walk(node.args) if isinstance(one, ast.arg)}
                documented = set(documented_arguments(ast.get_docstring(node) or ""))
                unknown += [f"{path.relative_to(ROOT)}: {node.name}: {name}" for name in documented - arguments]

    assert unknown == []


def test_packages_have_what_they_export() -> None:
    missing = []
    for path in FILES:
        if path.name == "__init__.py":
            package = importlib.import_module(".".join(path.parent.relative_to(ROOT).parts))
            missing += [
                f"{package.__name__}.{one}" for one in getattr(package, "__all__", []) if not hasattr(package, one)
            ]

    assert missing == []
