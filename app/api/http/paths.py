"""Paths of requests."""

from starlette.types import Scope

PROBE_PATHS = ("/healthz", "/readyz")
"""Orchestrators request these every few seconds. They need no key, and are logged at debug level."""


def is_playground(path: str) -> bool:
    """Return whether a path is the playground's page or one of its files. Browsers send no key when they load them."""
    return path == "/" or path.startswith("/web/")


def route_path(scope: Scope) -> str:
    """Return the path as routes declare it: without the prefix under which a proxy serves the app."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))
