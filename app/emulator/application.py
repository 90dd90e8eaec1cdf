"""The emulator as an ASGI application: Google's paths, and `/emulator/…` to script faults."""

import asyncio
import json
import re
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio.to_thread
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.types import Receive, Scope, Send

from app.emulator import control, recordings, responses, validation
from app.emulator.call import Call
from app.emulator.faults import Fault, merge_patch
from app.emulator.google_json import ApiError, camel_keys
from app.emulator.http import ERROR_PAGE, ResetResponse, error_response, fault_error, json_response, send_body
from app.emulator.models import MODELS, Model

MAX_REQUEST_BYTES = 100 * 1024 * 1024

_PATH = re.compile(
    r"/(?P<version>v1|v1beta|v1beta1|v1alpha)"
    r"(?P<vertex>(?:/projects/[^/]+/locations/[^/]+)?/publishers/google)?"
    r"/models(?:/(?P<model>[^/:]+)(?::(?P<method>\w+))?)?"
)


class Emulator:
    """Answers as Gemini does, or as its `faults` say.

    `faults` is a queue: each fault applies to the next call. `calls` holds the latest requests.
    """

    def __init__(
        self,
        *,
        delay_seconds: float = 0,
        signature_bytes: int = 256,
        recordings_dir: Path | None = None,
        keep_calls: int = 20,
    ) -> None:
        """
        Args:
            delay_seconds: time before each answer.
            signature_bytes: size of thought signatures. Real ones have 0.8 to 2.2 MB.
            recordings_dir: folder of recorded answers, which are replayed for their prompts.
            keep_calls: most requests that `calls` holds.
        """
        self.delay_seconds = delay_seconds
        self.signature_bytes = signature_bytes
        self.faults: deque[Fault] = deque()
        self.calls: deque[Call] = deque(maxlen=keep_calls)
        self._released = asyncio.Event()
        self._released.set()
        self._recordings = recordings.load(recordings_dir)

    def clear(self) -> None:
        """Remove all faults and calls, and end a `hold`."""
        self.faults.clear()
        self.calls.clear()
        self.release()

    def hold(self) -> None:
        """Let calls wait until `release`, as if Gemini took long."""
        self._released.clear()

    def release(self) -> None:
        """Answer the calls that wait."""
        self._released.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await _lifespan(receive, send)
        request = Request(scope, receive)
        try:
            if request.url.path.startswith("/emulator/"):
                response = await control.respond(request, self.faults, self.calls)
            else:
                response = await self._respond(request)
        except ApiError as error:
            response = json_response(error.document, error.code)
        except ClientDisconnect:
            return None
        await response(scope, receive, send)

    async def _respond(self, request: Request) -> Response:
        path = _PATH.fullmatch(request.url.path)
        if path is None:
            return HTMLResponse(ERROR_PAGE, 404)
        if request.method == "GET":
            _require_key(request)
            return json_response(_model_document(path["model"], path["version"]))
        body = await _read_body(request)
        headers = {key.lower(): value for key, value in request.headers.items()}
        self.calls.append(Call(path["model"] or "", path["method"] or "", request.url.path, headers, body))
        fault = self._next_fault(_prompt(body))
        await self._released.wait()
        if fault.delay_seconds or self.delay_seconds:
            await asyncio.sleep(fault.delay_seconds or self.delay_seconds)
        if (broken := await _fault_response(request, path["method"], fault)) is not None:
            return broken
        _require_key(request)
        return await self._answer(request, path, body, fault)

    async def _answer(self, request: Request, path: re.Match[str], body: dict[str, Any], fault: Fault) -> Response:
        try:
            recording = self._recordings.get(recordings.prompt_of(body))
            if recording is None:
                parsed = validation.parse(path["model"], path["version"], body, vertex=bool(path["vertex"]))
        except (AttributeError, KeyError, TypeError) as error:
            raise ApiError(400, "Invalid JSON payload received. Invalid value.") from error
        if recording is not None:
            return await send_body(request, recording.body, recording.headers, fault, recording.status)
        if path["method"] == "countTokens":
            return json_response({"totalTokens": responses.prompt_tokens(parsed)})
        if path["method"] not in ("generateContent", "streamGenerateContent"):
            return HTMLResponse(ERROR_PAGE, 404)
        document = await anyio.to_thread.run_sync(responses.generate, parsed, fault, self.signature_bytes)
        document = merge_patch(document, fault.patch)
        if path["method"] == "generateContent":
            return await send_body(request, json.dumps(document, indent=2).encode(), {}, fault)
        return await _stream_response(request, responses.split_chunks(document), fault)

    def _next_fault(self, prompt: str | None) -> Fault:
        """Return the first fault that applies to this prompt, and count one use of it."""
        for index, fault in enumerate(self.faults):
            if fault.prompt in (None, prompt):
                if fault.times > 1:
                    self.faults[index] = replace(fault, times=fault.times - 1)
                else:
                    del self.faults[index]
                return fault
        return Fault()


