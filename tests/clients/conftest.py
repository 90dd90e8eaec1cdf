"""Fixtures for real clients. The clients for Node are installed once, in the versions of scripts/package.json."""

import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conftest import image_file
from tests.programs import require

if TYPE_CHECKING:
    from tests.clients.libraries import Library

HERE = Path(__file__).parent

collect_ignore = (
    []
    if find_spec("openai")
    else ["test_openai_libraries.py", "test_openai_library_errors.py", "test_openai_library_retries.py"]
)
"""`make test` runs without OpenAI's library; `make test-clients` installs it."""


@pytest.fixture(scope="session")
def node_clients(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the scripts of `scripts/` and the packages that they import."""
    folder = tmp_path_factory.mktemp("clients") / "scripts"
    shutil.copytree(HERE / "scripts", folder)
    install = ("install", "--omit=dev", "--no-package-lock", "--no-audit", "--no-fund", "--silent")
    subprocess.run([require("npm", "npm"), *install], cwd=folder, check=True, timeout=240)
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """Three image files of different formats."""
    files = [tmp_path / name for name in ("anna.png", "ben.jpg", "mug.webp")]
    for file, format_ in zip(files, ("PNG", "JPEG", "WEBP"), strict=True):
        file.write_bytes(image_file(format_))
    return files


@pytest.fixture(params=["python", "python-async", "node"])
def library(request: pytest.FixtureRequest) -> "Library":
    """Each of OpenAI's libraries."""
    from tests.clients.libraries import async_python, in_node, sync_python

    if request.param == "node":
        return in_node(request.getfixturevalue("node_clients"))
    return sync_python if request.param == "python" else async_python
