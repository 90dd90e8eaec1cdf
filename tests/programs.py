"""Programs that some tests need.

Without one of them the test is skipped. With REQUIRE_PROGRAMS=1, as in .ci/run, it fails.
"""

import os
import shutil
from typing import NoReturn

import pytest

_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"])


def require(program: str, package: str) -> str:
    """Return the path of a program. If it is not installed, skip or fail the test and name the Debian package."""
    return shutil.which(program, path=_PATH) or missing(program, package)


def missing(program: str, package: str) -> NoReturn:
    """Skip or fail the test, because a program is not installed."""
    report = pytest.fail if os.environ.get("REQUIRE_PROGRAMS") == "1" else pytest.skip
    report(f"{program} is not installed (Debian: {package})")
