"""Decode and encode base64 in pieces.

The decoder accepts both alphabets, with or without padding and line breaks.
"""

import binascii
from collections.abc import AsyncIterator, Callable

import pybase64

from app.lib.base64_json.content import Content

_MIN_DECODE_BYTES = 16 * 1024
"""Text shorter than this is buffered until more arrives. Thousands of tiny decoded pieces would waste memory."""

_SPACE = b" \t\r\n\f\v"
_TO_STANDARD = bytes.maketrans(b"-_", b"+/")


class Base64Decoder:
    """Decodes text that arrives in pieces of any length.

    The length of each decoded piece except the last is a multiple of three.

    If the text is not base64, `is_valid` becomes false and further text is ignored; no exception is raised.
    """

    def __init__(self, write: Callable[[bytes], object]) -> None:
        """
        Args:
            write: called with each decoded piece.
        """
        self._write = write
        self._buffered = bytearray()
        self._needs_normalising = self._has_ended = False
        self.is_valid = True
        self.is_empty = True
        """Whether no text has arrived."""

    def feed(self, text: bytes) -> None:
        if not text:
            return
        self.is_empty = False
        if not self.is_valid:
            return
        length = len(self._buffered) + len(text)
        if length < _MIN_DECODE_BYTES:
            self._buffered += text
            return
        rest = length % 4  # shorter than `text`, because the buffered text alone was too short to decode
        groups: bytes | memoryview = memoryview(text)[: len(text) - rest]
        if self._buffered:
            groups = b"".join((self._buffered, groups))
        self._buffered = bytearray(text[len(text) - rest :])
        self._decode(groups)

    def close(self) -> None:
        """Decode the buffered text. Call it after the last piece."""
        text, self._buffered = bytes(self._buffered), bytearray()
        if text and self.is_valid:
            self._decode(text[: len(text) & ~3])
            text = bytes(self._buffered) + text[len(text) & ~3 :]
        if self.is_valid and (text := _normalised(text)):
            self._decode(text + b"=" * (-len(text) % 4))  # the last group may lack its padding

    def _decode(self, groups: bytes | memoryview) -> None:
        """Decode text whose length is a multiple of four.

        If it has spaces or the URL-safe alphabet, it is normalised first. Characters that fill no group are buffered.
        """
        if self._needs_normalising:
            text = _normalised(bytes(groups))
            groups, self._buffered = text[: len(text) & ~3], bytearray(text[len(text) & ~3 :]) + self._buffered
        try:
            decoded = pybase64.b64decode(groups, validate=True)
        except binascii.Error:
            if self._needs_normalising:
                self.is_valid = False
            else:
                self._needs_normalising = True
                self._decode(groups)
            return
        if decoded and self._has_ended:
            self.is_valid = False
            return
        self._has_ended = self._has_ended or len(decoded) % 3 != 0
        if decoded:
            self._write(decoded)


def _normalised(text: bytes) -> bytes:
    return text.translate(_TO_STANDARD, _SPACE)


def decode(text: str) -> bytes:
    """Decode a complete text.

    Raises:
        ValueError: the text has a character of neither alphabet, or an impossible length.
    """
    pieces: list[bytes] = []
    decoder = Base64Decoder(pieces.append)
    decoder.feed(text.encode())
    decoder.close()
    if not decoder.is_valid:
        raise ValueError("not valid base64")
    return b"".join(pieces)


class Base64Encoded:
    """Content as base64 in the standard alphabet. Each piece is encoded when it is read; the length is computed."""

    def __init__(self, content: Content) -> None:
        self._content = content
        self.is_remote = content.is_remote

    def __len__(self) -> int:
        return (len(self._content) + 2) // 3 * 4

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._content:
            yield pybase64.b64encode(piece)
