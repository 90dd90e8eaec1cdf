"""The JSON documents in the body of an answer: server-sent events as the standard allows them, and plain JSON.

Gateways add comments, further fields, a byte order mark, a last `[DONE]`; some answer a request for a stream with a
plain answer, or with an array of chunks. Google itself writes an error in the middle of a stream as JSON over several
lines without `data:`. The reader takes all of these. It looks at each byte once, wherever the body is cut into pieces.
"""

import json
import re
from contextlib import suppress

_STRING = re.compile(rb'"(?:[^"\\]++|(?:\\.)++)*+"?+', re.DOTALL)
"""A string, which may be cut off. If it had to have an end, each escaped quotation mark in one without would be tried
as the beginning of another: quadratic work."""

_BEGINS_JSON = re.compile(rb"\s*+[{\[]")
_CONTINUES_JSON = re.compile(rb'\s*+["{}\[\],]')
_BETWEEN_DOCUMENTS = re.compile(r"(?:\[DONE\]|[\s,\[\]])*+")
_READ_JSON = json.JSONDecoder(strict=False).raw_decode

MAX_DOCUMENTS_TOGETHER = 1000
"""The most documents that are read from one event or one array. What follows is left as one, for others to refuse."""


class SseParser:
    """Takes a body in pieces of any length, and returns the JSON text of each event."""

    def __init__(self) -> None:
        self._line = bytearray()  # the last line, as long as its end has not come
        self._after_carriage_return = False  # a line feed that comes next belongs to the line before
        self._at_beginning = True
        self._event: list[bytes] = []  # the lines of the present event
        self._open = 0  # brackets that are open, if the present event is JSON without `data:`
        self._says_error = False
        self._mixed = False  # whether the present event may hold several documents

    def feed(self, piece: bytes) -> list[str]:
        """The documents that are complete with this piece."""
        if self._after_carriage_return and piece:
            piece = piece.removeprefix(b"\n")
        found: list[str] = []
        for line in piece.splitlines(keepends=True):
            self._line += line
            if line.endswith((b"\r", b"\n")):
                found += self._end_of_line()
        self._after_carriage_return = piece.endswith(b"\r") or (self._after_carriage_return and not piece)
        return found

    def close(self) -> list[str]:
        """The body has ended, or broken off. What has come without an end is returned all the same."""
        return self._end_of_line() + self._end_of_event()

    def _end_of_line(self) -> list[str]:
        line = bytes(self._line).rstrip(b"\r\n")
        self._line.clear()
        if self._at_beginning:
            line = line.removeprefix(b"\xef\xbb\xbf")
            self._at_beginning = False
        if self._open > 0 and not line.startswith(b"data:"):
            return self._without_prefix(line)
        if self._open > 0:  # JSON that was broken off; an event follows
            return [*self._end_of_event(), *self._field(line)]
        if _BEGINS_JSON.match(line):
            return self._without_prefix(line)
        return self._field(line) if line else self._end_of_event()

    def _field(self, line: bytes) -> list[str]:
        if line.startswith(b"data:"):
            self._event.append(line.removeprefix(b"data:").removeprefix(b" "))
        elif line.startswith(b"event:"):
            self._says_error = line.removeprefix(b"event:").strip() == b"error"
        elif self._event and _CONTINUES_JSON.match(line):
            # JSON over several lines, of which only the first has the prefix.
            self._event.append(line)
            self._mixed = True
        return []

    def _without_prefix(self, line: bytes) -> list[str]:
        """JSON without `data:` ends where its brackets are closed."""
        self._event.append(line)
        self._mixed = True
        brackets = _STRING.sub(b"", line)
        self._open += brackets.count(b"{") + brackets.count(b"[") - brackets.count(b"}") - brackets.count(b"]")
        return self._end_of_event() if self._open <= 0 else []

    def _end_of_event(self) -> list[str]:
        # JSON has no line breaks but between its parts, where a space is as good.
        text = b" ".join(self._event).decode(errors="replace").strip()
        found = _documents(text) if self._mixed or text.startswith("[") else [text]
        if self._says_error:
            found = [_in_envelope(document) for document in found]
        self._event, self._open, self._mixed, self._says_error = [], 0, False, False
        return list(filter(None, found))


def _documents(text: str) -> list[str]:
    """The JSON documents in `text`: one, several in a row, or those of an array, which may be cut off.

    What is no JSON is returned as it is.
    """
    found: list[str] = []
    place = _after(text, 0)
    while place < len(text):
        end = len(text)
        if len(found) < MAX_DOCUMENTS_TOGETHER:
            with suppress(ValueError, RecursionError):
                _, end = _READ_JSON(text, place)
        found.append(text[place:end])
        place = _after(text, end)
    return found


def _after(text: str, place: int) -> int:
    between = _BETWEEN_DOCUMENTS.match(text, place)
    assert between is not None
    return between.end()


def _in_envelope(document: str) -> str:
    """The document of an event named `error`, as Google writes errors: `{"error": {"code": …}}`."""
    try:
        said = json.loads(document)
    except (ValueError, RecursionError):
        return document
    return document if not isinstance(said, dict) or "error" in said else json.dumps({"error": said})
