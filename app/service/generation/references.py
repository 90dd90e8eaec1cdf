"""Validate reference images: complete, still images of the five types that Gemini accepts, within the limits.

The type is read from the file's own bytes; its name and declared type are ignored. Gemini gets the image's bytes
unchanged, EXIF included. Bytes after the end of the image are not sent, and a warning tells the caller.
"""

from dataclasses import dataclass

import anyio.to_thread

from app.domain.errors import TooLarge, UnsupportedImage
from app.domain.generation import Image, Reference, Role
from app.lib.base64_json import Buffer, BufferContent
from app.lib.imagefile import UnreadableImage, find_end, read_header

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Upload:
    """An uploaded file that has not been checked yet."""

    data: Buffer
    field: str
    """Its field as the caller named it, for error messages."""
    role: Role | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class ReferenceValidator:
    """The limits for reference images."""

    max_bytes: int
    max_total_bytes: int
    max_pixels: int

    async def validate(self, uploads: list[Upload]) -> tuple[Reference, ...]:
        """Check the uploads and return them as references.

        Raises:
            TooLarge: one upload, or all together, exceed a limit for bytes or pixels.
            UnsupportedImage: an upload is animated, cut off, or not PNG, JPEG, WebP, HEIC or HEIF.
        """
        if sum(len(upload.data) for upload in uploads) > self.max_total_bytes:
            raise TooLarge(f"The reference images may have {_size(self.max_total_bytes)} together.")
        if not uploads:
            return ()
        # In a thread: reading megabytes would block the event loop.
        return await anyio.to_thread.run_sync(lambda: tuple(map(self._reference, uploads)))

    def _reference(self, upload: Upload) -> Reference:
        if len(upload.data) > self.max_bytes:
            raise TooLarge(f"{upload.field} may have {_size(self.max_bytes)}.")
        try:
            header = read_header(upload.data)
            if header.pixels > self.max_pixels:
                size = f"{header.width}×{header.height}"
                raise TooLarge(f"{upload.field} has {size} pixels; the limit is {self.max_pixels:,}.")
            end = find_end(upload.data)
        except UnreadableImage as error:
            detail = f"{upload.field} cannot be used: {error}. Send a still PNG, JPEG, WebP, HEIC or HEIF."
            raise UnsupportedImage(detail) from error
        image = Image(BufferContent(upload.data, end), header.mime_type, header.width, header.height)
        extra = len(upload.data) - end
        warning = f"{upload.field}: {extra:,} bytes after the end of the image were not sent." if extra else None
        return Reference(image, upload.role, upload.name, warning)


def _size(count: int) -> str:
    return f"{count / MIB:g} MiB" if count >= MIB else f"{count:,} bytes"
