"""The emulator's door: Google's paths, and `/emulator/…` for those who script it."""

import asyncio
import gzip
import json
import re
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import anyio.to_thread
from pydantic import TypeAdapter, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from app.emulator import recordings, responses, validation
from app.emulator.faults import CANONICAL, Fault, merge_patch
from app.emulator.models import MODELS, Model
from app.emulator.serving import RESET
from app.emulator.wire import ApiError, camel

_READ_FAULT = TypeAdapter(Fault)
_FOREIGN = {"error": "Web pages of other sites may not script this emulator; call it by localhost or its address."}
_OWN_NAMES = re.compile(r"(?:(?:[\w-]+\.)*localhost|127(?:\.\d{1,3}){3}|\[::1\])(?::\d{0,5})?", re.IGNORECASE)
MAX_REQUEST_BYTES = 100 * 1024 * 1024

_PATH = re.compile(
    r"/(?P<version>v1|v1beta|v1beta1|v1alpha)"
    r"(?P<vertex>(?:/projects/[^/]+/locations/[^/]+)?/publishers/google)?"
    r"/models(?:/(?P<model>[^/:]+)(?::(?P<method>\w+))?)?"
)
_PAGE = "<!doctype html><html><head><title>Error</title></head><body><h1>Something went wrong</h1></body></html>"
_GOOGLES_HEADERS = {
    "Content-Type": "application/json; charset=UTF-8",
    "Vary": "Origin, X-Origin, Referer",
    "Server": "scaffolding on HTTPServer2",
    "X-XSS-Protection": "0",
    "X-Frame-Options": "SAMEORIGIN",
    "X-Content-Type-Options": "nosniff",
    "Server-Timing": "gfet4t7; dur=42",
    "Alt-Svc": 'h3=":443"; ma=2592000,h3-29=":443"; ma=2592000',
}


@dataclass(frozen=True, slots=True)
class Call:
    """What a client sent, its body with camelCase keys throughout."""

    model: str
    method: str
    path: str
    headers: dict[str, str]
    body: dict[str, Any]


