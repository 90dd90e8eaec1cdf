"""JPEG: marker segments up to the frame header, then scans of entropy-coded data, up to the end marker."""

import re

from app.imagefile.reading import Data, UnreadableImage, big, require_only_padding, take

_END, _START_OF_SCAN = 0xD9, 0xDA
_STANDALONE = {0x01, *range(0xD0, 0xD9)}
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # not the tables for Huffman and arithmetic coding
_AFTER_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7]")  # neither a stuffed byte nor a restart marker

_TRAILERS = (b"MPF\x00", b"MotionPhoto", b"MicroVideo", b"hdrgm:Version")
"""What phones declare in the metadata when they append something: further pictures, a short film, a gain map."""


def recognise(data: Data) -> str | None:
    return "image/jpeg" if data[:3] == b"\xff\xd8\xff" else None


def measure(data: Data) -> tuple[int, int]:
    position = 2
    while True:
        marker, position = _marker(data, position)
        if marker in _FRAMES:
            height, width = big(data, position + 3, 2), big(data, position + 5, 2)
            return width, height
        if marker in (_START_OF_SCAN, _END):
            raise UnreadableImage("its JPEG header has no frame")
        if marker not in _STANDALONE:
            position += big(data, position, 2)


def require_whole_still(data: Data) -> None:
    measure(data)
    if data[-2:] == b"\xff\xd9":
        return  # The usual case, without looking at every byte of the scans.
    end = _end(data)
    if not any(data.find(declared, 0, min(end, 262_144)) >= 0 for declared in _TRAILERS) and data[-4:] != b"SEFT":
        require_only_padding(data, end)


def _marker(data: Data, position: int) -> tuple[int, int]:
    """The marker at `position`, and where its content begins. Any number of fill bytes may stand before it."""
    if take(data, position, 1) != b"\xff":
        raise UnreadableImage("its JPEG structure is damaged")
    while (marker := take(data, position + 1, 1)[0]) == 0xFF:
        position += 1
    return marker, position + 2


def _end(data: Data) -> int:
    """Where the first image of the file ends."""
    position = 2
    while True:
        marker, position = _marker(data, position)
        if marker == _END:
            return position
        if marker in _STANDALONE:
            continue
        length = big(data, position, 2)
        if length < 2:
            raise UnreadableImage("its JPEG structure is damaged")
        position += length
        if marker == _START_OF_SCAN:
            after_scan = _AFTER_SCAN.search(data, position)
            if after_scan is None:
                raise UnreadableImage("it is cut off")
            position = after_scan.start()
