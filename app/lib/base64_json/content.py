"""The bytes of a file, in memory or on a disk, read in pieces."""

from collections.abc import AsyncIterator, Iterable
from mmap import mmap
from typing import ClassVar, Protocol

import anyio.to_thread

Buffer = bytes | bytearray | mmap
"""Bytes in memory, or a memory-mapped file."""

PIECE_BYTES = 192 * 1024
"""Bytes of a piece: 256 KiB as base64. A multiple of three, so that each piece can be encoded alone."""

_MAPPED_PIECE_BYTES = 4 * PIECE_BYTES
"""Bytes of a piece that is read from a memory-mapped file in another thread. A thread switch costs as much as reading
100 KB."""


class Content(Protocol):
    """The bytes of a file. Each iteration starts at the first byte.

    The length of each piece except the last is a multiple of three.
    """

    is_remote: ClassVar[bool]
    """Whether reading a piece takes a network request, so that the sender should read ahead."""

    def __len__(self) -> int: ...

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    def head(self, count: int) -> bytes:
        """Return the first `count` bytes, or all bytes if there are fewer."""
        ...


class SegmentedContent:
    """Bytes in memory, in the pieces in which they arrived."""

    is_remote: ClassVar[bool] = False

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = tuple(pieces)
        self._length = sum(map(len, self._pieces))

    def __len__(self) -> int:
        return self._length

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece

    def head(self, count: int) -> bytes:
        found = bytearray()
        for piece in self._pieces:
            if len(found) >= count:
                break
            found += piece[: count - len(found)]
        return bytes(found)


class BufferContent:
    """Bytes in one block of memory or in a memory-mapped file."""

    is_remote: ClassVar[bool] = False

    def __init__(self, data: Buffer, length: int | None = None) -> None:
        """
        Args:
            data: the bytes.
            length: the number of bytes that are the content; all of them by default.
        """
        self._data = data
        self._length = len(data) if length is None else length

    def __len__(self) -> int:
        return self._length

    async def __aiter__(self) -> AsyncIterator[bytes]:
        mapped = isinstance(self._data, mmap)
        size = _MAPPED_PIECE_BYTES if mapped else PIECE_BYTES
        for start in range(0, self._length, size):
            if mapped:
                yield await anyio.to_thread.run_sync(self._slice, start, start + size)
            else:
                yield self._slice(start, start + size)

    def head(self, count: int) -> bytes:
        return self._slice(0, count)

    def _slice(self, start: int, stop: int) -> bytes:
        return bytes(self._data[start : min(stop, self._length)])
