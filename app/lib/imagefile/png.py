"""PNG: a signature, then chunks of length, name, content and checksum, from IHDR to IEND."""

from app.lib.base64_json import Data
from app.lib.imagefile.reading import MAX_CHUNKS, PartCounter, UnreadableImage, big, require_length, take

_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def recognise(data: Data) -> str | None:
    return "image/png" if data[:8] == _SIGNATURE else None


def measure(data: Data) -> tuple[int, int]:
    if take(data, 8, 8) != b"\x00\x00\x00\rIHDR":
        raise UnreadableImage("its PNG header is damaged")
    return big(data, 16, 4), big(data, 20, 4)


def find_end(data: Data) -> int:
    position, parts, seen_pixels = len(_SIGNATURE), PartCounter(MAX_CHUNKS), False
    while True:
        parts.count()
        length, name = big(data, position, 4), take(data, position + 4, 4)
        position += 12 + length
        require_length(data, position)
        if name == b"acTL":
            raise UnreadableImage("it is animated")
        if name == b"IDAT":
            seen_pixels = True
        if name == b"IEND":
            break
    if not seen_pixels:
        raise UnreadableImage("it holds no pixels")
    return position
