"""HEIC and HEIF: nested boxes. The box `meta` has the pixel size and the position of the pixels in the file."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from app.lib.base64_json import Buffer
from app.lib.imagefile.reading import (
    MAX_SEGMENTS,
    PartCounter,
    TruncatedImage,
    UnreadableImage,
    read_bytes,
    read_uint_be,
)

_HEIC = {b"heic", b"heix", b"heim", b"heis"}
_HEIF = {b"mif1", b"mif2"}
_SEQUENCES = {b"hevc", b"hevx", b"hevm", b"hevs", b"msf1"}


class _Box(NamedTuple):
    name: bytes
    start: int
    content: int
    end: int


def recognise(data: Buffer) -> str | None:
    if data[4:8] != b"ftyp" or len(data) < 16:
        return None
    brand = bytes(data[8:12])
    if brand in _HEIC or brand in _SEQUENCES - {b"msf1"}:
        return "image/heic"
    # A general brand does not name the codec. With AV1 the file is AVIF, which Gemini does not accept.
    brands = bytes(data[16 : min(read_uint_be(data, 0, 4), 256)])
    compatible = {brands[i : i + 4] for i in range(0, len(brands), 4)}
    if brand in _HEIF | _SEQUENCES and not compatible & {b"avif", b"avis"}:
        return "image/heif"
    return None


def read_size(data: Buffer) -> tuple[int, int]:
    """Return the largest size of all items. Tiles and thumbnails are smaller than the image."""
    parts = PartCounter(MAX_SEGMENTS)
    sizes = [
        (read_uint_be(data, start + 4, 4), read_uint_be(data, start + 8, 4))
        for start in _find(data, [b"iprp", b"ipco", b"ispe"], *_meta(_top_level(data, parts)), parts)
    ]
    if not sizes:
        raise UnreadableImage("its HEIF header names no size")
    return max(sizes, key=lambda size: size[0] * size[1])


def find_end(data: Buffer) -> int:
    """Return the end of the top-level box that completes the image: `meta`, or the last box with pixels.

    Boxes after that one are not part of the image: for example a video, or metadata of a phone's vendor.
    """
    if read_bytes(data, 8, 4) in _SEQUENCES:
        raise UnreadableImage("it is animated")
    parts = PartCounter(MAX_SEGMENTS)
    boxes = list(_top_level(data, parts))
    start, end = _meta(boxes)
    pixels_end = _pixels_end(data, start, end, parts)
    for box in boxes:
        if box.end >= max(end, pixels_end):
            # A box without a size reaches to the end of the file, including appended bytes.
            return max(end, pixels_end) if read_uint_be(data, box.start, 4) == 0 else box.end
    raise TruncatedImage("it is cut off")


def _top_level(data: Buffer, parts: PartCounter) -> Iterator[_Box]:
    """Yield the complete boxes of the file, up to a cut-off box or the start of another file."""
    position = 0
    while position < len(data):
        try:
            box = next(_boxes(data, position, len(data), parts))
        except TruncatedImage:
            return
        if position and box.name == b"ftyp":
            return
        yield box
        position = box.end


def _meta(boxes: Iterable[_Box]) -> tuple[int, int]:
    """Return the start and end of the boxes in `meta`. Before them it has four bytes for version and flags.

    Raises:
        TruncatedImage: there is no `meta`.
    """
    for box in boxes:
        if box.name == b"meta":
            return box.content + 4, box.end
    raise TruncatedImage("its HEIF header is missing or cut off")


def _pixels_end(data: Buffer, start: int, end: int, parts: PartCounter) -> int:
    """Return the end of the last byte in the file that an item uses, as `iloc` says (ISO 14496-12, 8.11.3).

    Items can be stored in `meta` itself. If all are, the result is 0.
    """
    ends: list[int] = []
    for place in _find(data, [b"iloc"], start, end, parts):
        version, sizes = read_uint_be(data, place, 1), read_uint_be(data, place + 4, 2)
        offset_size, length_size, base_size, index_size = (sizes >> shift & 0xF for shift in (12, 8, 4, 0))
        id_size = 4 if version == 2 else 2
        count, position = read_uint_be(data, place + 6, id_size), place + 6 + id_size
        for _ in range(count):
            parts.count()
            position += id_size
            in_this_file = not version or read_uint_be(data, position, 2) & 0xF == 0
            position += 4 if version else 2
            base, extents = read_uint_be(data, position, base_size), read_uint_be(data, position + base_size, 2)
            position += base_size + 2
            for _ in range(extents):
                parts.count()
                position += index_size if version else 0
                offset, length = (
                    read_uint_be(data, position, offset_size),
                    read_uint_be(data, position + offset_size, length_size),
                )
                position += offset_size + length_size
                if in_this_file:
                    ends.append(base + offset + length if length else len(data))
                else:
                    ends.append(0)
    if not ends:
        raise UnreadableImage("it holds no pixels")
    return max(ends)


def _find(data: Buffer, path: list[bytes], start: int, end: int, parts: PartCounter) -> Iterator[int]:
    """Yield the start of the content of each box at `path`."""
    for box in _boxes(data, start, end, parts):
        if box.name != path[0]:
            continue
        if len(path) == 1:
            yield box.content
        else:
            yield from _find(data, path[1:], box.content, box.end, parts)


def _boxes(data: Buffer, start: int, end: int, parts: PartCounter) -> Iterator[_Box]:
    """Yield the boxes between `start` and `end`, which must fill that range exactly."""
    while start < end:
        parts.count()
        size, name, content = read_uint_be(data, start, 4), read_bytes(data, start + 4, 4), start + 8
        if size == 1:
            size, content = read_uint_be(data, start + 8, 8), start + 16
        elif size == 0:
            size = end - start
        if start + size > end or content > start + size:
            raise TruncatedImage("its structure is damaged or cut off")
        yield _Box(name, start, content, start + size)
        start += size
