"""A stored blob as `Content`: read from the store in pieces, and checked against its digest."""

import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import anyio.to_thread

from app.domain.errors import StorageDamaged
from app.lib.base64_json import Content
from app.lib.base64_json.content import PIECE_BYTES

RANGE_BYTES = 4 * PIECE_BYTES
"""Bytes read from the store at once: 768 KiB. Pieces of a `Content` must be a multiple of three bytes long."""

BATCH_BYTES = 8 * 1024 * 1024
"""Bytes that are handed to a thread at once."""

_THREAD_BYTES = 128 * 1024
"""Larger pieces are hashed in a thread. Hashing 128 KiB takes about as long as the switch to a thread: 0.1 ms."""


class BlobReader(Protocol):
    """What a `Blob` needs of the store that holds it."""

    async def read(self, blob: "Blob", start: int, stop: int) -> bytes: ...

    def mark_damaged(self, blob: "Blob") -> None: ...


@dataclass(frozen=True, slots=True)
class Blob:
    """A stored blob. It holds no bytes in memory: each iteration reads them from the store."""

    name: str
    """SHA-256 of the bytes. It has a suffix if the bytes were needed again while the first file was being deleted."""
    size: int
    store: BlobReader = field(compare=False, repr=False)
    is_remote: ClassVar[bool] = True

    def __len__(self) -> int:
        return self.size

    @property
    def digest(self) -> str:
        return self.name[:64]

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self.between(0, self.size)

    def head(self, count: int) -> bytes:
        raise NotImplementedError("An image's header is read before the image is stored.")

    async def between(self, start: int, stop: int) -> AsyncIterator[bytes]:
        """Yield the bytes from `start` to before `stop`, in pieces.

        When all bytes are read, the digest is checked before the last piece is yielded. So a reader that counts bytes
        never accepts a damaged blob as complete.

        Raises:
            StorageDamaged: the blob is missing, or its bytes have changed.
            StorageUnavailable: the store does not answer.
        """
        hasher = hashlib.sha256() if (start, stop) == (0, self.size) else None
        for begin in range(start, stop, RANGE_BYTES):
            end = min(begin + RANGE_BYTES, stop)
            piece = await self.store.read(self, begin, end)
            if hasher is not None:
                await _update(hasher, piece)
                if end == stop and hasher.hexdigest() != self.digest:
                    self.store.mark_damaged(self)
                    cause = f"blob {self.name} has another digest"
                    raise damage(self, "An image was changed in the image store.", cause)
            yield piece


def damage(blob: Blob, detail: str, cause: str) -> StorageDamaged:
    """Return the error for a blob that is missing or has changed."""
    return StorageDamaged(detail, part="blobs", cause=cause, missing=blob)


async def digest_of(content: Content) -> str:
    """Return the content's SHA-256 in hexadecimal."""
    hasher = hashlib.sha256()
    async for pieces in batches(content):
        await _update(hasher, *pieces)
    return hasher.hexdigest()


async def batches(content: Content) -> AsyncIterator[list[bytes]]:
    """Yield the pieces of a content in lists of about `BATCH_BYTES`; one list at least."""
    pieces: list[bytes] = []
    size, yielded = 0, False
    async for piece in content:
        pieces.append(piece)
        size += len(piece)
        if size >= BATCH_BYTES:
            yield pieces
            pieces, size, yielded = [], 0, True
    if pieces or not yielded:
        yield pieces


async def _update(hasher: "hashlib._Hash", *pieces: bytes) -> None:
    def update() -> None:
        for piece in pieces:
            hasher.update(piece)

    if sum(map(len, pieces)) > _THREAD_BYTES:
        await anyio.to_thread.run_sync(update)
    else:
        update()
