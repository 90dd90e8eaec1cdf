"""WebP: a RIFF container with one lossy or lossless frame, or an extended header before it."""

from app.lib.base64_json import Data
from app.lib.imagefile.reading import MAX_CHUNKS, PartCounter, UnreadableImage, little, require_length, take

_ANIMATED = 0x02


def recognise(data: Data) -> str | None:
    return "image/webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else None


def measure(data: Data) -> tuple[int, int]:
    kind = take(data, 12, 4)
    if kind == b"VP8X":
        return little(data, 24, 3) + 1, little(data, 27, 3) + 1
    if kind == b"VP8L":
        if take(data, 20, 1) != b"\x2f":
            raise UnreadableImage("its WebP header is damaged")
        bits = little(data, 21, 4)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        if take(data, 23, 3) != b"\x9d\x01\x2a":
            raise UnreadableImage("its WebP header is damaged")
        return little(data, 26, 2) & 0x3FFF, little(data, 28, 2) & 0x3FFF
    raise UnreadableImage("its WebP header is damaged")


def find_end(data: Data) -> int:
    end = 8 + little(data, 4, 4)
    require_length(data, end)
    position, parts, seen_pixels = 12, PartCounter(MAX_CHUNKS), False
    while position < end:
        parts.count()
        name, length = take(data, position, 4), little(data, position + 4, 4)
        if name in (b"ANIM", b"ANMF") or (name == b"VP8X" and take(data, position + 8, 1)[0] & _ANIMATED):
            raise UnreadableImage("it is animated")
        seen_pixels = seen_pixels or name in (b"VP8 ", b"VP8L")
        position += 8 + length
        if position > end:
            raise UnreadableImage("it is cut off")
        position += length % 2
    if not seen_pixels:
        raise UnreadableImage("it holds no pixels")
    return end
