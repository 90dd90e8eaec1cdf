"""Reading numbers out of bytes that may end anywhere."""

from app.lifting import Data

MAX_PARTS = 20_000
"""Chunks or boxes in one file. A real 30 MB PNG has about 4,000; a file of nothing but headers would keep us busy."""


class UnreadableImage(ValueError):
    """The file is not an image we can pass on; the message completes the sentence "this file cannot be used: …"."""


def take(data: Data, start: int, length: int) -> bytes:
    """`length` bytes from `start`, all of them."""
    piece = data[start : start + length]
    if start < 0 or len(piece) != length:
        raise UnreadableImage("it ends too early")
    return bytes(piece)


def big(data: Data, start: int, length: int) -> int:
    return int.from_bytes(take(data, start, length), "big")


def little(data: Data, start: int, length: int) -> int:
    return int.from_bytes(take(data, start, length), "little")


def require_only_padding(data: Data, start: int) -> None:
    """What follows an image may be zeros; anything else makes the file two things at once."""
    position = start
    while piece := data[position : position + 65536]:
        if piece.strip(b"\x00"):
            raise UnreadableImage("other data is appended to the image")
        position += len(piece)
