"""A parser that finds the JSON documents in a response: in server-sent events or in plain JSON.

Gateways add comments, other fields, a byte order mark, or a last `[DONE]`. Some respond to a request for a stream with
one document, or with an array of chunks. Google writes an error inside a stream as JSON over several lines without
`data:`. The parser accepts all of these. The response may arrive in pieces of any size, and each byte is read once.
"""

import json
import re
from contextlib import suppress

_STRING = re.compile(rb'"(?:[^"\\]++|(?:\\.)++)*+"?+', re.DOTALL)
"""A JSON string, which may be cut off. If the pattern required the end of the string, an unfinished string would take
quadratic time: each escaped quotation mark would be tried as a new beginning."""

_BEGINS_JSON = re.compile(rb"\s*+[{\[]")
_CONTINUES_JSON = re.compile(rb'\s*+["{}\[\],]')
_BETWEEN_DOCUMENTS = re.compile(r"(?:\[DONE\]|[\s,\[\]])*+")
_READ_JSON = json.JSONDecoder(strict=False).raw_decode

MAX_DOCUMENTS_TOGETHER = 1000
"""Maximum number of documents that are separated in one event or array. The remaining text is returned as one document,
which the next parser rejects."""


class SseParser:
    """Parse a body in pieces of any length into the JSON text of each event."""

    def __init__(self) -> None:
        self._line = bytearray()  # the last line, until its end arrives
        self._after_carriage_return = False  # a line feed at the start of the next piece ends the same line
        self._at_beginning = True
        self._event: list[bytes] = []  # the lines of the current event
        self._open = 0  # the number of open brackets, if the current event is JSON without `data:`
        self._is_error = False
        self._mixed = False  # whether the current event may contain several documents

    def feed(self, piece: bytes) -> list[str]:
        """Return the documents that this piece completes."""
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
        """Return the last documents after the end of the body, even if they are incomplete."""
        return self._end_of_line() + self._end_of_event()

    def _end_of_line(self) -> list[str]:
        line = bytes(self._line).rstrip(b"\r\n")
        self._line.clear()
        if self._at_beginning:
            line = line.removeprefix(b"\xef\xbb\xbf")
            self._at_beginning = False
        if self._open > 0 and not line.startswith(b"data:"):
            return self._without_prefix(line)
        if self._open > 0:  # incomplete JSON, followed by an event
            return [*self._end_of_event(), *self._field(line)]
        if _BEGINS_JSON.match(line):
            return self._without_prefix(line)
        return self._field(line) if line else self._end_of_event()

    def _field(self, line: bytes) -> list[str]:
        if line.startswith(b"data:"):
            self._event.append(line.removeprefix(b"data:").removeprefix(b" "))
        elif line.startswith(b"event:"):
            self._is_error = line.removeprefix(b"event:").strip() == b"error"
        elif self._event and _CONTINUES_JSON.match(line):
            # JSON over several lines; only the first has the prefix.
            self._event.append(line)
            self._mixed = True
        return []

    def _without_prefix(self, line: bytes) -> list[str]:
        """Add a line of JSON without `data:`. The document ends when its brackets are closed."""
        self._event.append(line)
        self._mixed = True
        brackets = _STRING.sub(b"", line)
        self._open += brackets.count(b"{") + brackets.count(b"[") - brackets.count(b"}") - brackets.count(b"]")
        return self._end_of_event() if self._open <= 0 else []

    def _end_of_event(self) -> list[str]:
        # In JSON line breaks stand only between tokens, where a space means the same.
        text = b" ".join(self._event).decode(errors="replace").strip()
        found = _documents(text) if self._mixed or text.startswith("[") else [text]
        if self._is_error:
            found = [_in_envelope(document) for document in found]
        self._event, self._open, self._mixed, self._is_error = [], 0, False, False
        return list(filter(None, found))


def _documents(text: str) -> list[str]:
    """Return the JSON documents in `text`: one, several in a row, or those of an array, which may be cut off.

    Text that is not JSON is returned unchanged.
    """
    found: list[str] = []
    position = _after(text, 0)
    while position < len(text):
        end = len(text)
        if len(found) < MAX_DOCUMENTS_TOGETHER:
            with suppress(ValueError, RecursionError):
                _, end = _READ_JSON(text, position)
        found.append(text[position:end])
        position = _after(text, end)
    return found


def _after(text: str, position: int) -> int:
    between = _BETWEEN_DOCUMENTS.match(text, position)
    assert between is not None
    return between.end()


def _in_envelope(document: str) -> str:
    """Return the document of an event named `error` in Google's form: `{"error": {"code": …}}`."""
    try:
        parsed = json.loads(document)
    except (ValueError, RecursionError):
        return document
    return document if not isinstance(parsed, dict) or "error" in parsed else json.dumps({"error": parsed})
