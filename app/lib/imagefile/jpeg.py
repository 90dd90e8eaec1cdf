"""JPEG: marker segments up to the frame header, then scans of entropy-coded data, up to the end marker."""

import re
from collections.abc import Iterator

from app.lib.base64_json import Buffer
from app.lib.imagefile.reading import (
    MAX_SEGMENTS,
    PartCounter,
    TruncatedImage,
    UnreadableImage,
    read_uint_be,
    require_length,
)

_END, _START_OF_SCAN = 0xD9, 0xDA
_BASELINE, _EXTENDED = 0xC0, 0xC1
_STANDALONE = {0x01, *range(0xD0, 0xD9)}
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # not the tables for Huffman and arithmetic coding

_MARKER = re.compile(rb"\xff{1,65536}+([^\xff])", re.DOTALL)
"""A marker with the fill bytes before it. Real files have a few fill bytes."""

_SCAN = re.compile(rb"(?:[^\xff]++|\xff++[\x00\xd0-\xd7])*+", re.DOTALL)
"""Entropy-coded data, with its stuffed bytes and restart markers."""

_SCAN_WINDOW = 64 * 1024
"""Bytes that one search covers. A search holds the GIL; this many bytes take about 1 ms."""


def recognise(data: Buffer) -> str | None:
    return "image/jpeg" if data[:3] == b"\xff\xd8\xff" else None


def read_size(data: Buffer) -> tuple[int, int]:
    for marker, content, _ in _segments(data):
        if marker in _FRAMES:
            return read_uint_be(data, content + 5, 2), read_uint_be(data, content + 3, 2)
        if marker in (_START_OF_SCAN, _END):
            break
    raise UnreadableImage("its JPEG header has no frame")


def is_top_down(data: Buffer) -> bool:
    frame = next((marker for marker, _, _ in _segments(data) if marker in _FRAMES), None)
    return frame in (_BASELINE, _EXTENDED)  # the others are progressive or lossless


def find_end(data: Buffer) -> int:
    *before, (_, _, end) = _segments(data)
    if not any(marker == _START_OF_SCAN for marker, _, _ in before):
        raise UnreadableImage("it holds no pixels")
    return end


def _segments(data: Buffer) -> Iterator[tuple[int, int, int]]:
    """Yield each marker of the first image with the start and end of its content, up to the end marker.

    A segment may hold a second image, such as a thumbnail. The segment's length skips it.
    """
    position, parts = 2, PartCounter(MAX_SEGMENTS)
    while True:
        parts.count()
        found = _MARKER.match(data, position)
        if found is None and data[position : position + 1] in (b"", b"\xff"):
            raise TruncatedImage("it is cut off")
        if found is None or found[1] == b"\x00":
            raise UnreadableImage("its JPEG structure is damaged")
        marker, position = found[1][0], found.end()
        after = position if marker in _STANDALONE or marker == _END else position + _length(data, position)
        yield marker, position, after
        if marker == _END:
            return
        position = _find_scan_end(data, after) if marker == _START_OF_SCAN else after


def _find_scan_end(data: Buffer, position: int) -> int:
    """Return the position after the entropy-coded data at `position`: that of the next marker or its fill bytes."""
    while (end := _SCAN.match(data, position, position + _SCAN_WINDOW).end()) > position:  # type: ignore[union-attr]
        position = end
    return position


def _length(data: Buffer, position: int) -> int:
    length = read_uint_be(data, position, 2)
    if length < 2:
        raise UnreadableImage("its JPEG structure is damaged")
    require_length(data, position + length)
    return length
