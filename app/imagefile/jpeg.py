"""JPEG: marker segments up to the frame header, then scans of entropy-coded data, up to the end marker."""

import re
from collections.abc import Iterator

from app.imagefile.reading import MAX_PARTS, UnreadableImage, big, require_only_padding
from app.lifting import Data

_END, _START_OF_SCAN = 0xD9, 0xDA
_STANDALONE = {0x01, *range(0xD0, 0xD9)}
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # not the tables for Huffman and arithmetic coding
_APPLICATION = {0xE1, 0xE2}

_MARKER = re.compile(rb"\xff+([^\xff])")  # any number of fill bytes may stand before it
_AFTER_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7]")  # neither a stuffed byte nor a restart marker

_TRAILERS = (b"MPF\x00", b"MotionPhoto", b"MicroVideo", b"hdrgm:Version")
"""What phones declare in the metadata when they append something: further pictures, a short film, a gain map."""


def recognise(data: Data) -> str | None:
    return "image/jpeg" if data[:3] == b"\xff\xd8\xff" else None


def measure(data: Data) -> tuple[int, int]:
    for marker, content, _ in _segments(data):
        if marker in _FRAMES:
            return big(data, content + 5, 2), big(data, content + 3, 2)
        if marker in (_START_OF_SCAN, _END):
            break
    raise UnreadableImage("its JPEG header has no frame")


def require_whole_still(data: Data) -> None:
    scanned = declared = False
    for marker, content, after in _segments(data):
        if marker == _START_OF_SCAN:
            scanned = True
        elif marker in _APPLICATION:
            segment = data[content:after]
            declared = declared or any(trailer in segment for trailer in _TRAILERS)
        elif marker == _END:
            if not scanned:
                raise UnreadableImage("it holds no pixels")
            if not (_looks_like_a_phone_s(data, after) and (declared or data[-4:] == b"SEFT")):
                require_only_padding(data, after)


def _looks_like_a_phone_s(data: Data, start: int) -> bool:
    """Whether what is appended at `start` begins as a picture or a film does, or ends as Samsung's trailer does."""
    return data[start : start + 3] == b"\xff\xd8\xff" or data[start + 4 : start + 8] == b"ftyp" or data[-4:] == b"SEFT"


def _segments(data: Data) -> Iterator[tuple[int, int, int]]:
    """Each marker of the first image, where its content begins and where that ends; the last one is the end marker."""
    position = 2
    for _ in range(MAX_PARTS):
        found = _MARKER.match(data, position)
        if found is None:
            raise UnreadableImage("its JPEG structure is damaged or cut off")
        marker, position = found[1][0], found.end()
        after = position if marker in _STANDALONE or marker == _END else position + _length(data, position)
        yield marker, position, after
        if marker == _END:
            return
        position = after
        if marker == _START_OF_SCAN:
            scan_end = _AFTER_SCAN.search(data, position)
            if scan_end is None:
                raise UnreadableImage("it is cut off")
            position = scan_end.start()
    raise UnreadableImage("it is made of too many parts")


def _length(data: Data, position: int) -> int:
    length = big(data, position, 2)
    if length < 2 or position + length > len(data):
        raise UnreadableImage("its JPEG structure is damaged or cut off")
    return length
