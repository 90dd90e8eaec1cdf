"""The routes of the playground: the page, and the files that it loads. All of them are public."""

from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from string import Template

from fastapi import APIRouter, Request, Response

from app.api.web.files import StaticFile, read_files
from app.domain.errors import NotFound
from app.settings import Settings

_PAGE_POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)

_SUGGESTIONS = "suggestions/frame.html"
_SUGGESTIONS_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'self'; sandbox allow-scripts allow-popups allow-popups-to-escape-sandbox"
)
"""Google's search suggestions have styles of their own. This document shows them; it has no origin and no cookies."""

_NO_MODULES = ("types.js", "suggestions/frame.js")
"""Types in comments, and the script of the frame."""

_DEMO_NOTICE = (
    '<aside class="notice" aria-label="Demo"><strong>This is a demo.</strong> A built-in emulator draws simple '
    "pictures. Nothing is sent to Google, and nothing costs money. The amounts are what Gemini would charge.</aside>"
)


def playground_router(settings: Settings) -> APIRouter:
    """Return the routes. The files are read once, here."""
    router = APIRouter(include_in_schema=False)
    files = read_files(Path(str(resources.files("app") / "web")))
    page = _page(files.pop("index.html"), files, settings)

    @router.api_route("/", methods=["GET", "HEAD"])
    async def playground(request: Request) -> Response:
        headers = {"Content-Security-Policy": _PAGE_POLICY, "Referrer-Policy": "same-origin"}
        return page.response(request, headers)

    @router.api_route("/web/{path:path}", methods=["GET", "HEAD"])
    async def playground_file(path: str, request: Request) -> Response:
        if path not in files:
            raise NotFound("The playground has no such file.")
        policy = _SUGGESTIONS_POLICY if path == _SUGGESTIONS else _PAGE_POLICY
        return files[path].response(request, {"Content-Security-Policy": policy})

    return router


def _page(file: StaticFile, files: Iterable[str], settings: Settings) -> StaticFile:
    """Return the page with what it must know before its first request to the API, and the names of its modules.

    With their names the browser loads all modules at once, not one import after the other.
    """
    modules = sorted(path for path in files if path.endswith(".js") and path not in _NO_MODULES)
    values = {
        "modules": "\n    ".join(f'<link rel="modulepreload" href="web/{path}">' for path in modules),
        "keys": "required" if settings.keys_required else "none",
        "docs": "open" if settings.docs_access == "open" else "closed",
        "notice": _DEMO_NOTICE if settings.demo else "",
    }
    return StaticFile.of(Template(file.content.decode()).substitute(values).encode(), ".html")
