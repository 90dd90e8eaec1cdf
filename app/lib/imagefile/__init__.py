"""Read type and pixel size of an image file from its header, without decoding pixels.

File names and declared types are ignored. `read_header` is enough for images from Gemini. For uploads, `find_end` also
checks that the file is complete and holds a still image, and returns where the image ends. Phones append videos and
further images to a file. Metadata (EXIF, C2PA) is neither read nor changed.
"""

from dataclasses import dataclass

from app.lib.base64_json import Buffer, Content
from app.lib.imagefile import heif, jpeg, png, webp
from app.lib.imagefile.reading import TruncatedImage, UnreadableImage
from app.lib.imagefile.unsupported import describe

__all__ = [
    "MIME_TYPES",
    "ImageHeader",
    "UnreadableImage",
    "find_end",
    "is_top_down",
    "read_content_header",
    "read_header",
]

MIME_TYPES = ("image/png", "image/jpeg", "image/webp", "image/heic", "image/heif")
"""The types that `read_header` recognises. Gemini accepts all of them."""

_FORMATS = (png, jpeg, webp, heif)

_FIRST_READ_BYTES = 32 * 1024
"""Bytes that usually hold the pixel size. Metadata before it can take megabytes."""


@dataclass(frozen=True, slots=True)
class ImageHeader:
    mime_type: str
    width: int
    height: int

    @property
    def pixels(self) -> int:
        return self.width * self.height


def read_header(data: Buffer) -> ImageHeader:
    """Return type and pixel size of an image.

    Raises:
        UnreadableImage: the bytes are not PNG, JPEG, WebP, HEIC or HEIF, or end before the pixel size.
    """
    for format_ in _FORMATS:
        mime_type = format_.recognise(data)
        if mime_type is not None:
            width, height = format_.read_size(data)
            if width < 1 or height < 1:
                raise UnreadableImage("its header says that it has no pixels")
            return ImageHeader(mime_type, width, height)
    raise UnreadableImage(describe(data))


def read_content_header(content: Content) -> ImageHeader:
    """Return type and pixel size of content, and read no more of it than necessary.

    Raises:
        UnreadableImage: as for `read_header`.
    """
    count = _FIRST_READ_BYTES
    while True:
        try:
            return read_header(content.head(count))
        except TruncatedImage:
            if count >= len(content):
                raise
        count *= 16


def is_top_down(data: Buffer) -> bool:
    """Return whether a PNG, JPEG or WebP can be decoded line by line.

    Args:
        data: the beginning of the file. If it is too short to tell, the answer is no.
    """
    format_ = next((one for one in (png, jpeg, webp) if one.recognise(data) is not None), None)
    try:
        return format_ is not None and format_.is_top_down(data)
    except UnreadableImage:
        return False


def find_end(data: Buffer) -> int:
    """Check the structure of a file that `read_header` has recognised, and find where the image ends.

    Returns:
        The length of the image in bytes. Bytes after it are not part of the image.

    Raises:
        UnreadableImage: the image is cut off or animated.
    """
    for format_ in _FORMATS:
        if format_.recognise(data) is not None:
            end: int = format_.find_end(data)
            return end
    raise UnreadableImage(describe(data))
