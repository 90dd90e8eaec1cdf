"""Stored images as files over HTTP: they never change, so they may be cached for ever, asked for by their ETag, and in
part."""

import re
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Protocol

from fastapi import Response
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from app.api.answers import EXTENSIONS
from app.api.sending import Sender, Sending
from app.domain import Image
from app.errors import CallerLeft, RangeNotSatisfiable, SlowReader


class Stored(Protocol):
    """Content that can be read from anywhere in it."""

    digest: str

    def __len__(self) -> int: ...

    def between(self, start: int, stop: int) -> AsyncIterator[bytes]: ...


class StoredImage(Response):
    """A stored image, whole or the range that was asked for."""

    def __init__(self, image: Image, file: Stored, name: str, headers: Headers, sending: Sending) -> None:
        """
        Args:
            image: what it is.
            file: where its bytes are.
            name: what a browser may call it, without its extension.
            headers: of the request.
            sending: how to send.

        Raises:
            RangeNotSatisfiable: it has no such range.
        """
        size, etag = len(file), f'"{file.digest}"'
        self._sending = sending
        self._span: tuple[int, int] | None = (0, size)
        self._file = file
        super().__init__(
            None,
            media_type=image.mime_type,
            headers={
                "ETag": etag,
                "Cache-Control": "private, max-age=31536000, immutable",
                "Accept-Ranges": "bytes",
                "Content-Disposition": f'inline; filename="{name}.{EXTENSIONS[image.mime_type]}"',
            },
        )
        if _names(headers.get("if-none-match"), etag):
            self.status_code, self._span = 304, None
            del self.headers["Content-Length"], self.headers["Content-Type"]
            return
        if headers.get("if-range", etag) == etag and (span := _range(headers.get("range"), size)) is not None:
            self.status_code, self._span = 206, span
            self.headers["Content-Range"] = f"bytes {span[0]}-{span[1] - 1}/{size}"
        start, stop = self._span
        self.headers["Content-Length"] = str(stop - start)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sender = Sender(scope, send, self._sending)
        pieces = _none() if self._span is None or scope["method"] == "HEAD" else self._file.between(*self._span)
        first = await anext(pieces, b"")  # whatever is wrong with the file is found out before the answer begins
        try:
            await sender.start(self.status_code, self.raw_headers)
            if first:
                await sender.send_all(_with(first, pieces), receive)
            await sender.end()
        except (CallerLeft, SlowReader) as error:
            self._sending.failed(error)


async def _none() -> AsyncGenerator[bytes]:
    return
    yield


async def _with(first: bytes, rest: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    yield first
    async for piece in rest:
        yield piece


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
    asked = re.fullmatch(r"\s*bytes\s*=\s*(\d{0,18})\s*-\s*(\d{0,18})\s*", header or "", re.IGNORECASE)
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
