"""Middleware for all requests: request id, log line, unexpected errors, limits of the request head."""

import logging
import re
import time
import uuid
from collections import Counter

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.http import content_type
from app.api.http.paths import PROBE_PATHS, route_path
from app.api.http.problems import Reporter
from app.api.http.state import request_state
from app.api.http.uploads import content_length
from app.domain.errors import CallerError, HeaderTooLarge, TooLarge
from app.lib import logs

log = logging.getLogger(__name__)

MAX_FIELD_BYTES = 2_000
"""Limit for one parsed header, all its lines together. Browsers send about 200 bytes."""

_PARSED = (
    "Accept",
    "Content-Type",
    "Idempotency-Key",
    "If-Match",
    "If-None-Match",
    "If-Range",
    "Origin",
    "Prefer",
    "Range",
    "Webhook-URL",
    "X-Timeout-Seconds",
)

_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+=-]{0,127}")


def new_request_id() -> str:
    return f"req_{uuid.uuid4().hex}"


class RequestIdMiddleware:
    """Gives each request an id and a log line, and adds headers to each response.

    The id is the caller's `X-Request-Id` if that is well-formed. In a demo, responses have `X-Demo: true`.
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
            state = request_state(scope)
            caller = state.get("caller")
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
                    "endUser": state.get("end_user_hash"),
                },
            )
            logs.request_id.reset(token)


class UnexpectedErrorMiddleware:
    """Answers an unexpected exception with a 500 without details; the log says where it was raised.

    It runs inside the CORS middleware, unlike Starlette's `ServerErrorMiddleware`, so that browsers can read the 500.
    """

    def __init__(self, app: ASGIApp, *, reporter: Reporter) -> None:
        self.app = app
        self.reporter = reporter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        started = False

        async def noting_start(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, noting_start)
        except Exception as error:
            response = self.reporter.response(error)
            if started:
                return None  # the status is sent already: the body stays incomplete, and the connection is closed
            await response(scope, receive, send)


class RequestHeadMiddleware:
    """Refuses a request with a large `Content-Length` or a large parsed header, before its body is read.

    FastAPI's `max_body_size` counts the bytes that arrive. It answers a large `Content-Length` in plain text instead of
    a problem document. Some header parsers take seconds for 64 kB of semicolons.

    It also merges repeated `Content-Type` headers.
    """

    def __init__(self, app: ASGIApp, *, max_body_bytes: int, reporter: Reporter) -> None:
        self.app = app
        self.reporter = reporter
        self.max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        try:
            self._check(scope)
        except CallerError as error:
            return await self.reporter.response(error)(scope, receive, send)
        content_type.normalize(scope)
        await self.app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        if (content_length(scope) or 0) > self.max_body_bytes:
            raise TooLarge(f"A request body may have at most {self.max_body_bytes:,} bytes.")
        lengths = Counter[bytes]()
        for name, value in scope["headers"]:
            lengths[name] += len(value)
        for name in _PARSED:
            if lengths[name.lower().encode()] > MAX_FIELD_BYTES:
                raise HeaderTooLarge(f"The header {name} may have at most {MAX_FIELD_BYTES:,} bytes.")
