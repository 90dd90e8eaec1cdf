"""Read numbers from bytes that may be cut off."""

from app.lib.base64_json import Buffer

MAX_CHUNKS = 10_000
"""Maximum number of chunks read from one PNG or WebP. A 30 MB PNG has about 4,000."""

MAX_SEGMENTS = 4_000
"""Maximum number of segments read from one JPEG, or of boxes and items from one HEIF. Real files have hundreds."""


class UnreadableImage(ValueError):
    """The file is not a supported image. The message completes the sentence "this file cannot be used: …"."""


class TruncatedImage(UnreadableImage):
    """The bytes end before the image ends. With more bytes it may be readable."""


class PartCounter:
    """Limits the parts that are read in one file, at all levels of nesting."""

    def __init__(self, limit: int) -> None:
        self._left = limit

    def count(self) -> None:
        """Count one more part.

        Raises:
            UnreadableImage: the file has too many.
        """
        self._left -= 1
        if self._left < 0:
            raise UnreadableImage("it has too many parts")


def read_bytes(data: Buffer, start: int, length: int) -> bytes:
    """Return `length` bytes from `start`.

    Raises:
        TruncatedImage: there are fewer.
    """
    piece = data[start : start + length]
    if start < 0 or len(piece) != length:
        raise TruncatedImage("it is cut off")
    return bytes(piece)


def read_uint_be(data: Buffer, start: int, length: int) -> int:
    return int.from_bytes(read_bytes(data, start, length), "big")


def read_uint_le(data: Buffer, start: int, length: int) -> int:
    return int.from_bytes(read_bytes(data, start, length), "little")


def require_length(data: Buffer, length: int) -> None:
    """Check that the file has at least `length` bytes.

    Raises:
        TruncatedImage: it has fewer.
    """
    if length > len(data):
        raise TruncatedImage("it is cut off")
