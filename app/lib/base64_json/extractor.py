"""Taking strings out of a JSON text while it arrives.

Of JSON the scanner knows where strings begin and end, and which of them are keys; everything else passes through as it
came, to be judged by whoever parses the rest. It goes over each chunk once, with `bytes.find`.
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
"""What of a string follows, up to its end."""

_CUT_ESCAPE = re.compile(rb"\\(?:u.{0,3})?", re.DOTALL)

_NO_ESCAPE = b"\\ "
"""Stands in the rest for escapes that JSON does not have, so that the parser refuses it."""

_LENIENT = json.JSONDecoder(strict=False)
"""Takes line breaks inside of strings; base64 may have them."""

_MAX_KEY_BYTES = 128
"""A key that is written longer than this, escapes included, is none that we look for."""


class TooManyMembers(ValueError):
    """There are more keys, values or digits than the text may have."""


class Sink(Protocol):
    """Where the content of a lifted string goes, its escapes undone."""

    @property
    def empty(self) -> bool: ...

    def feed(self, text: bytes) -> None: ...

    def close(self) -> None: ...


S = TypeVar("S", bound=Sink)


class Base64Extractor(Generic[S]):
    """Lifts the strings that stand under certain keys, at any depth, and leaves a token in the place of each.

    Empty strings stay. What is no JSON stays no JSON: a string without an end leaves a rest without an end, and an
    escape that does not exist is left for the parser to refuse. A stream of server-sent events is read in the same
    way: what surrounds its JSON is nothing but text between strings.
    """

    def __init__(self, sinks: Mapping[str, Callable[[], S] | None], *, max_between_bytes: int | None = None) -> None:
        """
        Args:
            sinks: what makes the sink for each string, by the key that it stands under. With `None` the strings are
                dropped instead, and empty strings left in their place.
            max_between_bytes: how much may stand between the strings, white space not counted; each string counts as
                one byte more. It bounds everything that the text can have many of: keys, values, nested lists, digits,
                and strings with nothing between them, which are no JSON.
        """
        self._between_left = max_between_bytes
        self._sinks = {key.encode(): open_sink for key, open_sink in sinks.items()}
        self.extracted: dict[str, S] = {}
        """The sinks of the strings that have ended, by their tokens."""
        self._tokens = Placeholders()
        self._held = b""  # an escape that the end of a chunk cut in two
        self._in_string = self._lifting = False
        self._sink: S | None = None
        self._written: bytearray | None = None  # the string so far, as it is written; None if it cannot be a key
        self._key: bytes | None = None  # the string before this place, if it is a key we look for
        self._gap = b""  # what has stood since then, without space

    def feed(self, chunk: bytes) -> bytes:
        """Go over the next chunk; what is left of it comes back.

        Raises:
            TooManyMembers: more stands between the strings than may.
        """
        if self._held:
            chunk, self._held = self._held + chunk, b""
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
            self._look_between(chunk[position:stop])
            if quote < 0:
                rest.append(chunk[position:])
                break
            rest.append(chunk[position : quote + 1])
            position = quote + 1
            self._begin()
        return rest[0] if len(rest) == 1 else b"".join(rest)

    def close(self) -> bytes:
        """There is no more text; what was held back of it comes back."""
        held, self._held = self._held, b""
        return held

    def _look_between(self, text: bytes) -> None:
        """Only a colon may stand between a key and its string."""
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
        """Read on in a string, up to its end or that of the chunk; where to go on comes back.

        Args:
            chunk: with the string.
            position: where to begin in it.
            stop: where the next quotation mark is, or the chunk ends.
            rest: what is left of the chunk so far.
        """
        escaped = chunk.find(b"\\", position, stop) >= 0
        if escaped and stop < len(chunk) and _backslashes_before(chunk, position, stop) % 2:  # the quote is escaped
            found = _IN_STRING.match(chunk, position)
            assert found
            stop = found.end()
        ends = chunk[stop : stop + 1] == b'"'
        if escaped and not ends:
            stop = _cut_escape(chunk, position)
            self._held = chunk[stop:]
        self._add(chunk[position:stop], rest, escaped=escaped)
        if not ends:
            return len(chunk)
        self._end(rest)
        return stop + 1

    def _add(self, run: bytes, rest: list[bytes], *, escaped: bool) -> None:
        """Take a piece of a string, which holds whole escapes only."""
        if not self._lifting:
            rest.append(run)
            self._write(run)
            return
        if escaped:
            meant = _unescaped(run)
            if meant is None:
                rest.append(_NO_ESCAPE)
                return
            run = meant
        if self._sink is not None:
            self._sink.feed(run)

    def _begin(self) -> None:
        """The string begins whose opening quote has just been read."""
        self._count(1)
        self._in_string = True
        self._lifting = self._key is not None and self._gap == b":"
        if self._lifting:
            assert self._key is not None
            open_sink = self._sinks[self._key]
            self._sink = open_sink() if open_sink else None
        else:
            self._written = bytearray()
        self._key, self._gap = None, b""

    def _end(self, rest: list[bytes]) -> None:
        """The string ends whose closing quote is next."""
        self._in_string = False
        if not self._lifting:
            self._key = self._as_key()
        elif self._sink is not None:
            self._sink.close()
            if not self._sink.empty:
                token = self._tokens.next()
                self.extracted[token] = self._sink
                rest.append(token.encode())
            self._sink = None
        rest.append(b'"')
        self._lifting = False

    def _write(self, run: bytes) -> None:
        """Remember the string as long as it can be a key."""
        if self._written is None:
            return
        if len(self._written) + len(run) > _MAX_KEY_BYTES:
            self._written = None
        else:
            self._written += run

    def _as_key(self) -> bytes | None:
        written, self._written = self._written, None
        if written is None:
            return None
        key = bytes(written)
        if b"\\" in key:
            key = _unescaped(key) or b""
        return key if key in self._sinks else None


def _backslashes_before(chunk: bytes, start: int, stop: int) -> int:
    """How many backslashes stand before `stop`, one after the other, from `start` on."""
    if chunk[stop - 1] != _BACKSLASH:
        return 0
    text = chunk[start:stop]
    return len(text) - len(text.rstrip(b"\\"))


def _cut_escape(chunk: bytes, start: int) -> int:
    """Where in a string from `start` on an escape begins that the end of the chunk has cut off; else, that end."""
    end = len(chunk)
    last = chunk.rfind(b"\\", max(start, end - _ESCAPE_BYTES + 1))
    if last < 0 or not _backslashes_before(chunk, start, last + 1) % 2 or not _CUT_ESCAPE.fullmatch(chunk, last):
        return end
    return last


def _unescaped(written: bytes) -> bytes | None:
    """What a piece of a JSON string means, or `None` if an escape in it does not exist."""
    try:
        meant = _LENIENT.decode(f'"{written.decode(errors="replace")}"')
    except ValueError:
        return None
    assert isinstance(meant, str)
    return meant.encode(errors="replace")
