"""Paths of requests."""

from starlette.types import Scope

PROBE_PATHS = ("/healthz", "/readyz")
"""Orchestrators request these every few seconds. They need no key, and are logged at debug level."""


def route_path(scope: Scope) -> str:
    """Return the path as routes declare it: without the prefix under which a proxy serves the app."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))
