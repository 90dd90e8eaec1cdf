"""Stored images as files over HTTP. They never change, so they can be cached without limit."""

import re
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Protocol, cast

from fastapi import Request

from app.api.http.storage_response import StorageResponse
from app.api.http.streaming import EXTENSIONS
from app.domain.errors import RangeNotSatisfiable
from app.domain.generation import Image

IMMUTABLE = "private, max-age=31536000, immutable"

HELD_BYTES = 1024 * 1024
"""Memory that sending a file takes: one piece that was read, and one that is being sent."""


class SeekableContent(Protocol):
    """Content that can be read from any position."""

    @property
    def digest(self) -> str: ...

    def __len__(self) -> int: ...

    def between(self, start: int, stop: int) -> AsyncIterator[bytes]: ...


class ImageFileResponse(StorageResponse):
    """A stored image: the complete file, the requested range, or 304."""

    def __init__(self, image: Image, name: str, request: Request) -> None:
        """
        Args:
            image: an image whose content is in the store.
            name: file name for browsers, without extension.
            request: of the caller; its conditional headers and `Range` apply.

        Raises:
            RangeNotSatisfiable: the file does not have the requested range.
        """
        file = cast("SeekableContent", image.content)
        size, etag, headers = len(file), f'"{file.digest}"', request.headers
        status, span, range_headers = 200, (0, size), {}
        ignores_range = request.method == "HEAD" or headers.get("if-range", etag) != etag
        unchanged = matches(headers.get("if-none-match"), etag)
        if not unchanged and not ignores_range and (part := _range(headers.get("range"), size)) is not None:
            status, span = 206, part
            range_headers = {"Content-Range": f"bytes {span[0]}-{span[1] - 1}/{size}"}
        super().__init__(
            no_pieces() if unchanged or request.method == "HEAD" else file.between(*span),
            HELD_BYTES,
            image.mime_type,
            {
                "ETag": etag,
                "Cache-Control": IMMUTABLE,
                "Accept-Ranges": "bytes",
                "Content-Disposition": f'inline; filename="{name}.{EXTENSIONS[image.mime_type]}"',
                "Content-Length": str(span[1] - span[0]),
                **range_headers,
            },
        )
        self.status_code = status
        if unchanged:
            self.status_code = 304
            del self.headers["Content-Length"], self.headers["Content-Type"]


async def no_pieces() -> AsyncGenerator[bytes]:
    return
    yield


def matches(header: str | None, etag: str) -> bool:
    """Return whether `If-None-Match` has the tag. Weak tags match too (RFC 9110, section 13.1.2)."""
    if header is None:
        return False
    return header.strip() == "*" or etag in (one.strip().removeprefix("W/") for one in header.split(","))


def _range(header: str | None, size: int) -> tuple[int, int] | None:
    """Return the start and the end of a `Range`; the end is exclusive. Invalid headers and several ranges are ignored.

    Raises:
        RangeNotSatisfiable: the range starts after the end of the file.
    """
    range_ = re.fullmatch(r"\s*+bytes\s*+=\s*+(\d{0,18})\s*+-\s*+(\d{0,18})\s*+", header or "", re.IGNORECASE)
    if range_ is None or not (range_[1] or range_[2]):
        return None
    if not range_[1]:
        start, stop = max(0, size - int(range_[2])), size
    else:
        start, stop = int(range_[1]), min(size, int(range_[2]) + 1 if range_[2] else size)
        if range_[2] and int(range_[2]) < start:
            return None
    if start >= size or stop <= start:
        raise RangeNotSatisfiable(f"The file has {size:,} bytes.", size=size)
    return start, stop
