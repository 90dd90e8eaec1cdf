"""Reading numbers out of bytes that may end anywhere."""

from app.lib.base64_json import Buffer

MAX_CHUNKS = 10_000
"""Chunks that are looked at in one PNG or WebP. A 30 MB PNG has about 4,000."""

MAX_SEGMENTS = 4_000
"""Segments of one JPEG, and boxes and items of one HEIF, that are looked at. Real files have hundreds."""


class UnreadableImage(ValueError):
    """The file is not an image we can pass on; the message completes the sentence "this file cannot be used: …"."""


class TruncatedImage(UnreadableImage):
    """The bytes end before the image does; with more bytes it may be readable."""


class PartCounter:
    """Bounds the work on one file, however its parts are nested."""

    def __init__(self, most: int) -> None:
        self._left = most

    def count(self) -> None:
        """Count one more part.

        Raises:
            UnreadableImage: the file has too many.
        """
        self._left -= 1
        if self._left < 0:
            raise UnreadableImage("it is made of too many parts")


def read_bytes(data: Buffer, start: int, length: int) -> bytes:
    """`length` bytes from `start`, all of them."""
    piece = data[start : start + length]
    if start < 0 or len(piece) != length:
        raise TruncatedImage("it is cut off")
    return bytes(piece)


def read_uint_be(data: Buffer, start: int, length: int) -> int:
    return int.from_bytes(read_bytes(data, start, length), "big")


def read_uint_le(data: Buffer, start: int, length: int) -> int:
    return int.from_bytes(read_bytes(data, start, length), "little")


def require_length(data: Buffer, length: int) -> None:
    """The file has `length` bytes at least.

    Raises:
        TruncatedImage: it has fewer.
    """
    if length > len(data):
        raise TruncatedImage("it is cut off")
