"""What an image file says of itself: its type and pixel size, read from the header, nothing decoded.

Names and claimed types are not consulted. `read_header` is for bytes that come from Gemini; `require_whole_still` adds
what an upload has to show: that the file is complete, holds one still image, and nothing rides behind it.
Metadata (EXIF, C2PA) is neither looked at nor touched.
"""

from dataclasses import dataclass

from app.imagefile import heif, jpeg, png, webp
from app.imagefile.reading import UnreadableImage
from app.lifting import Content, Data

__all__ = ["MIME_TYPES", "ImageHeader", "UnreadableImage", "read_content_header", "read_header", "require_whole_still"]

MIME_TYPES = ("image/png", "image/jpeg", "image/webp", "image/heic", "image/heif")
"""What `read_header` can find, and what Gemini takes."""

_FORMATS = (png, jpeg, webp, heif)

_USUALLY_ENOUGH_BYTES = 32 * 1024
"""A header begins the file, but metadata before the pixel size can take megabytes."""

_STRANGERS = (
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"%PDF", "PDF"),
    (b"\x00\x00\x01\x00", "an icon file"),
)


@dataclass(frozen=True, slots=True)
class ImageHeader:
    mime_type: str
    width: int
    height: int

    @property
    def pixels(self) -> int:
        return self.width * self.height


def read_header(data: Data) -> ImageHeader:
    """Recognise the format by its bytes and read the pixel size.

    Raises:
        UnreadableImage: the bytes are not PNG, JPEG, WebP, HEIC or HEIF, or end before the size is known.
    """
    for format_ in _FORMATS:
        mime_type = format_.recognise(data)
        if mime_type is not None:
            width, height = format_.measure(data)
            if width < 1 or height < 1:
                raise UnreadableImage("it claims to have no pixels")
            return ImageHeader(mime_type, width, height)
    raise UnreadableImage(_describe(data))


def read_content_header(content: Content) -> ImageHeader:
    """The same for content in pieces, of which no more is looked at than it takes.

    Raises:
        UnreadableImage: as `read_header`.
    """
    looked_at = _USUALLY_ENOUGH_BYTES
    while True:
        try:
            return read_header(content.head(looked_at))
        except UnreadableImage:
            if looked_at >= len(content):
                raise
        looked_at *= 16


def require_whole_still(data: Data) -> None:
    """Walk the structure of a file that `read_header` has recognised, from its first byte to its last.

    Raises:
        UnreadableImage: the file is cut off, is animated, or something else is appended to it.
    """
    for format_ in _FORMATS:
        if format_.recognise(data) is not None:
            format_.require_whole_still(data)
            return
    raise UnreadableImage(_describe(data))


def _describe(data: Data) -> str:
    start = bytes(data[:512])
    if not start:
        return "it is empty"
    for signature, name in _STRANGERS:
        if start.startswith(signature):
            return f"it is {name}"
    if b"<svg" in start.lower():
        return "it is SVG"
    return "its first bytes are those of no supported format"
