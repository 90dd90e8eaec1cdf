"""Server-sent events as the standard allows them, and the JSON that some send in their place.

Gateways add comments as signs of life, fields, a byte order mark, a last `[DONE]`; some answer a request for a stream
with a plain answer, or with an array of chunks. None of this is worth losing a paid image for.
"""

import json
import re

_LINE_END = re.compile(rb"\r\n|\n|\r")


class EventReader:
    """Takes a stream in pieces, and hands on the JSON text of each event."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []
        self._plain: bytes | None = None  # all of it, once it is known to be no event stream
        self._begun = False

    def feed(self, piece: bytes) -> list[str]:
        """The events that are complete with this piece."""
        if self._plain is not None:
            self._plain += piece
            return []
        self._rest += piece
        if not self._begun:
            if len(self._rest.lstrip()) < len(b"\xef\xbb\xbfx"):
                return []
            self._begun = True
            self._rest = self._rest.removeprefix(b"\xef\xbb\xbf")
            if self._rest.lstrip()[:1] in (b"{", b"["):
                self._plain, self._rest = self._rest, b""
                return []
        return self._read(at_end=False)

    def close(self) -> list[str]:
        """There is no more; what has come without an end is complete all the same."""
        if not self._begun and self._rest.strip():
            self._begun = True
            if self._rest.lstrip()[:1] in (b"{", b"["):
                self._plain, self._rest = self._rest, b""
        if self._plain is not None:
            return _documents(self._plain)
        return [*self._read(at_end=True), *self._event()]

    def _read(self, *, at_end: bool) -> list[str]:
        found: list[str] = []
        position = 0
        while end := _LINE_END.search(self._rest, position):
            if end.group() == b"\r" and end.end() == len(self._rest) and not at_end:
                break  # half of a line end, perhaps
            found += self._line(self._rest[position : end.start()])
            position = end.end()
        self._rest = self._rest[position:]
        if at_end and self._rest:
            found += self._line(self._rest)
            self._rest = b""
        return found

    def _line(self, line: bytes) -> list[str]:
        if not line:
            return self._event()
        if line.startswith(b"data:"):
            self._data.append(line.removeprefix(b"data:").removeprefix(b" "))
        return []

    def _event(self) -> list[str]:
        # JSON has no line breaks but between its parts, where a space is as good.
        text, self._data = b" ".join(self._data).decode(errors="replace").strip(), []
        return [text] if text and text != "[DONE]" else []


def _documents(plain: bytes) -> list[str]:
    """A plain answer is one chunk, an array of them several; what is neither is left for others to refuse."""
    text = plain.decode(errors="replace")
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        return [text]
    return [json.dumps(one) for one in parsed] if isinstance(parsed, list) else [text]
