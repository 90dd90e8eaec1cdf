"""Stored images as files over HTTP: they never change, so they may be cached for ever, asked for by their ETag, and in
part."""

import re
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Protocol

from fastapi import Request

from app.api.http.response_writer import WriteOptions
from app.api.http.storage_response import StorageResponse
from app.api.http.streaming import EXTENSIONS
from app.domain.errors import RangeNotSatisfiable
from app.domain.generation import Image

HELD_BYTES = 1024 * 1024
"""What a reader takes in memory, whatever the file: a piece that was read, and one that is being sent."""


class SeekableContent(Protocol):
    """Content that can be read from anywhere in it."""

    @property
    def digest(self) -> str: ...

    def __len__(self) -> int: ...

    def between(self, start: int, stop: int) -> AsyncIterator[bytes]: ...


class ImageFileResponse(StorageResponse):
    """A stored image, whole or the range that was asked for."""

    def __init__(self, image: Image, file: SeekableContent, name: str, request: Request, options: WriteOptions) -> None:
        """
        Args:
            image: what it is.
            file: where its bytes are.
            name: what a browser may call it, without its extension.
            request: the caller's.
            options: how to send.

        Raises:
            RangeNotSatisfiable: it has no such range.
        """
        size, etag, headers = len(file), f'"{file.digest}"', request.headers
        status, span, told = 200, (0, size), {}
        whole = request.method == "HEAD" or headers.get("if-range", etag) != etag
        unchanged = _names(headers.get("if-none-match"), etag)
        if not unchanged and not whole and (part := _range(headers.get("range"), size)) is not None:
            status, span = 206, part
            told = {"Content-Range": f"bytes {span[0]}-{span[1] - 1}/{size}"}
        super().__init__(
            _none() if unchanged or request.method == "HEAD" else file.between(*span),
            HELD_BYTES,
            image.mime_type,
            {
                "ETag": etag,
                "Cache-Control": "private, max-age=31536000, immutable",
                "Accept-Ranges": "bytes",
                "Content-Disposition": f'inline; filename="{name}.{EXTENSIONS[image.mime_type]}"',
                "Content-Length": str(span[1] - span[0]),
                **told,
            },
            request,
            options,
        )
        self.status_code = status
        if unchanged:
            self.status_code = 304
            del self.headers["Content-Length"], self.headers["Content-Type"]


async def _none() -> AsyncGenerator[bytes]:
    return
    yield


def _names(header: str | None, etag: str) -> bool:
    """Whether an `If-None-Match` names the tag; weak ones count as well there (RFC 9110, 13.1.2)."""
    if header is None:
        return False
    return header.strip() == "*" or etag in (one.strip().removeprefix("W/") for one in header.split(","))


def _range(header: str | None, size: int) -> tuple[int, int] | None:
    """First byte and the one behind the last. Headers that make no sense, or ask for several ranges, count as none.

    Raises:
        RangeNotSatisfiable: the file ends before.
    """
    asked = re.fullmatch(r"\s*+bytes\s*+=\s*+(\d{0,18})\s*+-\s*+(\d{0,18})\s*+", header or "", re.IGNORECASE)
    if asked is None or not (asked[1] or asked[2]):
        return None
    if not asked[1]:
        start, stop = max(0, size - int(asked[2])), size
    else:
        start, stop = int(asked[1]), min(size, int(asked[2]) + 1 if asked[2] else size)
        if asked[2] and int(asked[2]) < start:
            return None
    if start >= size or stop <= start:
        raise RangeNotSatisfiable(f"The file has {size:,} bytes.", size=size)
    return start, stop
