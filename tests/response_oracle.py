"""Check the response parser: its result must not depend on how the bytes are cut, and must agree with h11."""

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import h11
import httpcore2

from app.gemini.transport.http.parser import ResponseParser

_WORDS = (
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.0 404 Not Found\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\n",
    b"HTTP/1.1 304 Not Modified\r\n",
    b"Content-Length: 2\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length: -1\r\n",
    b"Content-Length: 18446744073709551616\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n",
    b"Connection: close\r\n",
    b"Connection: keep-alive\r\n",
    b"Name: value\r\n",
    b"Name:\tvalue \r\n",
    b" folded\r\n",
    b"\r\n",
    b"\r\n\r\n",
    b"\n",
    b"\r",
    b"0\r\n\r\n",
    b"2\r\nok\r\n",
    b"5;extension=1\r\nhello\r\n",
    b"0\r\nTrailer: t\r\n\r\n",
    b"ffffffffffffffff\r\n",
    b"ok",
    b"hello",
    b":",
    b"\0",
)
_LITERAL = 224
"""A byte from here on says that the next byte stands for itself."""


@dataclass(frozen=True)
class Outcome:
    """The result of parsing the bytes of a connection."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    allows_reuse: bool


def pieces_from(given: bytes) -> list[bytes]:
    """Turn the input of a fuzzer into pieces of a response: 4 bytes say where the pieces end, the others name words."""
    cuts, rest = given[:4], iter(given[4:])
    text = b"".join(bytes([next(rest, 0)]) if one >= _LITERAL else _WORDS[one % len(_WORDS)] for one in rest)
    return list(_cut(text, cuts))


def well_formed(chance: random.Random) -> tuple[bytes, Outcome]:
    """Return a random response that RFC 9112 allows, and the result that is expected."""
    status, body = chance.choice([200, 400, 429, 503]), chance.randbytes(chance.choice([0, 1, 50, 3000]))
    headers = [(b"Content-Type", b"application/json"), (b"Date", b"now")][: chance.randint(0, 2)]
    framing = chance.choice(["length", "chunked", "close"])
    if framing == "length":
        headers.append((b"Content-Length", str(len(body)).encode()))
    elif framing == "chunked":
        headers.append((b"Transfer-Encoding", b"chunked"))
    head = b"HTTP/1.1 %d Reason\r\n" % status + b"".join(b"%b: %b\r\n" % header for header in headers) + b"\r\n"
    interim = chance.choice([b"", b"HTTP/1.1 100 Continue\r\n\r\n"])
    sent = _chunked(body, chance) if framing == "chunked" else body
    return interim + head + sent, Outcome(status, tuple(headers), body, allows_reuse=framing != "close")


def _chunked(body: bytes, chance: random.Random) -> bytes:
    sent, size = b"", chance.randint(1, 1000)
    for start in range(0, len(body), size):
        chunk = body[start : start + size]
        sent += b"%x%b\r\n%b\r\n" % (len(chunk), chance.choice([b"", b";name=value"]), chunk)
    return sent + b"0\r\n" + chance.choice([b"", b"Trailer: t\r\n"]) + b"\r\n"


def damaged(text: bytes, chance: random.Random) -> bytes:
    """Return `text` with some bytes inserted, replaced or cut off."""
    changed = bytearray(text)
    for _ in range(chance.randint(1, 3)):
        start = chance.randrange(chance.choice([len(changed), min(len(changed), 150)]) + 1)
        changed[start : chance.choice([start, start + 1, start + 1, len(changed)])] = chance.choice(
            [b"", *_WORDS, chance.randbytes(2)]
        )
    return bytes(changed)


def check(pieces: Iterable[bytes]) -> Outcome | None:
    """Parse the pieces, and raise AssertionError if the parser depends on the cuts, or understands other than h11.

    Returns:
        What the parser makes of the bytes; None if they are no complete response.
    """
    pieces = [piece for piece in pieces if piece]
    text = b"".join(pieces)
    found = parse(pieces)
    assert found == parse([text] if text else [])
    assert found == parse([text[place : place + 1] for place in range(len(text))])
    expected = _parse_with_h11(text)
    if found is not None and expected is not None:
        assert (found.status, found.body) == (expected.status, expected.body)
        assert not (found.allows_reuse and not expected.allows_reuse), "h11 would close this connection"
    return found


def parse(pieces: list[bytes]) -> Outcome | None:
    """Do what a connection does: feed until the response is complete, and count what is left as surplus.

    Empty lines are no surplus: RFC 9112 (2.2) lets a receiver skip them in front of a message.
    """
    parser, left = ResponseParser(), list(pieces)
    try:
        while left and not parser.is_complete:
            parser.feed(memoryview(left.pop(0)))
        if not parser.is_complete:
            parser.feed_eof()
    except httpcore2.RemoteProtocolError:
        return None
    assert parser.status is not None
    reuse = parser.allows_reuse and not b"".join(left).strip(b"\r\n")
    return Outcome(parser.status, tuple(parser.headers), b"".join(parser.body), allows_reuse=reuse)


def _parse_with_h11(text: bytes) -> Outcome | None:
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=2**20)
    connection.send(h11.Request(method="POST", target="/", headers=[("Host", "h")]))
    connection.send(h11.EndOfMessage())
    status, headers, body = 0, tuple[tuple[bytes, bytes], ...](), b""
    try:
        for event in _events(connection, text):
            if isinstance(event, h11.Response):
                status, headers = event.status_code, tuple(event.headers)
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                reuse = connection.their_state is h11.DONE and not connection.trailing_data[0].strip(b"\r\n")
                return Outcome(status, headers, body, allows_reuse=reuse)
    except h11.RemoteProtocolError:
        pass
    return None


def _events(connection: h11.Connection, text: bytes) -> Iterator[object]:
    for data in (text, b"") if text else (b"",):
        connection.receive_data(data)
        while (event := connection.next_event()) is not h11.NEED_DATA:
            yield event
            if isinstance(event, h11.ConnectionClosed) or connection.their_state is h11.SWITCHED_PROTOCOL:
                return


def _cut(text: bytes, lengths: Iterable[int]) -> Iterator[bytes]:
    start = 0
    for length in lengths:
        yield text[start : start + length]
        start += length
    yield text[start:]
