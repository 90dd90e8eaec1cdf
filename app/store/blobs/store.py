"""The blob store: bytes under the SHA-256 of their content, in a directory or a bucket."""

import asyncio
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import anyio.to_thread
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore

from app.domain.errors import StorageDamaged, StorageFull, StorageUnavailable
from app.lib.base64_json import Content
from app.store.blobs.blob import Blob, damage
from app.store.blobs.directory import (
    ANSWERS,
    free_bytes,
    make_durable,
    make_private_directory,
    remove_partial_files,
    write,
)
from app.store.blobs.location import open_bucket, parse_directory
from app.store.blobs.staging import Staged, StagedFile, StagedUpload
from app.store.errors import RETRY_AFTER_SECONDS, as_storage_errors, storage_error
from app.store.permissions import close_to_others

_MIN_FREE_BYTES = 16 * 1024 * 1024
"""With less free disk space no generation starts. An image, which is written twice, and its signatures take about as
much."""

_WRITABLE_SECONDS = 30.0
"""After a successful write the store counts as writable for this time, without a new probe."""

_DAMAGE_CHECK_SECONDS = 5.0
"""Time limit for finding out whether a blob is lost or the store is down. The caller waits for the answer."""


class BlobStore:
    def __init__(self, url: str | None, directory: Path) -> None:
        """
        Args:
            url: `file:///…`, `s3://bucket/prefix`, `gs://…` or `az://…`; `None` means `blobs` in `directory`.
            directory: made if it does not exist.

        Raises:
            StorageUnavailable: the URL is invalid, or the directory cannot be made.
        """
        self._directory = (directory / "blobs").absolute() if url is None else parse_directory(url)
        with as_storage_errors("blobs"):
            if self._directory is not None:
                make_private_directory(self._directory)
            self._store: ObjectStore = LocalStore(self._directory) if self._directory else open_bucket(url or "")
        self._written_at = -_WRITABLE_SECONDS
        self._durable_folders: set[Path] = set()
        self._damaged: set[str] = set()

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory rather than a bucket."""
        return self._directory is not None

    def blob(self, name: str, size: int) -> Blob:
        return Blob(name, size, self)

    async def require_writable(self) -> None:
        """Check that the store accepts writes. It runs before the paid call to Gemini.

        Raises:
            StorageUnavailable, StorageFull: the store does not accept writes.
        """
        if self._directory is not None:
            with as_storage_errors("blobs"):
                free = await anyio.to_thread.run_sync(free_bytes, self._directory)
            if free < _MIN_FREE_BYTES:
                detail = "The image store is full. Nothing more can be saved."
                raise StorageFull(detail, part="blobs", retry_after=RETRY_AFTER_SECONDS)
        if time.monotonic() - self._written_at < _WRITABLE_SECONDS:
            return
        with as_storage_errors("blobs"):
            await self._probe()
        self._written_at = time.monotonic()

    async def put(self, name: str, content: Content) -> None:
        """Store the content. It is durable when this returns.

        Raises:
            StorageUnavailable, StorageFull: the content is not stored.
        """
        staged = self.stage(content)
        try:
            await self.publish(staged, name)
            await self.fsync(name)
        finally:
            await staged.discard()

    def stage(self, content: Content) -> Staged:
        """Begin to store a content whose name is not known yet. Call `publish` with the name, and then `discard`."""
        if self._directory is None:
            return StagedUpload(self._store, content)
        return StagedFile(self._directory, content)

    async def publish(self, staged: Staged, name: str) -> None:
        """Store a staged content under its name. It survives the end of this process; `fsync` makes it durable.

        Raises:
            StorageUnavailable, StorageFull: the content is not stored.
        """
        with self._writing(name):
            await staged.publish(_path(name))

    async def write(self, name: str, pieces: Iterable[bytes]) -> None:
        """Store a file in one step. Otherwise as `publish`."""
        with self._writing(name):
            if self._directory is None:
                await self._store.put_async(_path(name), b"".join(pieces), use_multipart=False)
            else:
                await anyio.to_thread.run_sync(write, self._directory, self._directory / _path(name), pieces)

    @contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        try:
            with as_storage_errors("blobs"):
                yield
        except (StorageUnavailable, StorageFull):
            self._written_at = -_WRITABLE_SECONDS
            raise
        self._damaged.discard(name)
        self._written_at = time.monotonic()

    async def fsync(self, name: str) -> None:
        """Return when an existing blob is durable. In a bucket it always is."""
        if self._directory is not None:
            with as_storage_errors("blobs"):
                await anyio.to_thread.run_sync(make_durable, self._directory / _path(name), self._durable_folders)

    async def has(self, name: str, size: int) -> bool:
        """Return whether the blob exists, has this size, and is not known to be damaged."""
        if name in self._damaged:
            return False
        with as_storage_errors("blobs"):
            try:
                found = await self._store.head_async(_path(name))
            except FileNotFoundError:
                return False
            return found["size"] == size

    async def read(self, blob: Blob, start: int, stop: int) -> bytes:
        """Return the bytes of a blob from `start` to before `stop`.

        Raises:
            StorageDamaged: the blob is missing, or shorter than it was.
            StorageUnavailable: the store does not answer.
        """
        try:
            read = bytes(await self._store.get_range_async(_path(blob.name), start=start, end=stop))
        except (BaseError, OSError, ValueError) as error:
            if await self._is_lost(blob):
                raise _missing(blob) from error
            raise storage_error("blobs", error) from error
        if len(read) != stop - start:
            raise _missing(blob)
        return read

    async def find(self, name: str) -> bytes | None:
        """Return all bytes of a small file; `None` if there is certainly no such file.

        Raises:
            StorageUnavailable: the store does not answer.
        """
        with as_storage_errors("blobs"):
            try:
                return bytes(await (await self._store.get_async(_path(name))).bytes_async())
            except FileNotFoundError:
                await self._probe()  # a missing bucket reports every file as missing
                return None

    def mark_damaged(self, blob: Blob) -> None:
        """Treat the blob as missing until the same bytes are stored again."""
        self._damaged.add(blob.name)

    async def _is_lost(self, blob: Blob) -> bool:
        """Return whether the blob is lost while the store works. Stores report both cases with many different errors,
        and a missing bucket reports every blob as missing."""
        try:
            async with asyncio.timeout(_DAMAGE_CHECK_SECONDS):
                if await self.has(blob.name, blob.size):
                    return False
                with as_storage_errors("blobs"):
                    await self._probe()
        except (StorageUnavailable, StorageFull, TimeoutError):
            return False
        return True

    async def _probe(self) -> None:
        if self._directory is not None and not await anyio.to_thread.run_sync(self._directory.is_dir):
            raise FileNotFoundError(self._directory)
        await self._store.put_async("probe", b"This store takes files.", use_multipart=False)
        if self._directory is not None:
            await anyio.to_thread.run_sync(close_to_others, [self._directory / "probe"])

    async def delete(self, names: Sequence[str]) -> None:
        """Delete blobs. A missing blob is not an error."""
        with as_storage_errors("blobs"):
            try:
                await self._store.delete_async([_path(name) for name in names])
            except FileNotFoundError:  # some stores stop at the first missing blob
                for name in names:
                    with suppress(FileNotFoundError):
                        await self._store.delete_async(_path(name))

    async def remove_partial_files(self) -> int:
        """Delete files that were never finished; return their number. In a bucket a lifecycle rule deletes them."""
        if self._directory is None:
            return 0
        with as_storage_errors("blobs"):
            return await anyio.to_thread.run_sync(remove_partial_files, self._directory)


def _path(name: str) -> str:
    """Return where a file is: a blob under the beginning of its digest, an answer with its id and place together."""
    return f"{ANSWERS}/{name}" if "." in name else f"{name[:2]}/{name}"


def _missing(blob: Blob) -> StorageDamaged:
    return damage(blob, "An image is missing from the image store.", f"no blob {blob.name}")
