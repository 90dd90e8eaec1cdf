"""Extract strings from a JSON text while it arrives.

The extractor finds where strings start and end, and which of them are keys. It copies all other text unchanged; the
JSON parser that reads the result detects errors. It scans each chunk once, with `bytes.find`.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Generic, Protocol, TypeVar

from app.lib.base64_json.placeholders import Placeholders

_SPACE = b" \t\r\n"
_BACKSLASH = ord("\\")
_ESCAPE_BYTES = len(r"\u0000")

_IN_STRING = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
"""The rest of a string up to its closing quote."""

_CUT_ESCAPE = re.compile(rb"\\(?:u.{0,3})?", re.DOTALL)

_INVALID_ESCAPE = b"\\ "
"""Written in the place of an invalid escape, so that the JSON parser rejects the text."""

_LENIENT = json.JSONDecoder(strict=False)
"""Accepts line breaks inside strings, which base64 may have."""

_MAX_KEY_BYTES = 128
"""Keys longer than this, escapes included, are not compared with the wanted keys."""


class TooManyMembers(ValueError):
    """The text has too many keys, values or digits."""


class Sink(Protocol):
    """Receives the content of an extracted string, without JSON escapes."""

    @property
    def is_empty(self) -> bool: ...

    def feed(self, text: bytes) -> None: ...

    def close(self) -> None: ...


S = TypeVar("S", bound=Sink)


class Base64Extractor(Generic[S]):
    """Extracts the strings under certain keys, at any depth, and leaves a placeholder for each.

    Empty strings stay. Invalid JSON stays invalid: the result of a string without an end has no end, and an invalid
    escape stays an invalid escape. Server-sent events can be read too: the text around their JSON counts as text
    between strings.
    """

    def __init__(self, sinks: Mapping[str, Callable[[], S] | None], *, max_between_bytes: int | None = None) -> None:
        """
        Args:
            sinks: for each key, a function that creates the sink of a string. With `None`, strings under the key are
                replaced by empty strings.
            max_between_bytes: limit of the bytes between strings, without white space, plus one for each string. It
                limits the number of keys, values, nested lists and digits.
        """
        self._between_left = max_between_bytes
        self._sinks = {key.encode(): open_sink for key, open_sink in sinks.items()}
        self.extracted: dict[str, S] = {}
        """The sinks of the complete strings, by placeholder."""
        self._placeholders = Placeholders()
        self._cut_escape = b""  # an escape that the end of a chunk cut off
        self._in_string = self._is_extracting = False
        self._sink: S | None = None
        self._raw: bytearray | None = None  # the current string with its escapes; None if it cannot be a wanted key
        self._key: bytes | None = None  # the previous string, if it is a wanted key
        self._gap = b""  # the text since then, without white space

    def feed(self, chunk: bytes) -> bytes:
        """Scan the next chunk and return it without the extracted strings.

        Raises:
            TooManyMembers: there are more than `max_between_bytes` bytes between strings.
        """
        if self._cut_escape:
            chunk, self._cut_escape = self._cut_escape + chunk, b""
        rest: list[bytes] = []
        position, end = 0, len(chunk)
        quote = chunk.find(b'"')
        while position < end:
            if 0 <= quote < position:
                quote = chunk.find(b'"', position)
            stop = end if quote < 0 else quote
            if self._in_string:
                position = self._read_string(chunk, position, stop, rest)
                continue
            self._scan_between(chunk[position:stop])
            if quote < 0:
                rest.append(chunk[position:])
                break
            rest.append(chunk[position : quote + 1])
            position = quote + 1
            self._begin()
        return rest[0] if len(rest) == 1 else b"".join(rest)

    def close(self) -> bytes:
        """End the text. Return the part of the last chunk that `feed` has kept back."""
        cut_escape, self._cut_escape = self._cut_escape, b""
        return cut_escape

    def _scan_between(self, text: bytes) -> None:
        """Forget the key unless there is only a colon between it and the next string."""
        text = text.translate(None, _SPACE)
        if self._key is not None:
            self._gap += text
            if self._gap not in (b"", b":"):
                self._key = None
        self._count(len(text))

    def _count(self, between_bytes: int) -> None:
        if self._between_left is not None:
            self._between_left -= between_bytes
            if self._between_left < 0:
                raise TooManyMembers

    def _read_string(self, chunk: bytes, position: int, stop: int, rest: list[bytes]) -> int:
        """Read a string up to its end or the end of the chunk. Return the position to continue at.

        Args:
            chunk: the chunk with the string.
            position: the position to start at.
            stop: the position of the next quotation mark, or the length of the chunk.
            rest: the pieces of the chunk that stay in the JSON text.
        """
        escaped = chunk.find(b"\\", position, stop) >= 0
        if escaped and stop < len(chunk) and _backslashes_before(chunk, position, stop) % 2:  # the quote is escaped
            found = _IN_STRING.match(chunk, position)
            assert found
            stop = found.end()
        ends = chunk[stop : stop + 1] == b'"'
        if escaped and not ends:
            stop = _find_cut_escape(chunk, position)
            self._cut_escape = chunk[stop:]
        self._add(chunk[position:stop], rest, escaped=escaped)
        if not ends:
            return len(chunk)
        self._end(rest)
        return stop + 1

    def _add(self, run: bytes, rest: list[bytes], *, escaped: bool) -> None:
        """Add a piece of a string to the JSON text or to the sink. The piece has no cut escape."""
        if not self._is_extracting:
            rest.append(run)
            self._add_to_key(run)
            return
        if escaped:
            unescaped = _unescape(run)
            if unescaped is None:
                rest.append(_INVALID_ESCAPE)
                return
            run = unescaped
        if self._sink is not None:
            self._sink.feed(run)

    def _begin(self) -> None:
        """Start a string after its opening quote."""
        self._count(1)
        self._in_string = True
        self._is_extracting = self._key is not None and self._gap == b":"
        if self._is_extracting:
            assert self._key is not None
            open_sink = self._sinks[self._key]
            self._sink = open_sink() if open_sink else None
        else:
            self._raw = bytearray()
        self._key, self._gap = None, b""

    def _end(self, rest: list[bytes]) -> None:
        """End a string at its closing quote."""
        self._in_string = False
        if not self._is_extracting:
            self._key = self._take_key()
        elif self._sink is not None:
            self._sink.close()
            if not self._sink.is_empty:
                placeholder = self._placeholders.next()
                self.extracted[placeholder] = self._sink
                rest.append(placeholder.encode())
            self._sink = None
        rest.append(b'"')
        self._is_extracting = False

    def _add_to_key(self, run: bytes) -> None:
        """Keep the string as long as it can be a wanted key."""
        if self._raw is None:
            return
        if len(self._raw) + len(run) > _MAX_KEY_BYTES:
            self._raw = None
        else:
            self._raw += run

    def _take_key(self) -> bytes | None:
        raw, self._raw = self._raw, None
        if raw is None:
            return None
        key = bytes(raw)
        if b"\\" in key:
            key = _unescape(key) or b""
        return key if key in self._sinks else None


def _backslashes_before(chunk: bytes, start: int, stop: int) -> int:
    """Return the number of consecutive backslashes directly before `stop`, not before `start`."""
    if chunk[stop - 1] != _BACKSLASH:
        return 0
    text = chunk[start:stop]
    return len(text) - len(text.rstrip(b"\\"))


def _find_cut_escape(chunk: bytes, start: int) -> int:
    """Return the position of an escape that the end of the chunk cuts off, or else the length of the chunk."""
    end = len(chunk)
    last = chunk.rfind(b"\\", max(start, end - _ESCAPE_BYTES + 1))
    if last < 0 or not _backslashes_before(chunk, start, last + 1) % 2 or not _CUT_ESCAPE.fullmatch(chunk, last):
        return end
    return last


def _unescape(raw: bytes) -> bytes | None:
    """Return a piece of a JSON string without escapes, or `None` if it has an invalid escape."""
    try:
        text = _LENIENT.decode(f'"{raw.decode(errors="replace")}"')
    except ValueError:
        return None
    assert isinstance(text, str)
    return text.encode(errors="replace")
