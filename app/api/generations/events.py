"""The states of a recorded generation as server-sent events, on whichever replica it runs.

Events have ids: 1 for `queued`, 2 for `running`, 3 for the end. A client that reconnects with `Last-Event-ID` gets the
events after that one.
"""

import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress

from fastapi import Response
from starlette.types import Receive, Scope, Send

from app.api.generations.document import generation_document, state_document
from app.api.generations.links import LinkMaker
from app.api.http.event_stream import HEADERS, HEARTBEAT
from app.api.http.response_writer import ResponseWriter, while_connected
from app.api.http.state import RequestState, request_state
from app.domain.errors import CallerDisconnected, CallerTooSlow, GenerationNotFound, ServiceError
from app.domain.recorded import GenerationStatus, RecordedGeneration

LAST_EVENT = 3
"""Id of the event at the end of a generation."""

_RETRY = b"retry: 2000\n\n"
"""Clients reconnect after two seconds if the connection breaks."""

_MAX_SECONDS = 30 * 24 * 3600
"""Longest stream. The server closes the connection of a caller who does not read long before."""


class GenerationEventsResponse(Response):
    """The events of one generation. The stream ends after the last one, and when the service stops."""

    media_type = "text/event-stream"

    def __init__(
        self,
        generation: RecordedGeneration,
        last_event: int,
        read: Callable[[], Awaitable[RecordedGeneration]],
        changed: Callable[[GenerationStatus, float], Awaitable[object]],
        links: LinkMaker,
    ) -> None:
        """
        Args:
            generation: as it is now.
            last_event: id of the last event that the caller has; 0 for none.
            read: reads the generation again.
            changed: returns when the status differs from the given one, after so many seconds, or when the service
                stops.
            links: makes the links.
        """
        self._generation = generation
        self._last_event = last_event
        self._read = read
        self._changed = changed
        self._links = links
        super().__init__(None, headers=HEADERS, media_type="text/event-stream")
        del self.headers["Content-Length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        writer = ResponseWriter(scope, send, _MAX_SECONDS)
        with suppress(CallerDisconnected, CallerTooSlow):
            await writer.start(self.status_code, self.raw_headers)
            await writer.send(_RETRY)
            await while_connected(self._send_events(writer, request_state(scope)), receive)
            await writer.end()

    async def _send_events(self, writer: ResponseWriter, state: RequestState) -> None:
        heartbeat_seconds, stops = state["settings"].heartbeat_seconds, False
        try:
            while True:
                events = list(self._new_events())
                await writer.send(b"".join(events) or HEARTBEAT)
                if self._generation.is_final or stops:
                    return
                await self._changed(self._generation.status, heartbeat_seconds)
                self._generation = await self._read()
                stops = state["admission"].draining
        except GenerationNotFound:
            return  # deleted meanwhile: a client that reconnects learns so
        except (CallerDisconnected, CallerTooSlow):
            raise
        except ServiceError as error:
            state["reporter"].report(error)  # a client that reconnects may find the storage again

    def _new_events(self) -> Iterator[bytes]:
        """Yield the events that have happened and that the caller does not have."""
        generation = self._generation
        happened = {
            1: generation.is_async and GenerationStatus.QUEUED,
            2: generation.started_at is not None and GenerationStatus.RUNNING,
            LAST_EVENT: generation.is_final and generation.status,
        }
        for number, status in happened.items():
            if status and number > self._last_event:
                self._last_event = number
                yield self._event(number, status)

    def _event(self, number: int, status: GenerationStatus) -> bytes:
        if number == LAST_EVENT:
            document = generation_document(self._generation, self._links)
        else:
            document = state_document(self._generation, self._links, status)
        return f"id: {number}\nevent: {status}\ndata: {json.dumps(document, separators=(',', ':'))}\n\n".encode()
