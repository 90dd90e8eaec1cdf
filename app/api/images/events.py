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

from app.api.http.response_writer import Sender, Sending
from app.api.http.streaming import Segment, pieces_of
from app.api.images.rendering import image_document, image_read
from app.domain.errors import CallerLeft, SlowReader
from app.domain.generation import Generation
from app.domain.progress import Draft, Notice, Retrying, Started, Thought
from app.lib import logs

HEADERS = {
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",  # nginx would otherwise keep the events to itself until there are enough of them
    "Vary": "Accept",
}

Make = Callable[[Receive, Callable[[Notice], None]], Awaitable[Generation]]


class Events(Response):
    """`started`, then whatever happens, then `image` and `done`, or `problem`."""

    media_type = "text/event-stream"

    def __init__(
        self,
        make: Make,
        problem: Callable[[Exception], dict[str, Any]],
        model: str,
        sending: Sending,
        *,
        with_url: bool,
        heartbeat_seconds: float,
    ) -> None:
        """
        Args:
            make: makes the image; is given what tells that the caller has left, and whom to tell what happens.
            problem: logs a failure, and returns its problem document.
            model: who is asked first.
            sending: how to send.
            with_url: whether images are there as data URLs too.
            heartbeat_seconds: the longest silence.
        """
        self._make = make
        self._problem = problem
        self._model = model
        self._with_url = with_url
        self._heartbeat_seconds = heartbeat_seconds
        self._sending = sending
        self.at_end: Callable[[], None] = lambda: None
        """Called when nothing is held for it any more."""
        super().__init__(None, headers=HEADERS, media_type="text/event-stream")
        del self.headers["Content-Length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # There is no saying how long a drawing takes, only how long it may take: that comes on top.
        sending = replace(self._sending, most_seconds=self._sending.most_seconds * 2)
        sender = Sender(scope, send, sending)
        happened: asyncio.Queue[Notice | None] = asyncio.Queue()
        work = asyncio.ensure_future(self._make(receive, happened.put_nowait))
        work.add_done_callback(lambda _: happened.put_nowait(None))
        try:
            await sender.start(self.status_code, self.raw_headers)
            await sender.send(_event("started", self._started(Started(self._model, 1))))
            async for notice in self._with_heartbeats(happened, sender):
                await self._tell(notice, sender)
            await self._conclude(work, sender, receive)
            await sender.end()
        except (CallerLeft, SlowReader) as error:
            self._sending.failed(error)
        finally:
            work.cancel()
            await asyncio.wait({work})
            if not work.cancelled():
                work.exception()  # it has been told, or there is nobody to tell
            self.at_end()

    async def _with_heartbeats(self, happened: asyncio.Queue[Notice | None], sender: Sender) -> AsyncIterator[Notice]:
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

    async def _tell(self, notice: Notice, sender: Sender) -> None:
        match notice:
            case Started() if (notice.model, notice.attempt) != (self._model, 1):
                await sender.send(_event("started", self._started(notice)))
            case Retrying():
                about = {"attempt": notice.attempt, "waitSeconds": notice.wait_seconds, "reason": notice.reason}
                await sender.send(_event("retrying", about))
            case Thought(text=text):
                await sender.send(_event("thought", {"text": text}))
            case Draft(image=image):
                async for piece in self._pieces("draft", image_read(image, with_url=self._with_url)):
                    await sender.send(piece)

    async def _conclude(self, work: asyncio.Future[Generation], sender: Sender, receive: Receive) -> None:
        try:
            document = image_document(work.result(), with_url=self._with_url)
        except (CallerLeft, SlowReader):
            return
        except Exception as error:
            await sender.send(_event("problem", self._problem(error)))
        else:
            await sender.send_all(self._pieces("image", document), receive)
            await sender.send(_event("done", {}))

    def _pieces(self, name: str, document: list[Segment]) -> AsyncIterator[bytes]:
        return pieces_of([f"event: {name}\ndata: ".encode(), *document, b"\n\n"], self._sending.pace)

    def _started(self, started: Started) -> dict[str, Any]:
        return {"requestId": logs.request_id.get(), "model": started.model, "attempt": started.attempt}


def _event(name: str, data: dict[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()
