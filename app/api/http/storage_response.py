"""Responses that are read from the store while they are sent. Their memory counts towards `MAX_BUFFERED_BYTES`."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import suppress
from typing import Any

from fastapi import Response
from starlette.types import Receive, Scope, Send

from app.api.http.response_writer import ResponseWriter
from app.api.http.state import request_state
from app.domain.errors import CallerDisconnected, CallerTooSlow, Overloaded
from app.lib.byte_budget import Reservation

_COPIES = 2
"""A JSON document is in memory as values and as text."""


class StorageResponse(Response):
    """A body in pieces. Each piece is read when the one before has been sent."""

    def __init__(self, pieces: AsyncIterator[bytes], held_bytes: int, media_type: str, headers: dict[str, str]) -> None:
        """
        Args:
            pieces: the body.
            held_bytes: the most memory that the body takes until it is sent.
            media_type: of the body.
            headers: further headers. Without a `Content-Length` among them, a body of one piece gets one, and a longer
                body is sent with chunked encoding.
        """
        self._pieces = pieces
        self._held_bytes = held_bytes
        super().__init__(None, headers=headers, media_type=media_type)
        if "content-length" not in {name.lower() for name in headers}:
            del self.headers["Content-Length"]

    @classmethod
    def json(cls, document: Mapping[str, Any], headers: Mapping[str, str]) -> "StorageResponse":
        """Return a JSON document that was made of what the store holds."""
        body = json.dumps(document).encode()
        length = {"Content-Length": str(len(body))}
        return cls(_single(body), _COPIES * len(body), "application/json", {**headers, **length})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """
        Raises:
            Overloaded: other responses take all the memory for longer than `QUEUE_TIMEOUT_SECONDS`.
        """
        state = request_state(scope)
        settings, memory = state["settings"], Reservation(state["response_memory"])
        writer = ResponseWriter(scope, send, settings.deadline_seconds)
        try:
            async with asyncio.timeout(settings.queue_timeout_seconds):
                await memory.acquire(self._held_bytes)
        except TimeoutError as error:
            raise Overloaded("Other responses take all the memory for responses.", retry_after=10) from error
        try:
            with suppress(CallerDisconnected, CallerTooSlow):
                await self._write(writer, receive)
        finally:
            memory.resize(0)

    async def _write(self, writer: ResponseWriter, receive: Receive) -> None:
        first = await anext(self._pieces, b"")  # before the status: an error of the store can still be a problem
        second = b"" if "Content-Length" in self.headers else await anext(self._pieces, b"")
        if first and not second:
            self.headers.setdefault("Content-Length", str(len(first)))
        await writer.start(self.status_code, self.raw_headers)
        if first:
            await writer.send_all(_chained(first, second, self._pieces), receive)
        await writer.end()


async def _single(body: bytes) -> AsyncGenerator[bytes]:
    yield body


async def _chained(first: bytes, second: bytes, others: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    yield first
    if second:
        yield second
    async for piece in others:
        yield piece
