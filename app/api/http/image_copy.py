"""Stored images over HTTP, and smaller copies of them, which are made for each request. Both can be cached for ever."""

import asyncio
from typing import Annotated, cast

from fastapi import Query, Request, Response
from starlette.types import Receive

from app.api.http.image_file import IMMUTABLE, ImageFileResponse, SeekableContent, matches, no_pieces
from app.api.http.problem_responses import Responses
from app.api.http.response_writer import ResponseWriter, while_connected
from app.api.http.state import request_state
from app.api.http.storage_response import StorageResponse
from app.api.http.streaming import EXTENSIONS
from app.domain.errors import FieldError, InvalidRequest, Overloaded
from app.domain.generation import Image
from app.lib.byte_budget import Reservation
from app.service.conversion import CONVERTIBLE_TYPES, ConversionFailed, Target

HELD_BYTES = 1024 * 1024
"""Memory that a response takes besides the conversion and its result, which are counted by themselves."""

_QUALITY = 85
"""Of a copy that is a JPEG or a WebP."""

Width = Annotated[
    int | None,
    Query(
        ge=16,
        le=2048,
        description="Get a smaller copy with this width in pixels, of the same type. An image that is not wider is "
        "returned as it is. Applies to PNG, JPEG and WebP.",
    ),
]

FILE_RESPONSES: Responses = {
    200: {"description": "The file.", "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}},
    206: {"description": "The requested range."},
    304: {"description": "The caller has the file already."},
}
"""Responses of a route that returns a stored image, without its errors."""


def image_response(
    image: Image, width: int | None, name: str, request: Request, max_pixels: int | None = None
) -> Response:
    """Return the stored file, or a smaller copy if the caller asks for one that is smaller.

    Args:
        image: an image whose content is in the store.
        width: in pixels, as the caller asks for it.
        name: file name for browsers, without extension.
        request: of the caller.
        max_pixels: as in `ImageCopyResponse`.

    Raises:
        InvalidRequest: the image's type cannot be made smaller.
        RangeNotSatisfiable: the file does not have the requested range.
    """
    if width is None or width >= image.width:
        return ImageFileResponse(image, name, request)
    return ImageCopyResponse(image, width, name, request, max_pixels)


class ImageCopyResponse(StorageResponse):
    """A smaller copy of a stored image, or 304. Nothing is decoded for a 304 or a HEAD."""

    def __init__(self, image: Image, width: int, name: str, request: Request, max_pixels: int | None = None) -> None:
        """
        Args:
            image: an image whose content is in the store.
            width: of the copy in pixels; smaller than the image's.
            name: file name for browsers, without extension.
            request: of the caller; its conditional headers apply.
            max_pixels: an image with more pixels is refused. By default the limit for Gemini's images applies.

        Raises:
            InvalidRequest: the image's type cannot be made smaller.
        """
        if image.mime_type not in CONVERTIBLE_TYPES:
            raise InvalidRequest([FieldError("width", f"does not apply to {image.mime_type}")])
        etag = f'"{cast("SeekableContent", image.content).digest}-{width}"'
        unchanged = matches(request.headers.get("if-none-match"), etag)
        self._image = image
        self._target = Target(image.mime_type, _QUALITY, width)
        self._max_pixels = max_pixels
        self._state = request_state(request.scope)
        self._has_body = not unchanged and request.method != "HEAD"
        disposition = f'inline; filename="{name}-{width}.{EXTENSIONS[image.mime_type]}"'
        headers = {"ETag": etag, "Cache-Control": IMMUTABLE, "Content-Disposition": disposition}
        super().__init__(no_pieces(), HELD_BYTES, image.mime_type, headers)
        if unchanged:
            self.status_code = 304
            del self.headers["Content-Type"]

    async def _write(self, writer: ResponseWriter, receive: Receive) -> None:
        memory = self._state["converter"].reserve()
        try:
            if self._has_body:
                with self._state["memory_trimmer"].busy():
                    content = (await while_connected(self._copy(memory), receive)).content
                self.headers["Content-Length"] = str(len(content))
                self._pieces = aiter(content)
            await super()._write(writer, receive)
        finally:
            memory.resize(0)

    async def _copy(self, memory: Reservation) -> Image:
        """Make the copy.

        Raises:
            InvalidRequest: the image cannot be decoded, or has too many pixels.
            Overloaded: there was no memory or no thread for it in time.
        """
        try:
            async with asyncio.timeout(self._state["settings"].deadline_seconds):
                return await self._state["converter"].convert(
                    self._image, self._target, memory, max_pixels=self._max_pixels
                )
        except ConversionFailed as error:
            raise InvalidRequest([FieldError("width", "this image cannot be decoded to make it smaller")]) from error
        except TimeoutError as error:
            raise Overloaded("Too many images are being converted.", retry_after=10) from error
