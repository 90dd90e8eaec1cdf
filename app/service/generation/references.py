"""Taking reference images in: only whole, still images of the five types Gemini takes, within the limits.

A file is judged by its own bytes; what its name or sender claims is not even looked at. The image's bytes go on to
Gemini as they came, EXIF included. What stands behind the end of the image stays here, and the caller is told.
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
    """Bytes that somebody calls an image; `where` is what to call them in a problem."""

    data: Buffer
    where: str
    role: Role | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class ReferenceValidator:
    """The intake, with the limits of this service."""

    max_bytes: int
    max_total_bytes: int
    max_pixels: int

    async def validate(self, uploads: list[Upload]) -> tuple[Reference, ...]:
        """Check the uploads and make references of them.

        Raises:
            TooLarge: one of them, or all together, in bytes or in pixels.
            UnsupportedImage: one of them is not PNG, JPEG, WebP, HEIC or HEIF, or animated, or cut off.
        """
        if sum(len(upload.data) for upload in uploads) > self.max_total_bytes:
            raise TooLarge(f"The reference images may have {_size(self.max_total_bytes)} together.")
        if not uploads:
            return ()
        # Walking through megabytes takes a moment that other callers should not wait for.
        return await anyio.to_thread.run_sync(lambda: tuple(map(self._reference, uploads)))

    def _reference(self, upload: Upload) -> Reference:
        if len(upload.data) > self.max_bytes:
            raise TooLarge(f"{upload.where} may have {_size(self.max_bytes)}.")
        try:
            header = read_header(upload.data)
            if header.pixels > self.max_pixels:
                raise TooLarge(
                    f"{upload.where} has {header.width}×{header.height} pixels; {self.max_pixels:,} are the most."
                )
            end = find_end(upload.data)
        except UnreadableImage as error:
            detail = f"{upload.where} cannot be used: {error}. Send a still PNG, JPEG, WebP, HEIC or HEIF."
            raise UnsupportedImage(detail) from error
        image = Image(BufferContent(upload.data, end), header.mime_type, header.width, header.height)
        behind = len(upload.data) - end
        warning = f"{upload.where}: {behind:,} bytes behind the end of the image were not sent." if behind else None
        return Reference(image, upload.role, upload.name, warning)


def _size(count: int) -> str:
    return f"{count / MIB:g} MiB" if count >= MIB else f"{count:,} bytes"
