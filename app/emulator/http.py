"""HTTP responses with Google's headers, and responses that a fault breaks."""

import asyncio
import gzip
import json
from collections.abc import AsyncGenerator
from typing import Any

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from app.emulator.faults import Fault
from app.emulator.google_json import ApiError
from app.emulator.server import RESET

ERROR_PAGE = "<!doctype html><html><head><title>Error</title></head><body><h1>Something went wrong</h1></body></html>"
_GOOGLE_HEADERS = {
    "Content-Type": "application/json; charset=UTF-8",
    "Vary": "Origin, X-Origin, Referer",
    "Server": "scaffolding on HTTPServer2",
    "X-XSS-Protection": "0",
    "X-Frame-Options": "SAMEORIGIN",
    "X-Content-Type-Options": "nosniff",
    "Server-Timing": "gfet4t7; dur=42",
    "Alt-Svc": 'h3=":443"; ma=2592000,h3-29=":443"; ma=2592000',
}


def json_response(document: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(json.dumps(document, indent=2), status, _GOOGLE_HEADERS | (headers or {}))


def error_response(fault: Fault) -> Response:
    """Return the fault's web page, its body, or its error in Google's format."""
    status = fault.status or 200
    if fault.html:
        return HTMLResponse(ERROR_PAGE, status, fault.headers)
    if fault.body is not None:
        return Response(fault.body, status, _GOOGLE_HEADERS | fault.headers)
    return json_response(fault_error(fault).document, status, fault.headers)


def fault_error(fault: Fault) -> ApiError:
    return ApiError(fault.status or 200, fault.message, fault.error_status, fault.details)


async def send_body(
    request: Request, body: bytes, headers: dict[str, str], fault: Fault, status: int = 200
) -> Response:
    """Return a response with this body, sent as the fault says: compressed, cut off, stalled, reset or in chunks."""
    headers = _GOOGLE_HEADERS | headers | fault.headers
    if fault.gzip or "gzip" in request.headers.get("accept-encoding", ""):
        body = await anyio.to_thread.run_sync(gzip.compress, body, 1)
        headers |= {"Content-Encoding": "gzip"}
    if fault.truncate:
        body = body[: len(body) // 2]
    if fault.stall_seconds or fault.reset:
        return _InterruptedResponse(body, status, headers, fault=fault)
    if fault.chunk_bytes:
        return StreamingResponse(_split(body, fault.chunk_bytes), status, headers)
    return Response(body, status, headers)


async def _split(body: bytes, size: int) -> AsyncGenerator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]
        await asyncio.sleep(0)


class _InterruptedResponse(Response):
    """Sends half of the body, waits, and then sends the other half or resets the connection."""

    def __init__(self, content: bytes, status_code: int, headers: dict[str, str], *, fault: Fault) -> None:
        super().__init__(content, status_code, headers)
        self.fault = fault

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        half = len(self.body) // 2
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body[:half], "more_body": True})
        await asyncio.sleep(self.fault.stall_seconds or 0.05)
        if self.fault.reset == "in_body":
            scope["extensions"][RESET]["reset"]()
        else:
            await send({"type": "http.response.body", "body": self.body[half:]})


class ResetResponse(Response):
    """Resets the connection before anything is sent."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["extensions"][RESET]["reset"]()
