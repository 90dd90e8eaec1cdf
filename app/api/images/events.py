"""A generation as server-sent events.

The stream starts at once and sends heartbeats, so that proxies do not close the connection while the model generates.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from fastapi import Response
from starlette.types import Receive, Scope, Send

from app.api.http.response_writer import ResponseWriter
from app.api.http.state import RequestState, request_state
from app.api.http.streaming import Segment, iter_pieces
from app.api.http.uploads import UploadBody
from app.api.images.rendering import render_image_json, render_json
from app.domain.errors import CallerDisconnected, CallerTooSlow
from app.domain.generation import Generation
from app.domain.progress import Draft, ProgressEvent, Retrying, Started, Thought
from app.lib import logs
from app.lib.event_loop_scheduler import FairScheduler
from app.service.generation.run import GenerationRun

HEADERS = {
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",  # nginx would otherwise buffer the events
    "Vary": "Accept",
}

Make = Callable[[Receive, Callable[[ProgressEvent], None]], Awaitable[Generation]]


class EventStreamResponse(Response):
    """The event `started`, then events of the generation, then `image` and `done`, or `problem`."""

    media_type = "text/event-stream"

    def __init__(self, make: Make, run: GenerationRun, model: str, upload: UploadBody, *, with_url: bool) -> None:
        """
        Args:
            make: starts the generation; gets the ASGI `receive` and a listener for events.
            run: of this request.
            model: the id of the model that is asked first.
            upload: the body of the request, whose references are sent to Gemini; released at the end of the stream.
            with_url: send images as data URLs too.
        """
        self._make = make
        self._run = run
        self._model = model
        self._upload = upload
        self._with_url = with_url
        upload.retain()
        super().__init__(None, headers=HEADERS, media_type="text/event-stream")
        del self.headers["Content-Length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        state = request_state(scope)
        settings = state["settings"]
        # One time limit for the generation, and one for sending the image.
        writer = ResponseWriter(scope, send, 2 * settings.deadline_seconds)
        events: asyncio.Queue[ProgressEvent | None] = asyncio.Queue()
        work = asyncio.ensure_future(self._make(receive, events.put_nowait))
        work.add_done_callback(lambda _: events.put_nowait(None))
        try:
            await writer.start(self.status_code, self.raw_headers)
            await writer.send(_started(Started(self._model, 1)))
            async for event in _with_heartbeats(events, writer, settings.heartbeat_seconds):
                await self._send(event, writer, state["scheduler"])
            await self._send_result(work, writer, state, receive)
            await writer.end()
        except (CallerDisconnected, CallerTooSlow) as error:
            self._run.fail(error)
        finally:
            work.cancel()
            await asyncio.wait({work})
            if not work.cancelled():
                work.exception()  # reported already; otherwise asyncio would log it
            self._upload.release()

    async def _send(self, event: ProgressEvent, writer: ResponseWriter, scheduler: FairScheduler) -> None:
        match event:
            case Started() if (event.model, event.attempt) != (self._model, 1):
                await writer.send(_started(event))
            case Retrying():
                data = {"attempt": event.attempt, "waitSeconds": event.wait_seconds, "reason": event.reason}
                await writer.send(_event("retrying", data))
            case Thought(text=text):
                await writer.send(_event("thought", {"text": text}))
            case Draft(image=image):
                async for piece in _pieces("draft", render_image_json(image, with_url=self._with_url), scheduler):
                    await writer.send(piece)

    async def _send_result(
        self, work: asyncio.Future[Generation], writer: ResponseWriter, state: RequestState, receive: Receive
    ) -> None:
        # `work.result()` would raise the error with a traceback that refers to this frame, and this frame to `work`.
        error = work.exception()
        if isinstance(error, CallerDisconnected | CallerTooSlow):
            return
        if error is None:
            try:
                document = render_json(work.result(), with_url=self._with_url)
            except Exception as bug:
                error = self._run.unexpected(bug)
        if isinstance(error, Exception):
            await writer.send(_event("problem", state["reporter"].report(error).document))
            return
        await writer.send_all(_pieces("image", document, state["scheduler"]), receive)
        await writer.send(_event("done", {}))


async def _with_heartbeats(
    events: asyncio.Queue[ProgressEvent | None], writer: ResponseWriter, heartbeat_seconds: float
) -> AsyncIterator[ProgressEvent]:
    """Yield events until the generation is done. Send a comment after each pause of `heartbeat_seconds`."""
    while True:
        try:
            async with asyncio.timeout(heartbeat_seconds):
                event = await events.get()
        except TimeoutError:
            await writer.send(b": still at it\n\n")
            continue
        if event is None:
            return
        yield event


def _pieces(name: str, document: list[Segment], scheduler: FairScheduler) -> AsyncIterator[bytes]:
    return iter_pieces([f"event: {name}\ndata: ".encode(), *document, b"\n\n"], scheduler)


def _started(event: Started) -> bytes:
    return _event("started", {"requestId": logs.request_id.get(), "model": event.model, "attempt": event.attempt})


def _event(name: str, data: dict[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()
