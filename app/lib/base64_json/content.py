"""The bytes of a file, wherever they lie; whoever passes them on does so in pieces."""

from collections.abc import AsyncIterator, Iterable
from mmap import mmap
from typing import ClassVar, Protocol

import anyio.to_thread

Buffer = bytes | bytearray | mmap
"""Whatever can be indexed, sliced and searched: bytes in memory, or a file mapped into it."""

PIECE_BYTES = 192 * 1024
"""A multiple of three, so that pieces can be encoded one by one; as base64 it is 256 KiB."""

_MAPPED_PIECE_BYTES = 4 * PIECE_BYTES
"""Of what may have to come from a disk first, in another thread: a visit there costs as much as reading 100 KB."""


class Content(Protocol):
    """A file's bytes. Iterating starts at the beginning each time; every piece but the last is a multiple of three
    bytes long."""

    is_remote: ClassVar[bool]
    """Whether a piece takes a while to come, so that one should ask for it in time."""

    def __len__(self) -> int: ...

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    def head(self, count: int) -> bytes:
        """The first `count` bytes, or all if there are fewer."""
        ...


class SegmentedContent:
    """Bytes in memory, in the pieces they came in."""

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
    """Bytes in one block of memory, or in a file that is mapped into it."""

    is_remote: ClassVar[bool] = False

    def __init__(self, data: Buffer, length: int | None = None) -> None:
        """
        Args:
            data: the bytes.
            length: how many of them, from the first on, are the content; all of them if left out.
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
