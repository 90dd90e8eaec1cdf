"""What surrounds every request, whatever it is about: its id, its log line, its last safety net."""

import logging
import re
import time
import uuid
from collections import Counter

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.http import content_type
from app.api.http.problems import Reporter
from app.domain.errors import HeaderTooLarge, TooLarge
from app.lib import logs

log = logging.getLogger(__name__)

PROBE_PATHS = ("/healthz", "/readyz")
"""Asked every few seconds by whatever runs the service: open to all, and in the log at debug level only."""

MAX_FIELD_BYTES = 2_000
"""Of one header that is parsed, all of its lines together. Browsers send 200."""

_PARSED = (
    "Accept",
    "Content-Type",
    "If-Match",
    "If-None-Match",
    "If-Range",
    "Origin",
    "Prefer",
    "Range",
    "X-Timeout-Seconds",
)

_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+=-]{0,127}")


def content_length(scope: Scope) -> int | None:
    """What a request says of its body's length."""
    said = Headers(scope=scope).get("content-length", "").lstrip("0")[:20]
    return int(said) if said.isdecimal() else None


def route_path(scope: Scope) -> str:
    """The path as the routes have it, wherever a proxy has put the service."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def new_request_id() -> str:
    return f"req_{uuid.uuid4().hex}"


class RequestIdMiddleware:
    """Gives each request an id (the caller's, if it is a sane one) and writes its line into the log.

    The id and, in a demo, the notice of it are headers of every answer.
    """

    def __init__(self, app: ASGIApp, *, demo: bool) -> None:
        self.app = app
        self.demo = demo

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        offered = Headers(scope=scope).get("x-request-id", "")
        id_ = offered if _REQUEST_ID.fullmatch(offered) else new_request_id()
        token, started, status, sent = logs.request_id.set(id_), time.perf_counter(), 0, 0

        async def with_headers(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = id_
                headers["X-Content-Type-Options"] = "nosniff"
                if self.demo:
                    headers["X-Demo"] = "true"
            elif message["type"] == "http.response.body":
                sent += len(message.get("body", b""))
            await send(message)

        try:
            await self.app(scope, receive, with_headers)
        finally:
            caller = scope.get("state", {}).get("caller")
            log.log(
                logging.DEBUG if route_path(scope) in PROBE_PATHS else logging.INFO,
                "%s %s",
                scope["method"],
                scope["path"][:200],
                extra={
                    "status": status or None,
                    "ms": round(1000 * (time.perf_counter() - started)),
                    "bytes": sent,
                    "caller": caller and caller.name,
                },
            )
            logs.request_id.reset(token)


class UnexpectedErrorMiddleware:
    """Turns whatever nobody expected into a 500 that says nothing, and a log line that says where it was.

    It sits inside CORS and the request id, where Starlette's own net does not, so that a browser can read the 500.
    """

    def __init__(self, app: ASGIApp, *, reporter: Reporter) -> None:
        self.app = app
        self.reporter = reporter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        started = False

        async def noticing(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, noticing)
        except Exception as error:
            answer = self.reporter.response(error, scope)
            if started:
                return None  # too late for a status: the answer stays short of its length, and the connection closes
            await answer(scope, receive, send)


class HeaderFieldsMiddleware:
    """Bounds the headers that are parsed, before anything parses them, and settles what type the body has.

    Parsers of such headers are written for what clients send; some of them take seconds for 64 kB of semicolons.
    """

    def __init__(self, app: ASGIApp, *, reporter: Reporter) -> None:
        self.app = app
        self.reporter = reporter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        lengths = Counter[bytes]()
        for name, value in scope["headers"]:
            lengths[name] += len(value)
        for name in _PARSED:
            if lengths[name.lower().encode()] > MAX_FIELD_BYTES:
                refusal = HeaderTooLarge(f"The header {name} may have {MAX_FIELD_BYTES:,} bytes.")
                return await self.reporter.response(refusal, scope)(scope, receive, send)
        content_type.normalize(scope)
        await self.app(scope, receive, send)


class ContentLengthLimitMiddleware:
    """Refuses a body that announces itself as too large before a byte of it is read.

    FastAPI's own limit counts what arrives, but answers an announced length in plain text.
    """

    def __init__(self, app: ASGIApp, *, max_body_bytes: int, reporter: Reporter) -> None:
        self.app = app
        self.reporter = reporter
        self.max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        length = content_length(scope) if scope["type"] == "http" else None
        if length is not None and length > self.max_body_bytes:
            refusal = TooLarge(f"A request body may have {self.max_body_bytes:,} bytes.")
            return await self.reporter.response(refusal, scope)(scope, receive, send)
        await self.app(scope, receive, send)
