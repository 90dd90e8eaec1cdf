"""PNG: a signature, then chunks of length, name, content and checksum, from IHDR to IEND."""

from app.imagefile.reading import MAX_PARTS, UnreadableImage, big, require_only_padding, take
from app.lifting import Data

_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def recognise(data: Data) -> str | None:
    return "image/png" if data[:8] == _SIGNATURE else None


def measure(data: Data) -> tuple[int, int]:
    if take(data, 8, 8) != b"\x00\x00\x00\rIHDR":
        raise UnreadableImage("its PNG header is damaged")
    return big(data, 16, 4), big(data, 20, 4)


def require_whole_still(data: Data) -> None:
    position, seen_pixels = len(_SIGNATURE), False
    for _ in range(MAX_PARTS):
        length, name = big(data, position, 4), take(data, position + 4, 4)
        take(data, position + 8 + length, 4)  # the checksum is there, so the content before it is too
        position += 12 + length
        if name == b"acTL":
            raise UnreadableImage("it is animated")
        if name == b"IDAT":
            seen_pixels = True
        if name == b"IEND":
            break
    else:
        raise UnreadableImage("it is made of too many parts")
    if not seen_pixels:
        raise UnreadableImage("it holds no pixels")
    require_only_padding(data, position)
