"""Base64 as it comes from outside, piece by piece: in either alphabet, padded or not, wrapped in lines or not."""

import binascii
from collections.abc import AsyncIterator, Callable

import pybase64

from app.lib.base64_json.content import Content

_WORTH_DECODING = 16 * 1024
"""Less text than this waits for more: an image of thousands of crumbs would take more memory than it has bytes."""

_SPACE = b" \t\r\n\f\v"
_TO_STANDARD = bytes.maketrans(b"-_", b"+/")


class Base64Decoder:
    """Decodes text that arrives in pieces of any length, and hands on bytes in pieces that are multiples of three.

    Nothing is raised for text that is not base64: `valid` turns false and the rest is ignored.
    """

    def __init__(self, write: Callable[[bytes], object]) -> None:
        """
        Args:
            write: takes each decoded piece.
        """
        self._write = write
        self._waiting = bytearray()  # many crumbs may come before there is enough
        self._odd = self._ended = False
        self.valid = True
        self.empty = True
        """Whether there was no text at all."""

    def feed(self, text: bytes) -> None:
        if not text:
            return
        self.empty = False
        if not self.valid:
            return
        length = len(self._waiting) + len(text)
        if length < _WORTH_DECODING:
            self._waiting += text
            return
        rest = length % 4  # less than the text, which is what made it enough
        groups: bytes | memoryview = memoryview(text)[: len(text) - rest]
        if self._waiting:
            groups = b"".join((self._waiting, groups))
        self._waiting = bytearray(text[len(text) - rest :])
        self._decode(groups)

    def close(self) -> None:
        """There is no more text."""
        text, self._waiting = bytes(self._waiting), bytearray()
        if text and self.valid:
            self._decode(text[: len(text) & ~3])
            text = bytes(self._waiting) + text[len(text) & ~3 :]
        if self.valid and (text := _standard(text)):
            self._decode(text + b"=" * (-len(text) % 4))  # a group that lacks its padding

    def _decode(self, groups: bytes | memoryview) -> None:
        """Decode text whose length is a multiple of four; of one with spaces in it, what fills no group waits again."""
        if self._odd:
            text = _standard(bytes(groups))
            groups, self._waiting = text[: len(text) & ~3], bytearray(text[len(text) & ~3 :]) + self._waiting
        try:
            decoded = pybase64.b64decode(groups, validate=True)
        except binascii.Error:
            if self._odd:
                self.valid = False
            else:
                self._odd = True
                self._decode(groups)
            return
        if decoded and self._ended:
            self.valid = False
            return
        self._ended = self._ended or len(decoded) % 3 != 0
        if decoded:
            self._write(decoded)


def _standard(text: bytes) -> bytes:
    return text.translate(_TO_STANDARD, _SPACE)


def decode(text: str) -> bytes:
    """Decode a text that is there as a whole.

    Raises:
        ValueError: a character belongs to neither alphabet, or the length fits no bytes.
    """
    pieces: list[bytes] = []
    decoder = Base64Decoder(pieces.append)
    decoder.feed(text.encode())
    decoder.close()
    if not decoder.valid:
        raise ValueError("not valid base64")
    return b"".join(pieces)


class Base64Encoded:
    """Content as base64 in the standard alphabet: its length without encoding it, its pieces encoded as they are asked
    for."""

    def __init__(self, content: Content) -> None:
        self._content = content
        self.is_remote = content.is_remote

    def __len__(self) -> int:
        return (len(self._content) + 2) // 3 * 4

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._content:
            yield pybase64.b64encode(piece)
