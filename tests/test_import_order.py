"""Imports inside `app/` point down the list of layers below, and never in a circle."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

LAYERS = ("__main__", "server", "main", "api", "service", "gemini", "store", "settings", "domain", "lib")
"""From the top down. A module may import from its own layer and from those below it."""

MODULES = {
    ".".join(path.with_suffix("").parts).removesuffix(".__init__"): path
    for path in Path("app").rglob("*.py")
    if "migrations" not in path.parts
}


def imports(module: str) -> set[str]:
    """Return the modules of `app` that `module` imports, also those inside functions."""
    names = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            names |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = {f"{node.module}.{name.name}" for name in node.names}
            names |= inside & MODULES.keys() or {node.module}
    return {name for name in names if name in MODULES and name != module}


def layer(module: str) -> str:
    return [*module.split("."), ""][1]


def test_imports_point_down() -> None:
    up = [
        f"{module} imports {name}"
        for module in MODULES
        for name in imports(module)
        if layer(module) in LAYERS and layer(name) in LAYERS
        if LAYERS.index(layer(module)) > LAYERS.index(layer(name))
    ]
    assert not up


def test_the_emulator_imports_nothing_else_of_the_service() -> None:
    used = {name for module in MODULES if layer(module) == "emulator" for name in imports(module)}
    assert {layer(name) for name in used} == {"emulator"}


def test_imports_have_no_circle() -> None:
    TopologicalSorter({module: imports(module) for module in MODULES if layer(module)}).prepare()
