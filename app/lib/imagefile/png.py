"""PNG: a signature, then chunks of length, name, content and checksum, from IHDR to IEND."""

from app.lib.base64_json import Buffer
from app.lib.imagefile.reading import MAX_CHUNKS, PartCounter, UnreadableImage, read_bytes, read_uint_be, require_length

_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def recognise(data: Buffer) -> str | None:
    return "image/png" if data[:8] == _SIGNATURE else None


def read_size(data: Buffer) -> tuple[int, int]:
    if read_bytes(data, 8, 8) != b"\x00\x00\x00\rIHDR":
        raise UnreadableImage("its PNG header is damaged")
    return read_uint_be(data, 16, 4), read_uint_be(data, 20, 4)


def is_top_down(data: Buffer) -> bool:
    return read_bytes(data, 28, 1) == b"\0"  # not interlaced


def find_end(data: Buffer) -> int:
    position, parts, seen_pixels = len(_SIGNATURE), PartCounter(MAX_CHUNKS), False
    while True:
        parts.count()
        length, name = read_uint_be(data, position, 4), read_bytes(data, position + 4, 4)
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
