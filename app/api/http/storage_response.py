"""Answers that are read from the storage while they are sent. Their memory is counted in `MAX_BUFFERED_BYTES`."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

from fastapi import Request, Response
from starlette.types import Receive, Scope, Send

from app.api.http.response_writer import ResponseWriter, WriteOptions
from app.domain.errors import CallerDisconnected, CallerTooSlow, Overloaded
from app.lib.byte_budget import ByteBudget, Reservation


class StorageResponse(Response):
    """An answer in pieces, each of which is made when the one before has been sent."""

    def __init__(
        self,
        pieces: AsyncIterator[bytes],
        held_bytes: int,
        media_type: str,
        headers: dict[str, str],
        request: Request,
        options: WriteOptions,
    ) -> None:
        """
        Args:
            pieces: the body.
            held_bytes: how much of memory it takes at most until it is sent.
            media_type: of the body.
            headers: further ones. A body of one piece gets its `Content-Length`; others, if it is not among these, have
                chunked encoding.
            request: the caller's.
            options: how to send.
        """
        room: ByteBudget = request.state.room
        self._share = Reservation(room)
        self._patience = request.state.settings.queue_timeout_seconds
        self._pieces = pieces
        self._held_bytes = held_bytes
        self._options = options
        super().__init__(None, headers=headers, media_type=media_type)
        if "content-length" not in {name.lower() for name in headers}:
            del self.headers["Content-Length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """
        Raises:
            Overloaded: other answers take all the memory there is.
        """
        sender = ResponseWriter(scope, send, self._options)
        try:
            async with asyncio.timeout(self._patience):
                await self._share.acquire(self._held_bytes)
        except TimeoutError as error:
            raise Overloaded("Other answers take all the room there is.", retry_after=10) from error
        try:
            first = await anext(self._pieces, b"")  # what is wrong with the storage is found before the answer begins
            second = b"" if "Content-Length" in self.headers else await anext(self._pieces, b"")
            if first and not second:
                self.headers.setdefault("Content-Length", str(len(first)))
            await sender.start(self.status_code, self.raw_headers)
            if first:
                await sender.send_all(_with(first, second, self._pieces), receive)
            await sender.end()
        except (CallerDisconnected, CallerTooSlow) as error:
            self._options.failed(error)
        finally:
            self._share.resize(0)


async def _with(first: bytes, second: bytes, rest: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    yield first
    if second:
        yield second
    async for piece in rest:
        yield piece
