"""Files of a blob store that are written before their names are known: hashing and writing take place together."""

import asyncio
from contextlib import suppress
from contextvars import Context
from pathlib import Path
from typing import Protocol

import anyio.to_thread
from obstore.store import ObjectStore

from app.lib.base64_json import Content
from app.store.blobs.blob import batches
from app.store.blobs.directory import append, partial_file, publish

_SINGLE_PUT_BYTES = 8 * 1024 * 1024
"""Blobs up to this size are uploaded to a bucket in one request. A multipart upload takes at least three."""


class Staged(Protocol):
    """A content that is about to be stored."""

    async def publish(self, path: str) -> None:
        """Store the content under this path of the store. In a directory it is not on disk yet when this returns."""

    async def discard(self) -> None:
        """Forget the content if it was not published."""


class StagedUpload:
    """A content that is uploaded to a bucket when its name is known."""

    def __init__(self, bucket: ObjectStore, content: Content) -> None:
        self._bucket = bucket
        self._content = content

    async def publish(self, path: str) -> None:
        """See `Staged.publish`."""
        if len(self._content) <= _SINGLE_PUT_BYTES:
            data = b"".join([piece async for piece in self._content])
            await self._bucket.put_async(path, data, use_multipart=False)
        else:
            await self._bucket.put_async(path, aiter(self._content), use_multipart=True)

    async def discard(self) -> None:
        """See `Staged.discard`."""


class StagedFile:
    """A content that is being written to a file without a name. A crash leaves it to `remove_partial_files`."""

    def __init__(self, directory: Path, content: Content) -> None:
        self._directory = directory
        self._content = content
        self._partial = partial_file(directory)
        self._discarded = self._published = False
        self._writing = asyncio.create_task(self._write(), context=Context())

    async def publish(self, path: str) -> None:
        """See `Staged.publish`."""
        await asyncio.shield(self._writing)
        await anyio.to_thread.run_sync(publish, self._partial, self._directory / path)
        self._published = True

    async def discard(self) -> None:
        """See `Staged.discard`."""
        self._discarded = True
        if not self._published:
            await asyncio.wait({self._writing})
            if not self._writing.cancelled():
                self._writing.exception()  # it was reported, or is of no interest
            await anyio.to_thread.run_sync(_remove, self._partial)

    async def _write(self) -> None:
        async for pieces in batches(self._content):
            await anyio.to_thread.run_sync(append, self._directory, self._partial, pieces)
            if self._discarded:
                return


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()
