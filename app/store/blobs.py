"""The blob store: files by the SHA-256 of their bytes, in a directory or in a bucket."""

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

import anyio.to_thread
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, from_url

from app.domain.errors import StorageDamaged, StorageFull, StorageUnavailable
from app.lib.base64_json import Content
from app.lib.base64_json.content import PIECE_BYTES
from app.store.errors import RETRY_AFTER_SECONDS, as_storage_errors, storage_error
from app.store.permissions import close_to_others, is_open_to_others, make_private_folder

RANGE_BYTES = 4 * PIECE_BYTES
"""What is read at once, 768 KiB: a multiple of three, as pieces have to be."""

_AT_ONCE_BYTES = 8 * 1024 * 1024
"""Up to this size a file goes into a bucket in one request; in parts it takes three."""

_LEAST_FREE_BYTES = 8 * 1024 * 1024
"""With less than that on the disk nothing new is begun: an answer and its signatures take about as much."""

_WORTH_A_THREAD_BYTES = 128 * 1024
"""Hashing that much takes about as long as a visit to a thread, a tenth of a millisecond."""

_TRUST_SECONDS = 30.0
"""How long a store that has taken a file is believed to take another one."""

_DOUBT_SECONDS = 5.0
"""How long a store that has failed is asked whether it has lost a file, while a caller waits to hear of the failure."""

_UNFINISHED_SECONDS = 3600
"""After that a file that was being written is being written by nobody."""

_MISSING = "An image of this chat is missing from the store of images."

_REMOTE = {"s3", "s3a", "gs", "az", "azure", "abfs", "abfss", "adl"}


@dataclass(frozen=True, slots=True)
class Blob:
    """A stored file. As `Content` it comes from the store each time, in pieces; nothing of it stays in memory."""

    name: str
    """The SHA-256 of its bytes; with a suffix, if the file of that name was being removed when it was needed anew."""
    size: int
    store: "BlobStore" = field(compare=False, repr=False)
    is_remote: ClassVar[bool] = True

    def __len__(self) -> int:
        return self.size

    @property
    def digest(self) -> str:
        return self.name[:64]

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self.between(0, self.size)

    def head(self, count: int) -> bytes:
        raise NotImplementedError("A stored image is measured before it is stored.")

    async def between(self, start: int, stop: int) -> AsyncIterator[bytes]:
        """The bytes from `start` to before `stop`, in pieces.

        Of a whole file the digest is checked before the last piece is handed out: a reader who counts bytes never
        takes a damaged file for a whole one.

        Raises:
            StorageDamaged: it is not what was stored, or not there any more.
            StorageUnavailable: the store does not answer.
        """
        hasher = hashlib.sha256() if (start, stop) == (0, self.size) else None
        for begin in range(start, stop, RANGE_BYTES):
            end = min(begin + RANGE_BYTES, stop)
            piece = await self.store.read(self, begin, end)
            if hasher is not None:
                await _update(hasher, piece)
                if end == stop and hasher.hexdigest() != self.digest:
                    raise self.store.damage(self)
            yield piece


class BlobStore:
    def __init__(self, url: str | None, directory: Path) -> None:
        """
        Args:
            url: where it is: `file:///…`, `s3://bucket/prefix`, `gs://…` or `az://…`. Without one it is a folder in
                `directory`.
            directory: made if need be.

        Raises:
            StorageUnavailable: there can be no such store.
        """
        self._directory = _directory_of(url, directory)
        with as_storage_errors("blobs"):
            if self._directory is not None:
                _make_private(self._directory)
                _sync(self._directory.parent)
            self._store: ObjectStore = LocalStore(self._directory) if self._directory else _remote(url or "")
        self._took_one_at = -_TRUST_SECONDS
        self._durable_folders: set[Path] = set()
        self._damaged: set[str] = set()

    def blob(self, name: str, size: int) -> Blob:
        return Blob(name, size, self)

    async def require_writable(self) -> None:
        """Find out whether the store takes files, before any money is spent on one.

        Raises:
            StorageUnavailable, StorageFull: it does not.
        """
        if self._directory is not None and await anyio.to_thread.run_sync(self._free_bytes) < _LEAST_FREE_BYTES:
            detail = "The store of images is full; nothing more can be kept."
            raise StorageFull(detail, part="blobs", retry_after=RETRY_AFTER_SECONDS)
        if time.monotonic() - self._took_one_at < _TRUST_SECONDS:
            return
        with as_storage_errors("blobs"):
            await self._probe()
        self._took_one_at = time.monotonic()

    async def put(self, name: str, content: Content) -> None:
        """Store the content. Once this returns, it is durable.

        Raises:
            StorageUnavailable, StorageFull: it is not.
        """
        try:
            with as_storage_errors("blobs"):
                if len(content) <= _AT_ONCE_BYTES:
                    whole = b"".join([piece async for piece in content])
                    await self._store.put_async(_path(name), whole, use_multipart=False)
                else:
                    await self._store.put_async(_path(name), aiter(content), use_multipart=True)
            await self.fsync(name)
        except (StorageUnavailable, StorageFull):
            self._took_one_at = -_TRUST_SECONDS
            raise
        self._damaged.discard(name)
        self._took_one_at = time.monotonic()

    async def fsync(self, name: str) -> None:
        """Return once a file that is there is durable. (What a bucket has, is.)"""
        if self._directory is not None:
            with as_storage_errors("blobs"):
                await anyio.to_thread.run_sync(self._make_durable, self._directory / _path(name))

    async def has(self, name: str, size: int) -> bool:
        """Whether there is such a file, of that size, and not known to be damaged."""
        if name in self._damaged:
            return False
        with as_storage_errors("blobs"):
            try:
                found = await self._store.head_async(_path(name))
            except FileNotFoundError:
                return False
            return found["size"] == size

    async def read(self, blob: Blob, start: int, stop: int) -> bytes:
        """The bytes of a blob from `start` to before `stop`.

        Raises:
            StorageDamaged: it is not there any more, or shorter than it was.
            StorageUnavailable: the store does not answer.
        """
        try:
            read = bytes(await self._store.get_range_async(_path(blob.name), start=start, end=stop))
        except (BaseError, OSError, ValueError) as error:
            if await self._is_damaged(blob):
                raise _damaged(blob) from error
            raise storage_error("blobs", error) from error
        if len(read) != stop - start:
            raise _damaged(blob)
        return read

    def damage(self, blob: Blob) -> StorageDamaged:
        """The error of a blob whose bytes have changed. It is written anew when somebody stores the same bytes."""
        self._damaged.add(blob.name)
        return _damaged(blob, f"blob {blob.name} has another digest", "An image of this chat was changed in the store.")

    async def _is_damaged(self, blob: Blob) -> bool:
        """Stores have many words for what a file does not have, and for a file that they do not; and a bucket that is
        gone has none of them."""
        try:
            async with asyncio.timeout(_DOUBT_SECONDS):
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
        """Remove files; those that are not there are no trouble."""
        with as_storage_errors("blobs"):
            try:
                await self._store.delete_async([_path(name) for name in names])
            except FileNotFoundError:  # some stores mind; then each for itself
                for name in names:
                    with suppress(FileNotFoundError):
                        await self._store.delete_async(_path(name))

    async def remove_partial_files(self) -> int:
        """Remove what writers have left unfinished; how many files that was. (Buckets do so by a lifecycle rule.)"""
        if self._directory is None:
            return 0
        with as_storage_errors("blobs"):
            return await anyio.to_thread.run_sync(_remove_unfinished, self._directory)

    def _make_durable(self, path: Path) -> None:
        """A file that was renamed into place survives a power cut once it and the folder that names it are on the disk;
        a new folder, once its own is."""
        folder = path.parent
        close_to_others([path, folder])  # the library makes both as the umask says
        for one in (path, folder, *(() if folder in self._durable_folders else (folder.parent,))):
            _sync(one)
        self._durable_folders.add(folder)

    def _free_bytes(self) -> int:
        assert self._directory is not None
        with as_storage_errors("blobs"):
            found = os.statvfs(self._directory)
        return found.f_bavail * found.f_frsize


