"""Taking strings out of a JSON text while it arrives.

Of JSON the scanner knows where strings begin and end, and which of them are keys; everything else passes through as it
came, to be judged by whoever parses the rest. It goes over each chunk once, with `bytes.find`.
"""

import json
from collections.abc import Callable, Mapping
from typing import Generic, Protocol, TypeVar

from app.lifting.tokens import Tokens

_SPACE = b" \t\r\n"

_MAX_KEY_BYTES = 128
"""A key that is written longer than this, escapes included, is none that we look for."""


class Sink(Protocol):
    """Where the content of a lifted string goes, its escapes undone."""

    @property
    def empty(self) -> bool: ...

    def feed(self, text: bytes) -> None: ...

    def close(self) -> None: ...


S = TypeVar("S", bound=Sink)


class Lifter(Generic[S]):
    """Lifts the strings that stand under certain keys, at any depth, and leaves a token in the place of each.

    Empty strings stay. What is no JSON stays no JSON: a string without an end leaves a rest without an end, and an
    escape that does not exist is left for the parser to refuse. A stream of server-sent events is read in the same
    way: what surrounds its JSON is nothing but text between strings.
    """

    def __init__(self, sinks: Mapping[str, Callable[[], S] | None]) -> None:
        """
        Args:
            sinks: what makes the sink for each string, by the key that it stands under. With `None` the strings are
                dropped instead, and empty strings left in their place.
        """
        self._sinks = {key.encode(): open_sink for key, open_sink in sinks.items()}
        self.lifted: dict[str, S] = {}
        """The sinks of the strings that have ended, by their tokens."""
        self._tokens = Tokens()
        self._held = b""  # an escape that the end of a chunk cut in two
        self._in_string = self._lifting = False
        self._sink: S | None = None
        self._written: bytearray | None = None  # the string so far, as it is written; None if it cannot be a key
        self._key: bytes | None = None  # the string before this place, if it is a key we look for
        self._gap = b""  # what has stood since then, without space

    def feed(self, chunk: bytes) -> bytes:
        """Go over the next chunk; what is left of it comes back."""
        if self._held:
            chunk, self._held = self._held + chunk, b""
        rest: list[bytes] = []
        position, end = 0, len(chunk)
        quote = chunk.find(b'"')
        while position < end:
            if 0 <= quote < position:
                quote = chunk.find(b'"', position)
            stop = end if quote < 0 else quote
            if not self._in_string:
                if self._key is not None:
                    self._look_between(chunk[position:stop])
                if quote < 0:
                    rest.append(chunk[position:])
                    break
                rest.append(chunk[position : quote + 1])
                position = quote + 1
                self._begin()
                continue
            backslash = chunk.find(b"\\", position, stop)
            run = chunk[position : stop if backslash < 0 else backslash]
            if not self._lifting:
                rest.append(run)
                self._write(run)
            elif self._sink is not None:
                self._sink.feed(run)
            position += len(run)
            if backslash >= 0:
                position = self._escape(chunk, position, rest)
            elif quote >= 0:
                self._end(rest)
                position += 1
        return rest[0] if len(rest) == 1 else b"".join(rest)

    def close(self) -> bytes:
        """There is no more text; what was held back of it comes back."""
        held, self._held = self._held, b""
        return held

    def _look_between(self, text: bytes) -> None:
        """Only a colon may stand between a key and its string."""
        self._gap += text.strip(_SPACE)
        if self._gap not in (b"", b":"):
            self._key = None

    def _begin(self) -> None:
        """The string begins whose opening quote has just been read."""
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
                self.lifted[token] = self._sink
                rest.append(token.encode())
            self._sink = None
        rest.append(b'"')
        self._lifting = False

    def _escape(self, chunk: bytes, start: int, rest: list[bytes]) -> int:
        """Deal with the escape at `start`; where it ends comes back."""
        length = 6 if chunk[start + 1 : start + 2] == b"u" else 2
        escape = chunk[start : start + length]
        if len(escape) < length:
            self._held = escape
        elif not self._lifting:
            rest.append(escape)
            self._write(escape)
        elif (meant := _unescaped(escape)) is None:
            rest.append(escape)
        elif self._sink is not None:
            self._sink.feed(meant)
        return start + len(escape)

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


def _unescaped(written: bytes) -> bytes | None:
    try:
        meant = json.loads(b'"' + written + b'"')
    except ValueError:
        return None
    assert isinstance(meant, str)
    return meant.encode(errors="surrogatepass")
