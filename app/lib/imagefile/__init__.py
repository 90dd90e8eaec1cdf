"""What an image file says of itself: its type and pixel size, read from the header, nothing decoded.

Names and claimed types are not consulted. `read_header` is for bytes that come from Gemini; `find_end` adds what an
upload has to show: that the file is complete and holds a still image. It tells where that image ends: phones append
films and further pictures, others append whatever they like.
Metadata (EXIF, C2PA) is neither looked at nor touched.
"""

from dataclasses import dataclass

from app.lib.base64_json import Buffer, Content
from app.lib.imagefile import heif, jpeg, png, webp
from app.lib.imagefile.reading import TruncatedImage, UnreadableImage
from app.lib.imagefile.unsupported import describe

__all__ = ["MIME_TYPES", "ImageHeader", "UnreadableImage", "find_end", "read_content_header", "read_header"]

MIME_TYPES = ("image/png", "image/jpeg", "image/webp", "image/heic", "image/heif")
"""What `read_header` can find, and what Gemini takes."""

_FORMATS = (png, jpeg, webp, heif)

_USUALLY_ENOUGH_BYTES = 32 * 1024
"""A header begins the file, but metadata before the pixel size can take megabytes."""


@dataclass(frozen=True, slots=True)
class ImageHeader:
    mime_type: str
    width: int
    height: int

    @property
    def pixels(self) -> int:
        return self.width * self.height


def read_header(data: Buffer) -> ImageHeader:
    """Recognise the format by its bytes and read the pixel size.

    Raises:
        UnreadableImage: the bytes are not PNG, JPEG, WebP, HEIC or HEIF, or end before the size is known.
    """
    for format_ in _FORMATS:
        mime_type = format_.recognise(data)
        if mime_type is not None:
            width, height = format_.read_size(data)
            if width < 1 or height < 1:
                raise UnreadableImage("it claims to have no pixels")
            return ImageHeader(mime_type, width, height)
    raise UnreadableImage(describe(data))


def read_content_header(content: Content) -> ImageHeader:
    """The same for content in pieces, of which no more is looked at than it takes.

    Raises:
        UnreadableImage: as `read_header`.
    """
    looked_at = _USUALLY_ENOUGH_BYTES
    while True:
        try:
            return read_header(content.head(looked_at))
        except TruncatedImage:
            if looked_at >= len(content):
                raise
        looked_at *= 16


def find_end(data: Buffer) -> int:
    """Walk the structure of a file that `read_header` has recognised, from its first byte to the end of the image.

    Returns:
        The length of the image in bytes. Whatever stands behind it is not part of it.

    Raises:
        UnreadableImage: the image is cut off, or animated.
    """
    for format_ in _FORMATS:
        if format_.recognise(data) is not None:
            end: int = format_.find_end(data)
            return end
    raise UnreadableImage(describe(data))
