"""The body of a request on its way out: JSON, and base64 in the places of what it stands for."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing

import httpx2

from app.lib.base64_json import Base64Encoded

_READ_AHEAD = 16
"""Files from afar that are asked for at once, if they are small."""

_PIECE_BYTES = 1024 * 1024
"""What comes of a large one at a time, as base64."""

READ_AHEAD_BYTES = 4 * _PIECE_BYTES
"""What is there of them at once."""

_WRITE_BYTES = 64 * 1024
"""What is worth a system call here and waking up for over there; less waits for what follows."""


class RequestBody(httpx2.AsyncByteStream):
    """A body in segments. While one is sent, those that come from afar are asked for."""

    def __init__(self, segments: list[bytes | Base64Encoded]) -> None:
        self._segments = segments

    async def __aiter__(self) -> AsyncGenerator[bytes]:
        small, held = list[bytes](), 0
        async with aclosing(self._pieces()) as pieces:
            async for piece in pieces:
                large = len(piece) >= _WRITE_BYTES
                if not large:
                    small.append(piece)
                    held += len(piece)
                if held and (large or held >= _WRITE_BYTES):
                    yield b"".join(small)
                    small, held = [], 0
                if large:
                    yield piece
        yield b"".join(small)

    async def _pieces(self) -> AsyncGenerator[bytes]:
        coming = deque(one for one in self._segments if isinstance(one, Base64Encoded) and one.is_remote)
        ahead: deque[_Prefetch] = deque()
        try:
            for segment in self._segments:
                if isinstance(segment, bytes):
                    yield segment
                    continue
                if segment.is_remote:
                    room = READ_AHEAD_BYTES - sum(begun.bytes for begun in ahead)
                    while coming and len(ahead) < _READ_AHEAD and (room := room - _piece_bytes(coming[0])) >= 0:
                        ahead.append(_Prefetch(coming.popleft()))
                async for piece in ahead.popleft() if segment.is_remote else segment:
                    yield piece
        finally:
            for begun in ahead:
                begun.cancel()


def _piece_bytes(segment: Base64Encoded) -> int:
    return min(len(segment), _PIECE_BYTES)


class _Prefetch:
    """A segment whose first piece has been asked for."""

    def __init__(self, segment: Base64Encoded) -> None:
        self.bytes = _piece_bytes(segment)
        self._pieces = aiter(segment)
        self._first = asyncio.ensure_future(anext(self._pieces, None))

    async def __aiter__(self) -> AsyncGenerator[bytes]:
        try:
            piece = await self._first
        except BaseException:
            self.cancel()
            raise
        while piece is not None:
            yield piece
            piece = await anext(self._pieces, None)

    def cancel(self) -> None:
        self._first.cancel()
        self._first.add_done_callback(lambda first: first.cancelled() or first.exception())
