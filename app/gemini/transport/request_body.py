"""The body of a request: JSON, with the base64 of images in the place of their placeholders."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing

import httpx2

from app.lib.base64_json import Base64Encoded

_MAX_READ_AHEAD = 16
"""Maximum number of small remote images that are fetched at the same time."""

_PIECE_BYTES = 1024 * 1024
"""The size in which a large remote image is fetched, as base64."""

READ_AHEAD_BYTES = 4 * _PIECE_BYTES
"""Maximum bytes of remote images that are in memory at the same time."""

_WRITE_BYTES = 64 * 1024
"""Smaller pieces are joined up to this size, because each write costs a system call and wakes the server up."""


class RequestBody(httpx2.AsyncByteStream):
    """A body in segments. While one segment is sent, the next remote ones are fetched."""

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
        remote = deque(one for one in self._segments if isinstance(one, Base64Encoded) and one.is_remote)
        ahead: deque[_Prefetch] = deque()
        try:
            for segment in self._segments:
                if isinstance(segment, bytes):
                    yield segment
                    continue
                if segment.is_remote:
                    free = READ_AHEAD_BYTES - sum(prefetch.bytes for prefetch in ahead)
                    while remote and len(ahead) < _MAX_READ_AHEAD and (free := free - _piece_bytes(remote[0])) >= 0:
                        ahead.append(_Prefetch(remote.popleft()))
                async for piece in ahead.popleft() if segment.is_remote else segment:
                    yield piece
        finally:
            for prefetch in ahead:
                prefetch.cancel()


def _piece_bytes(segment: Base64Encoded) -> int:
    return min(len(segment), _PIECE_BYTES)


class _Prefetch:
    """A remote image whose first piece is being fetched."""

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
