"""A page whose mistakes count: errors on the console, exceptions, failed requests, requests to other origins."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from playwright.async_api import BrowserContext, ConsoleMessage, Page, Request, WebError


class Watch:
    """Collects what goes wrong in a browser context."""

    def __init__(self, context: BrowserContext, origin: str) -> None:
        self.mistakes: list[str] = []
        self.requests: list[Request] = []
        self._origin = origin
        self._allowed: list[str] = []
        context.on("console", self._console)
        context.on("weberror", self._error)
        context.on("request", self._requested)
        context.on("requestfailed", self._failed)
        context.on("page", self._opened)

    @contextmanager
    def allow(self, pattern: str) -> Iterator[None]:
        """Within the block, what matches the regular expression is no mistake."""
        self._allowed.append(pattern)
        try:
            yield
        finally:
            self._allowed.remove(pattern)

    def paths(self, method: str) -> list[str]:
        """Return the paths of the requests with this method."""
        return [urlsplit(request.url).path for request in self.requests if request.method == method]

    def _note(self, mistake: str) -> None:
        if not any(re.search(pattern, mistake) for pattern in self._allowed):
            self.mistakes.append(mistake)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self._note(f"console: {message.text} ({message.location.get('url')})")

    def _error(self, error: WebError) -> None:
        self._note(f"exception: {error.error}")

    def _requested(self, request: Request) -> None:
        self.requests.append(request)
        if not request.url.startswith((f"{self._origin}/", "blob:", "data:")):
            self._note(f"foreign request: {request.url[:200]}")

    def _failed(self, request: Request) -> None:
        self._note(f"failed request: {request.method} {request.url[:200]} {request.failure}")

    def _opened(self, page: Page) -> None:
        page.set_default_timeout(15_000)
