"""Generations as server-sent events.

The stream starts at once and sends heartbeats, so that proxies do not close the connection while the model generates.
Each API has an `EventEncoder` for its own events.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from fastapi import Response
from starlette.types import Receive, Scope, Send

from app.api.http.problems import Report
from app.api.http.response_writer import ResponseWriter, disconnect_watcher
from app.api.http.state import RequestState, request_state
from app.api.http.streaming import Segment, iter_pieces
from app.api.http.uploads import UploadBody
from app.domain.errors import CallerDisconnected, CallerTooSlow, ServiceError
from app.domain.generation import Generation, Image
from app.domain.progress import Draft, ProgressEvent
from app.lib.event_loop_scheduler import FairScheduler

HEADERS = {
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",  # nginx would otherwise buffer the events
    "Vary": "Accept",
}

EVENT_SCHEMA = {
    "type": "object",
    "description": "One event.",
    "properties": {"event": {"type": "string"}, "data": {"type": "string", "contentMediaType": "application/json"}},
}
"""JSON schema of the events in the OpenAPI document."""

HEARTBEAT = b": still at it\n\n"
"""A comment, which clients ignore."""

Work = asyncio.Future[Generation]
Event = tuple[int, ProgressEvent] | Work
"""An event of the generation with an index, or a generation that has ended."""

Events = asyncio.Queue[Event]


class Generate(Protocol):
    """Starts a generation. Gets the ASGI `receive` and a listener for progress events."""

    def __call__(
        self, receive: Receive, listener: Callable[[ProgressEvent], None] | None = None
    ) -> Awaitable[Generation]: ...


class JobRun(Protocol):
    """What a stream needs of the run of a generation."""

    async def convert(self, image: Image) -> Image:
        """Return a draft in the format that the caller asks for."""
        ...

    def fail(self, error: ServiceError) -> None:
        """Note that the caller has not got the response."""
        ...

    def unexpected(self, error: Exception) -> ServiceError:
        """Note a bug, and return the error for the caller."""
        ...


@dataclass(frozen=True, slots=True)
class Job:
    """One generation of a stream."""

    run: JobRun
    generate: Generate


class EventEncoder(Protocol):
    """Encodes the events of one stream. A method that returns no segments sends no event."""

    def opening(self) -> list[Segment]: ...

    def takes_draft(self, place: int) -> bool:
        """Return whether `progress` sends a draft of this generation. Others are not converted."""
        ...

    def progress(self, event: ProgressEvent, place: int) -> list[Segment]:
        """Encode an event of the generation with the index `place`."""
        ...

    def succeeded(self, generation: Generation) -> list[Segment]: ...

    def failed(self, reported: Report) -> list[Segment]: ...

    def closing(self) -> list[Segment]:
        """Called after all generations have ended."""
        ...


class EventStreamResponse(Response):
    """The events of one or more generations, in the order in which they happen."""

    media_type = "text/event-stream"

    def __init__(
        self,
        jobs: Sequence[Job],
        encoder: EventEncoder,
        upload: UploadBody,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """
        Args:
            jobs: the generations; all of them start at once.
            encoder: of this stream.
            upload: the body of the request, whose references are sent to Gemini; released at the end of the stream.
            headers: further headers.
        """
        self._jobs = jobs
        self._encoder = encoder
        self._upload = upload
        upload.retain()
        super().__init__(None, headers={**HEADERS, **(headers or {})}, media_type="text/event-stream")
        del self.headers["Content-Length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        state = request_state(scope)
        settings = state["settings"]
        # One time limit for the generations, and one for sending their images.
        writer = ResponseWriter(scope, send, 2 * settings.deadline_seconds)
        events: Events = asyncio.Queue()
        works = {self._start(place, receive, events): job.run for place, job in enumerate(self._jobs)}
        try:
            await writer.start(self.status_code, self.raw_headers)
            await _send(self._encoder.opening(), writer, state["scheduler"], receive)
            async for event in _with_heartbeats(events, len(works), writer, settings.heartbeat_seconds):
                if isinstance(event, asyncio.Future):
                    segments = self._encode_result(event, works[event], state)
                else:
                    segments = await self._encode_progress(*event, writer, receive, settings.heartbeat_seconds)
                await _send(segments, writer, state["scheduler"], receive)
            await _send(self._encoder.closing(), writer, state["scheduler"], receive)
            await writer.end()
        except (CallerDisconnected, CallerTooSlow) as error:
            for run in works.values():
                run.fail(error)
        finally:
            await _cancel(works)
            self._upload.release()

    def _start(self, place: int, receive: Receive, events: Events) -> Work:
        generation = self._jobs[place].generate(receive, lambda event: events.put_nowait((place, event)))
        work = asyncio.ensure_future(generation)
        work.add_done_callback(events.put_nowait)
        return work

    async def _encode_progress(
        self, place: int, event: ProgressEvent, writer: ResponseWriter, receive: Receive, heartbeat_seconds: float
    ) -> list[Segment]:
        if isinstance(event, Draft):
            if not self._encoder.takes_draft(place):
                return []
            conversion = asyncio.create_task(self._jobs[place].run.convert(event.image))
            await _await_with_heartbeats(conversion, writer, receive, heartbeat_seconds)
            # `conversion.result()` would raise the error with a traceback that refers to this frame.
            error = conversion.exception()
            if isinstance(error, ServiceError):
                return []  # the final image may be fine; if not, the result says why
            event = Draft(conversion.result())
        return self._encoder.progress(event, place)

    def _encode_result(self, work: Work, run: JobRun, state: RequestState) -> list[Segment]:
        # `work.result()` would raise the error with a traceback that refers to this frame, and this frame to `work`.
        error = work.exception()
        if isinstance(error, CallerDisconnected | CallerTooSlow):
            return []
        if error is None:
            try:
                return self._encoder.succeeded(work.result())
            except Exception as bug:
                error = run.unexpected(bug)
        assert isinstance(error, Exception)
        return self._encoder.failed(state["reporter"].report(error))


async def _send(segments: list[Segment], writer: ResponseWriter, scheduler: FairScheduler, receive: Receive) -> None:
    short = [segment for segment in segments if isinstance(segment, bytes)]
    if len(short) < len(segments):
        await writer.send_all(iter_pieces(segments, scheduler), receive)
    elif short:
        await writer.send(b"".join(short))


async def _with_heartbeats(
    events: Events, works: int, writer: ResponseWriter, heartbeat_seconds: float
) -> AsyncIterator[Event]:
    """Yield events until all works have ended. Send a comment after each pause of `heartbeat_seconds`."""
    while works:
        try:
            async with asyncio.timeout(heartbeat_seconds):
                event = await events.get()
        except TimeoutError:
            await writer.send(HEARTBEAT)
            continue
        works -= isinstance(event, asyncio.Future)
        yield event


async def _await_with_heartbeats(
    conversion: asyncio.Task[Image], writer: ResponseWriter, receive: Receive, heartbeat_seconds: float
) -> None:
    """Return when the conversion is done. It is cancelled if the caller disconnects.

    Raises:
        CallerDisconnected, CallerTooSlow: the caller has disconnected.
    """
    try:
        async with disconnect_watcher(receive) as gone:
            while not conversion.done():
                both = {conversion, gone}
                done, _ = await asyncio.wait(both, timeout=heartbeat_seconds, return_when=asyncio.FIRST_COMPLETED)
                if not done:
                    await writer.send(HEARTBEAT)
                elif gone in done:
                    raise CallerDisconnected("The caller disconnected before the image was ready.")
    finally:
        conversion.cancel()  # changes nothing if it is done
        await asyncio.wait({conversion})


async def _cancel(works: dict[Work, JobRun]) -> None:
    for work in works:
        work.cancel()
    await asyncio.wait(works)
    for work in works:
        if not work.cancelled():
            work.exception()  # reported already; otherwise asyncio would log it