async def digest_of(content: Content) -> str:
    """SHA-256 in hexadecimal."""
    hasher = hashlib.sha256()
    async for piece in content:
        await _update(hasher, piece)
    return hasher.hexdigest()


async def _update(hasher: "hashlib._Hash", piece: bytes) -> None:
    """Hash a piece; a large one off the event loop."""
    if len(piece) > _WORTH_A_THREAD_BYTES:
        await anyio.to_thread.run_sync(hasher.update, piece)
    else:
        hasher.update(piece)


def _path(name: str) -> str:
    return f"{name[:2]}/{name}"


def _damaged(blob: Blob, cause: str | None = None, detail: str = _MISSING) -> StorageDamaged:
    damaged = StorageDamaged(detail, part="blobs", cause=cause or f"no blob {blob.name}")
    damaged.lost = blob
    return damaged


def folder_of(url: str) -> Path | None:
    """The folder that `url` names; None if it names a bucket.

    Raises:
        StorageUnavailable: it names neither, or a bucket's settings in the environment do not go together.
    """
    folder = _directory_of(url, Path())
    if folder is None:
        try:
            _remote(url)
        except (BaseError, ValueError) as error:
            why = str(error).partition("\n")[0]
            raise StorageUnavailable("BLOB_URL names no bucket that can be used.", part="blobs", cause=why) from error
    return folder


def _directory_of(url: str | None, directory: Path) -> Path | None:
    if url is None:
        return (directory / "blobs").absolute()
    try:
        parts = urlsplit(url)
    except ValueError:
        raise StorageUnavailable("BLOB_URL is no URL.", part="blobs", cause="not a URL") from None
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return Path(unquote(parts.path))
    if parts.scheme not in _REMOTE:
        raise StorageUnavailable(
            "BLOB_URL is none of file:///…, s3://…, gs://… and az://….", part="blobs", cause=parts.scheme or "no scheme"
        )
    return None


def _remote(url: str) -> ObjectStore:
    """Credentials, region and endpoint come from the environment, by the names that each cloud's own tools read."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    open_: Any = from_url  # its overloads go by the kind of store, which is not known before the URL is
    store: ObjectStore = open_(
        url,
        client_options={
            "timeout": "30s",
            "connect_timeout": "3s",
            "allow_http": url.startswith("s3") and endpoint.startswith("http://"),
        },
        retry_config={"max_retries": 2, "retry_timeout": timedelta(seconds=10)},
    )
    return store


def _make_private(directory: Path) -> None:
    """Make the folder of a store, so that only this user may read what is in it.

    If the folder was open to other users, so are the files in it, which an earlier version wrote; they are closed.

    Raises:
        OSError: there can be no such folder.
    """
    was_open = directory.is_dir() and is_open_to_others(directory)
    make_private_folder(directory)
    if was_open:
        close_to_others([*directory.glob("[0-9a-f][0-9a-f]"), *directory.glob("[0-9a-f][0-9a-f]/*")])


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_unfinished(directory: Path) -> int:
    """The store writes `name#1` and renames it when it is whole."""
    removed = 0
    for path in directory.glob("*/*#*"):
        try:
            if time.time() - path.stat().st_mtime > _UNFINISHED_SECONDS:
                path.unlink()
                removed += 1
        except FileNotFoundError:
            continue
    return removed
