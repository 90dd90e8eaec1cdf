"""HEIC and HEIF: boxes within boxes; the pixel size is a property in the `meta` box."""

from collections.abc import Iterator

from app.imagefile.reading import MAX_PARTS, UnreadableImage, big, take
from app.lifting import Data

_HEIC = {b"heic", b"heix", b"heim", b"heis"}
_HEIF = {b"mif1", b"mif2"}
_SEQUENCES = {b"hevc", b"hevx", b"hevm", b"hevs", b"msf1"}


def recognise(data: Data) -> str | None:
    if data[4:8] != b"ftyp" or len(data) < 16:
        return None
    brand = bytes(data[8:12])
    if brand in _HEIC or brand in _SEQUENCES - {b"msf1"}:
        return "image/heic"
    # A general brand says nothing of the codec: with AV1 inside it is AVIF, which Gemini does not take.
    brands = bytes(data[16 : min(big(data, 0, 4), 256)])
    compatible = {brands[i : i + 4] for i in range(0, len(brands), 4)}
    if brand in _HEIF | _SEQUENCES and not compatible & {b"avif", b"avis"}:
        return "image/heif"
    return None


def measure(data: Data) -> tuple[int, int]:
    """The largest size that any item of the file has: tiles and thumbnails are smaller than the image they serve."""
    sizes = [
        (big(data, start + 4, 4), big(data, start + 8, 4))
        for start in _find(data, [b"meta", b"iprp", b"ipco", b"ispe"], 0, len(data))
    ]
    if not sizes:
        raise UnreadableImage("its HEIF header names no size")
    return max(sizes, key=lambda size: size[0] * size[1])


def require_whole_still(data: Data) -> None:
    if data[8:12] in _SEQUENCES:
        raise UnreadableImage("it is animated")
    names = {name for name, _, _ in _boxes(data, 0, len(data))}
    if not {b"meta"} <= names or not names & {b"mdat", b"idat", b"moov"}:
        raise UnreadableImage("it holds no pixels")


def _find(data: Data, path: list[bytes], start: int, end: int) -> Iterator[int]:
    """Where the contents of the boxes at `path` start."""
    for name, content, after in _boxes(data, start, end):
        if name != path[0]:
            continue
        if len(path) == 1:
            yield content
        else:
            skip = 4 if name == b"meta" else 0  # `meta` is the one on our way that has a version and flags
            yield from _find(data, path[1:], content + skip, after)


def _boxes(data: Data, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, start of the content and end of each box; together they have to fill the space exactly."""
    for _ in range(MAX_PARTS):
        if start >= end:
            return
        size, name, content = big(data, start, 4), take(data, start + 4, 4), start + 8
        if size == 1:
            size, content = big(data, start + 8, 8), start + 16
        elif size == 0:
            size = end - start
        if start + size > end or content > start + size:
            raise UnreadableImage("its structure is damaged or cut off")
        yield name, content, start + size
        start += size
    raise UnreadableImage("it is made of too many parts")