async def _read_body(request: Request) -> dict[str, Any]:
    raw = await request.body()
    if len(raw) > MAX_REQUEST_BYTES:
        raise ApiError(400, f"Request payload size exceeds the limit: {MAX_REQUEST_BYTES} bytes.")
    try:
        body = camel_keys(json.loads(raw))
    except ValueError as error:
        raise ApiError(400, "Invalid JSON payload received. Unexpected token.") from error
    if not isinstance(body, dict):
        raise ApiError(400, 'Invalid JSON payload received. Unknown name "": Root element must be a message.')
    return body


async def _fault_response(request: Request, method: str | None, fault: Fault) -> Response | None:
    """Return the response of a fault that replaces the answer; `None` if the fault does not replace it."""
    if fault.reset == "before_headers":
        return ResetResponse()
    if fault.body is not None and fault.status is None and (fault.chunk_bytes or fault.reset or fault.stall_seconds):
        return await send_body(request, fault.body.encode(), {}, fault)
    fails = fault.status is not None and not _fails_in_stream(fault, streams=method == "streamGenerateContent")
    if fails or fault.html or fault.body is not None:
        return error_response(fault)
    return None


def _fails_in_stream(fault: Fault, *, streams: bool) -> bool:
    return fault.status is not None and fault.after_chunks is not None and streams


async def _stream_response(request: Request, chunks: list[dict[str, Any]], fault: Fault) -> Response:
    fails = _fails_in_stream(fault, streams=True)
    if fails:
        chunks = chunks[: fault.after_chunks]
    if request.query_params.get("alt") != "sse":
        return await send_body(request, json.dumps(chunks).encode(), {}, fault)
    stream = b"".join(b"data: " + json.dumps(chunk).encode() + b"\r\n\r\n" for chunk in chunks)
    if fails:
        stream += json.dumps(fault_error(fault).document, indent=2).replace("\n", "\r\n").encode()
    return await send_body(request, stream, {"Content-Type": "text/event-stream"}, fault)


def _prompt(body: dict[str, Any]) -> str | None:
    """Return the prompt, or `None` if the body is not a valid request."""
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


def _model_document(model_id: str | None, version: str) -> dict[str, Any]:
    """Return one model's description, or the list of all models."""

    def describe(model: Model) -> dict[str, Any]:
        return {
            "name": f"models/{model.id}",
            "version": "3.0",
            "displayName": model.display_name,
            "inputTokenLimit": 65536,
            "outputTokenLimit": 32768,
            "supportedGenerationMethods": ["generateContent", "countTokens", "batchGenerateContent"],
        }

    if model_id is None:
        return {"models": [describe(model) for model in MODELS.values()]}
    if model_id not in MODELS:
        raise ApiError(404, f"Model is not found: models/{model_id} for api version {version}")
    return describe(MODELS[model_id])
