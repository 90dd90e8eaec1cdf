"""Docstrings, exports and documents agree with the code."""

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


def test_documents_name_files_that_exist() -> None:
    missing = []
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md")):
        named = re.findall(r"`((?:app|tests)/[\w/]+\.py)`", page.read_text())
        missing += [f"{page.name}: {path}" for path in named if not (ROOT / path).exists()]

    assert missing == []


def paths_in_map() -> list[Path]:
    """Return the paths below app/ that the map in CONTRIBUTING.md shows."""
    map_ = (ROOT / "CONTRIBUTING.md").read_text().partition("```\napp/\n")[2].partition("\ntests/")[0]
    paths, parent = [], Path()
    for indent, name in re.findall(r"^( +)(\S+)", map_, re.MULTILINE):
        if len(indent) == 2:
            parent = Path(name)
        paths.append(parent if len(indent) == 2 else parent / name)
    return paths


def test_the_map_in_contributing_shows_every_folder_of_the_service() -> None:
    folders = {path.parent.relative_to(ROOT / "app") for path in ROOT.glob("app/*/__init__.py")}

    assert folders <= set(paths_in_map())
    assert [path for path in paths_in_map() if not (ROOT / "app" / path).exists()] == []
