"""A generation as server-sent events: what happens as it happens, and a sign of life when nothing does.

The stream begins at once, so that nothing on the way takes the silence of a drawing model for a dead connection.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

from fastapi import Response
from starlette.types import Receive, Scope, Send

from app.api.http.response_writer import ResponseWriter, WriteOptions
from app.api.http.streaming import Segment, iter_pieces
from app.api.images.rendering import render_image_json, render_json
from app.domain.errors import CallerDisconnected, CallerTooSlow
from app.domain.generation import Generation
from app.domain.progress import Draft, ProgressEvent, Retrying, Started, Thought
from app.lib import logs

HEADERS = {
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",  # nginx would otherwise keep the events to itself until there are enough of them
    "Vary": "Accept",
}

Make = Callable[[Receive, Callable[[ProgressEvent], None]], Awaitable[Generation]]


class EventStreamResponse(Response):
    """`started`, then whatever happens, then `image` and `done`, or `problem`."""

    media_type = "text/event-stream"

    def __init__(
        self,
        make: Make,
        problem: Callable[[Exception], dict[str, Any]],
        model: str,
        options: WriteOptions,
        *,
        with_url: bool,
        heartbeat_seconds: float,
    ) -> None:
        """
        Args:
            make: makes the image; is given what tells that the caller has left, and whom to tell what happens.
            problem: logs a failure, and returns its problem document.
            model: who is asked first.
            options: how to send.
            with_url: whether images are there as data URLs too.
            heartbeat_seconds: the longest silence.
        """
        self._make = make
        self._problem = problem
        self._model = model
        self._with_url = with_url
        self._heartbeat_seconds = heartbeat_seconds
        self._options = options
        self.on_close: Callable[[], None] = lambda: None
        """Called when nothing is held for it any more."""
        super().__init__(None, headers=HEADERS, media_type="text/event-stream")
        del self.headers["Content-Length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # There is no saying how long a drawing takes, only how long it may take: that comes on top.
        options = replace(self._options, most_seconds=self._options.most_seconds * 2)
        sender = ResponseWriter(scope, send, options)
        happened: asyncio.Queue[ProgressEvent | None] = asyncio.Queue()
        work = asyncio.ensure_future(self._make(receive, happened.put_nowait))
        work.add_done_callback(lambda _: happened.put_nowait(None))
        try:
            await sender.start(self.status_code, self.raw_headers)
            await sender.send(_event("started", self._started(Started(self._model, 1))))
            async for notice in self._with_heartbeats(happened, sender):
                await self._tell(notice, sender)
            await self._conclude(work, sender, receive)
            await sender.end()
        except (CallerDisconnected, CallerTooSlow) as error:
            self._options.failed(error)
        finally:
            work.cancel()
            await asyncio.wait({work})
            if not work.cancelled():
                work.exception()  # it has been told, or there is nobody to tell
            self.on_close()

    async def _with_heartbeats(
        self, happened: asyncio.Queue[ProgressEvent | None], sender: ResponseWriter
    ) -> AsyncIterator[ProgressEvent]:
        """Until the work is done, whatever there is to tell of it."""
        while True:
            try:
                async with asyncio.timeout(self._heartbeat_seconds):
                    notice = await happened.get()
            except TimeoutError:
                await sender.send(b": still at it\n\n")
                continue
            if notice is None:
                return
            yield notice

    async def _tell(self, notice: ProgressEvent, sender: ResponseWriter) -> None:
        match notice:
            case Started() if (notice.model, notice.attempt) != (self._model, 1):
                await sender.send(_event("started", self._started(notice)))
            case Retrying():
                about = {"attempt": notice.attempt, "waitSeconds": notice.wait_seconds, "reason": notice.reason}
                await sender.send(_event("retrying", about))
            case Thought(text=text):
                await sender.send(_event("thought", {"text": text}))
            case Draft(image=image):
                async for piece in self._pieces("draft", render_image_json(image, with_url=self._with_url)):
                    await sender.send(piece)

    async def _conclude(self, work: asyncio.Future[Generation], sender: ResponseWriter, receive: Receive) -> None:
        # Not `work.result()`: its traceback would refer to this frame, and this frame refers to `work`.
        error = work.exception()
        if isinstance(error, CallerDisconnected | CallerTooSlow):
            return
        if isinstance(error, Exception):
            await sender.send(_event("problem", self._problem(error)))
            return
        document = render_json(work.result(), with_url=self._with_url)
        await sender.send_all(self._pieces("image", document), receive)
        await sender.send(_event("done", {}))

    def _pieces(self, name: str, document: list[Segment]) -> AsyncIterator[bytes]:
        return iter_pieces([f"event: {name}\ndata: ".encode(), *document, b"\n\n"], self._options.scheduler)

    def _started(self, started: Started) -> dict[str, Any]:
        return {"requestId": logs.request_id.get(), "model": started.model, "attempt": started.attempt}


def _event(name: str, data: dict[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()