class Emulator:
    """An ASGI application that answers like Gemini, or as badly as its `faults` say.

    A fault that is appended applies to the next call; `calls` keeps the last `keep_calls` of what was sent.
    """

    def __init__(
        self,
        *,
        delay_seconds: float = 0,
        signature_bytes: int = 256,
        recordings_dir: Path | None = None,
        keep_calls: int = 20,
    ) -> None:
        self.delay_seconds = delay_seconds
        self.signature_bytes = signature_bytes
        self.faults: deque[Fault] = deque()
        self.calls: deque[Call] = deque(maxlen=keep_calls)
        self._recordings = recordings.load(recordings_dir)

    def clear(self) -> None:
        """Forget faults and calls."""
        self.faults.clear()
        self.calls.clear()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await _lifespan(receive, send)
        request = Request(scope, receive)
        try:
            if request.url.path.startswith("/emulator/"):
                response = await self._scripted(request) if _is_own(request) else JSONResponse(_FOREIGN, 403)
            else:
                response = await self._google(request)
        except ApiError as error:
            response = _google_json(error.document, error.code)
        except ClientDisconnect:
            return None
        await response(scope, receive, send)

    async def _google(self, request: Request) -> Response:
        match = _PATH.fullmatch(request.url.path)
        if match is None:
            return HTMLResponse(_PAGE, 404)
        if request.method == "GET":
            _require_key(request)
            return _google_json(_listed(match["model"], match["version"]))
        raw = await request.body()
        if len(raw) > MAX_REQUEST_BYTES:
            raise ApiError(400, f"Request payload size exceeds the limit: {MAX_REQUEST_BYTES} bytes.")
        try:
            body = camel(json.loads(raw))
        except ValueError as error:
            raise ApiError(400, "Invalid JSON payload received. Unexpected token.") from error
        if not isinstance(body, dict):
            raise ApiError(400, 'Invalid JSON payload received. Unknown name "": Root element must be a message.')
        headers = {key.lower(): value for key, value in request.headers.items()}
        self.calls.append(Call(match["model"] or "", match["method"] or "", request.url.path, headers, body))
        fault = self._next_fault(_prompt(body))
        if fault.delay_seconds or self.delay_seconds:
            await asyncio.sleep(fault.delay_seconds or self.delay_seconds)
        if fault.reset == "before_headers":
            return _Reset()
        if (
            fault.body is not None
            and fault.status is None
            and (fault.chunk_bytes or fault.reset or fault.stall_seconds)
        ):
            return await _prepared(request, fault.body.encode(), {}, fault)
        streams = match["method"] == "streamGenerateContent"
        in_stream = fault.status is not None and fault.after_chunks is not None and streams
        if (fault.status is not None and not in_stream) or fault.html or fault.body is not None:
            return _failed(fault)
        _require_key(request)
        try:
            recording = self._recordings.get(recordings.prompt_of(body))
            if recording is None:
                asked = validation.parse(match["model"], match["version"], body, vertex=bool(match["vertex"]))
        except (AttributeError, KeyError, TypeError) as error:
            raise ApiError(400, "Invalid JSON payload received. Invalid value.") from error
        if recording is not None:
            return await _prepared(request, recording.body, recording.headers, fault, recording.status)
        if match["method"] == "countTokens":
            return _google_json({"totalTokens": responses.prompt_tokens(asked)})
        if match["method"] not in ("generateContent", "streamGenerateContent"):
            return HTMLResponse(_PAGE, 404)
        document = await anyio.to_thread.run_sync(responses.answer, asked, fault, self.signature_bytes)
        document = merge_patch(document, fault.patch)
        if match["method"] == "generateContent":
            return await _prepared(request, json.dumps(document, indent=2).encode(), {}, fault)
        chunks = _chunks(document)
        if in_stream:
            chunks = chunks[: fault.after_chunks]
        if request.query_params.get("alt") == "sse":
            stream = b"".join(b"data: " + json.dumps(chunk).encode() + b"\r\n\r\n" for chunk in chunks)
            if in_stream:
                stream += json.dumps(_error(fault).document, indent=2).replace("\n", "\r\n").encode()
            return await _prepared(request, stream, {"Content-Type": "text/event-stream"}, fault)
        return await _prepared(request, json.dumps(chunks).encode(), {}, fault)

    def _next_fault(self, prompt: str | None) -> Fault:
        """The first fault that is meant for this prompt, used up by one."""
        for place, fault in enumerate(self.faults):
            if fault.prompt in (None, prompt):
                if fault.times > 1:
                    self.faults[place] = replace(fault, times=fault.times - 1)
                else:
                    del self.faults[place]
                return fault
        return Fault()

    async def _scripted(self, request: Request) -> Response:
        match request.method, request.url.path:
            case "POST", "/emulator/faults":
                try:
                    self.faults.append(_READ_FAULT.validate_json(await request.body()))
                except ValidationError as error:
                    known = {one.name: str(one.type) for one in fields(Fault)}
                    wrong = error.errors(include_url=False, include_input=False, include_context=False)
                    return JSONResponse({"error": "That is no fault.", "wrong": wrong, "fields": known}, 422)
                return JSONResponse(asdict(self.faults[-1]), 201)
            case "GET", "/emulator/faults":
                return JSONResponse([asdict(fault) for fault in self.faults])
            case "GET", "/emulator/calls":
                return JSONResponse(
                    [{"model": c.model, "method": c.method, "path": c.path, "body": c.body} for c in self.calls]
                )
            case "DELETE", "/emulator/faults" | "/emulator/calls":
                (self.faults if request.url.path.endswith("faults") else self.calls).clear()
                return Response(status_code=204)
        return JSONResponse({"error": "There are /emulator/faults and /emulator/calls."}, 404)


def _is_own(request: Request) -> bool:
    """Whether no web page of another site is behind a request. A page can make a browser send a form to this machine
    (`Origin` names the page), or make a name of its own lead here (`Host` has that name)."""
    host, origin = request.headers.get("host", ""), request.headers.get("origin")
    address = (request.scope.get("server") or ("",))[0]
    if (address == "::1" or address.startswith("127.")) and host and not _OWN_NAMES.fullmatch(host):
        return False
    if origin is None:
        return request.headers.get("sec-fetch-site", "none") in ("none", "same-origin")
    authority = origin.partition("://")[2]
    return authority == host or _OWN_NAMES.fullmatch(authority) is not None


