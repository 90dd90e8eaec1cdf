"""WebP: a RIFF container with one lossy or lossless frame, which an extended header may precede."""

from app.lib.base64_json import Buffer
from app.lib.imagefile.reading import MAX_CHUNKS, PartCounter, UnreadableImage, read_bytes, read_uint_le, require_length

_ANIMATED = 0x02


def recognise(data: Buffer) -> str | None:
    return "image/webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else None


def read_size(data: Buffer) -> tuple[int, int]:
    kind = read_bytes(data, 12, 4)
    if kind == b"VP8X":
        return read_uint_le(data, 24, 3) + 1, read_uint_le(data, 27, 3) + 1
    if kind == b"VP8L":
        if read_bytes(data, 20, 1) != b"\x2f":
            raise UnreadableImage("its WebP header is damaged")
        bits = read_uint_le(data, 21, 4)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        if read_bytes(data, 23, 3) != b"\x9d\x01\x2a":
            raise UnreadableImage("its WebP header is damaged")
        return read_uint_le(data, 26, 2) & 0x3FFF, read_uint_le(data, 28, 2) & 0x3FFF
    raise UnreadableImage("its WebP header is damaged")


def is_top_down(_data: Buffer) -> bool:
    return False  # a decoder needs all of it


def find_end(data: Buffer) -> int:
    end = 8 + read_uint_le(data, 4, 4)
    require_length(data, end)
    position, parts, seen_pixels = 12, PartCounter(MAX_CHUNKS), False
    while position < end:
        parts.count()
        name, length = read_bytes(data, position, 4), read_uint_le(data, position + 4, 4)
        if name in (b"ANIM", b"ANMF") or (name == b"VP8X" and read_bytes(data, position + 8, 1)[0] & _ANIMATED):
            raise UnreadableImage("it is animated")
        seen_pixels = seen_pixels or name in (b"VP8 ", b"VP8L")
        position += 8 + length
        if position > end:
            raise UnreadableImage("it is cut off")
        position += length % 2
    if not seen_pixels:
        raise UnreadableImage("it holds no pixels")
    return end
