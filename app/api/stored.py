"""Stored images as files over HTTP: they never change, so they may be cached for ever, asked for by their ETag, and in
part."""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Protocol

from fastapi import Request, Response
from starlette.types import Receive, Scope, Send

from app.api.answers import EXTENSIONS
from app.api.sending import Sender, Sending
from app.domain import Image
from app.errors import CallerLeft, Overloaded, RangeNotSatisfiable, SlowReader
from app.room import Room, Share

HELD_BYTES = 1024 * 1024
"""What a reader takes in memory, whatever the file: a piece that was read, and one that is being sent."""


class Stored(Protocol):
    """Content that can be read from anywhere in it."""

    @property
    def digest(self) -> str: ...

    def __len__(self) -> int: ...

    def between(self, start: int, stop: int) -> AsyncIterator[bytes]: ...


class StoredImage(Response):
    """A stored image, whole or the range that was asked for."""

    def __init__(self, image: Image, file: Stored, name: str, request: Request, sending: Sending) -> None:
        """
        Args:
            image: what it is.
            file: where its bytes are.
            name: what a browser may call it, without its extension.
            request: the caller's.
            sending: how to send.

        Raises:
            RangeNotSatisfiable: it has no such range.
        """
        size, etag, headers = len(file), f'"{file.digest}"', request.headers
        room: Room = request.state.room
        self._share = Share(room)
        self._patience = request.state.settings.queue_timeout_seconds
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
        whole = request.method == "HEAD" or headers.get("if-range", etag) != etag
        if not whole and (span := _range(headers.get("range"), size)) is not None:
            self.status_code, self._span = 206, span
            self.headers["Content-Range"] = f"bytes {span[0]}-{span[1] - 1}/{size}"
        start, stop = self._span
        self.headers["Content-Length"] = str(stop - start)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sender = Sender(scope, send, self._sending)
        pieces = _none() if self._span is None or scope["method"] == "HEAD" else self._file.between(*self._span)
        try:
            async with asyncio.timeout(self._patience):
                await self._share.take(HELD_BYTES)
        except TimeoutError as error:
            raise Overloaded("Other answers take all the room there is.", retry_after=10) from error
        try:
            first = await anext(pieces, b"")  # whatever is wrong with the file is found out before the answer begins
            await sender.start(self.status_code, self.raw_headers)
            if first:
                await sender.send_all(_with(first, pieces), receive)
            await sender.end()
        except (CallerLeft, SlowReader) as error:
            self._sending.failed(error)
        finally:
            self._share.become(0)


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