def _prompt(body: dict[str, Any]) -> str | None:
    """The prompt, of a body that may be anything."""
    try:
        return recordings.prompt_of(body)
    except (AttributeError, KeyError, TypeError):
        return None


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


def _require_key(request: Request) -> None:
    key = request.headers.get("x-goog-api-key") or request.query_params.get("key")
    if not key and not request.headers.get("authorization", "").startswith("Bearer "):
        message = "Method doesn't allow unregistered callers (callers without established identity)."
        raise ApiError(403, f"{message} Please use API Key or other form of API consumer identity to call this API.")
    if key and key.startswith("invalid"):
        reason = {
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": "API_KEY_INVALID",
            "domain": "googleapis.com",
        }
        raise ApiError(400, "API key not valid. Please pass a valid API key.", details=[reason])


def _listed(model: str | None, version: str) -> dict[str, Any]:
    def entry(known: Model) -> dict[str, Any]:
        return {
            "name": f"models/{known.id}",
            "version": "3.0",
            "displayName": known.display_name,
            "inputTokenLimit": 65536,
            "outputTokenLimit": 32768,
            "supportedGenerationMethods": ["generateContent", "countTokens", "batchGenerateContent"],
        }

    if model is None:
        return {"models": [entry(known) for known in MODELS.values()]}
    if model not in MODELS:
        raise ApiError(404, f"Model is not found: models/{model} for api version {version}")
    return entry(MODELS[model])


def _failed(fault: Fault) -> Response:
    status = fault.status or 200
    if fault.html:
        return HTMLResponse(_PAGE, status, fault.headers)
    if fault.body is not None:
        return Response(fault.body, status, _GOOGLES_HEADERS | fault.headers)
    return _google_json(_error(fault).document, status, fault.headers)


def _error(fault: Fault) -> ApiError:
    status = fault.status or 200
    canonical = fault.error_status or CANONICAL.get(status, "UNKNOWN")
    return ApiError(status, fault.message, canonical, fault.details)


def _google_json(document: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(json.dumps(document, indent=2), status, _GOOGLES_HEADERS | (headers or {}))


def _chunks(document: dict[str, Any]) -> list[dict[str, Any]]:
    """An answer as the chunks of a stream: each part alone, the reason, the sources and the usage with the last."""
    candidates = document.get("candidates") or []
    parts = (candidates[0].get("content", {}).get("parts") if candidates else None) or []
    if not parts:
        return [document]
    common = {key: document[key] for key in ("modelVersion", "responseId") if key in document}
    early = [
        {"candidates": [{"content": {"role": "model", "parts": [part]}, "index": 0}], **common} for part in parts[:-1]
    ]
    last = {**candidates[0], "content": {"role": "model", "parts": parts[-1:]}}
    return [*early, {**document, "candidates": [last]}]


async def _prepared(
    request: Request, body: bytes, headers: dict[str, str], fault: Fault, status: int = 200
) -> Response:
    headers = _GOOGLES_HEADERS | headers | fault.headers
    if fault.gzip or "gzip" in request.headers.get("accept-encoding", ""):
        body = await anyio.to_thread.run_sync(gzip.compress, body, 1)
        headers |= {"Content-Encoding": "gzip"}
    if fault.truncate:
        body = body[: len(body) // 2]
    if fault.stall_seconds or fault.reset:
        return _Interrupted(body, status, headers, fault=fault)
    if fault.chunk_bytes:
        return StreamingResponse(_in_chunks(body, fault.chunk_bytes), status, headers)
    return Response(body, status, headers)


async def _in_chunks(body: bytes, size: int) -> AsyncGenerator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]
        await asyncio.sleep(0)


class _Interrupted(Response):
    """An answer whose second half is late, or never comes."""

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


class _Reset(Response):
    """No answer at all."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["extensions"][RESET]["reset"]()
