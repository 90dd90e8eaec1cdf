"""HTTP/1.1 at the level of bytes: upgrades, trailers, endless heads, and requests that parsers read differently."""

import asyncio
import contextlib
import json
import random
import socket
import urllib.error
import urllib.request
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from app.emulator import Emulator, Fault
from app.server.lifecycle import create_server
from app.service.resilience.admission import AdmissionController
from app.settings import Settings
from tests.conftest import image_file, running, under_our_own_server

MAX_HEADER_BYTES = 20_000
KEY = b"X-API-Key: a-key-of-somebody\r\n"
HOST = b"Host: localhost\r\n"
CHUNKED = b"POST /chunked HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"


@dataclass
class Recorder:
    """An application that records each request and returns its body."""

    requests: list[tuple[str, bytes]] = field(default_factory=list)
    """Method and path, and the body; `b"cut"` instead of a body that did not arrive completely."""
    headers: list[list[tuple[bytes, bytes]]] = field(default_factory=list)

    def clear(self) -> None:
        for remembered in (self.requests, self.headers):
            remembered.clear()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        number, body, more = len(self.requests), b"", True
        self.requests.append((f"{scope['method']} {scope['path']}", b"cut"))
        self.headers.append(scope["headers"])
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body, more = body + message["body"], message["more_body"]
        self.requests[number] = (self.requests[number][0], body)
        length = (b"content-length", b"%d" % len(body))
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        await send({"type": "http.response.body", "body": body})


@pytest.fixture(scope="module")
async def _recorded(settings: Settings) -> AsyncGenerator[tuple[int, Recorder]]:
    recorder, app = Recorder(), FastAPI()
    app.state.admission = AdmissionController(1, 1, 1)
    async with running(create_server(app, settings.model_copy(update={"max_header_bytes": MAX_HEADER_BYTES}))) as port:
        app.middleware_stack = recorder
        yield port, recorder


@pytest.fixture
def recorded(_recorded: tuple[int, Recorder]) -> tuple[int, Recorder]:
    """The port of a server with the service's protocol, and its application."""
    port, recorder = _recorded
    recorder.clear()
    return port, recorder


@pytest.fixture(scope="module")
async def _service(settings: Settings) -> AsyncGenerator[int]:
    async with under_our_own_server(settings, service_api_keys="tests:a-key-of-somebody") as port:
        yield port


@pytest.fixture
def service(_service: int, gemini: Emulator) -> int:
    """The port of the service as `python -m app` runs it, with an emulator that has no calls yet."""
    return _service


async def said(port: int, pieces: Iterable[bytes], *, pause: float = 0.0) -> bytes:
    """Send these packets. Return all bytes that the server sends until it closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    sock: socket.socket = writer.get_extra_info("socket")
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with contextlib.suppress(ConnectionError):
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)
    answer = b""
    with contextlib.suppress(ConnectionError):
        while data := await asyncio.wait_for(reader.read(65536), 10):
            answer += data
    writer.close()
    return answer


def final(request: bytes) -> bytes:
    """Return the request with `Connection: close`."""
    return request.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)


UPGRADES = [
    b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
    b"Upgrade: TLS/1.2\r\n",
    b"upgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB\r\n",
    b"UPGRADE:TLS/1.3, websocket,h2c\r\n",
    b"Upgrade: a\r\nX: y\r\nUpgrade:\t b\r\nUpgrade:\r\n",
]


@pytest.mark.parametrize("connection", [b"", b"Connection: Upgrade\r\n", b"Connection: keep-alive, upgrade\r\n"])
@pytest.mark.parametrize("upgrade", UPGRADES)
async def test_an_upgrade_header_is_ignored(recorded: tuple[int, Recorder], upgrade: bytes, connection: bytes) -> None:
    """
    The request, its body and the next request are read as without the header, in packets of any size.
    """
    body = b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\nUpgrade: h2c\r\n\r\n"
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    about = HOST + connection + upgrade
    framed = [
        (b"GET / HTTP/1.1\r\n" + about + b"\r\n", b""),
        (b"POST /sized HTTP/1.1\r\n" + about + b"Content-Length: %d\r\n\r\n" % len(body), body),
        (b"POST /chunked HTTP/1.1\r\n" + about + b"Transfer-Encoding: chunked\r\n\r\n", chunks),
    ]
    last = final(b"GET /last HTTP/1.1\r\n" + HOST + b"\r\n")
    port, recorder = recorded
    for head, content in framed:
        for pieces in ([head + content], [head, content], [head[:30], head[30:-2], head[-2:] + content]):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for piece in filter(None, pieces):
                writer.write(piece)
                await asyncio.sleep(0.002)
            answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
            assert answer.startswith(b"HTTP/1.1 200"), answer
            writer.write(last)
            assert (await asyncio.wait_for(reader.read(), 10)).count(b"HTTP/1.1 200") == 1
            writer.close()

    one_of_each = [("GET /", b""), ("POST /sized", body), ("POST /chunked", body)]
    assert recorder.requests == [one for each in one_of_each for one in (each, ("GET /last", b"")) * 3]
    assert not [name for headers in recorder.headers for name, _ in headers if name == b"upgrade"]


@pytest.mark.parametrize("cut", [0, 40, 200])
async def test_a_prompt_that_looks_like_a_head_reaches_gemini_unchanged(
    service: int, gemini: Emulator, cut: int
) -> None:
    prompt = "A sign that reads\r\nUpgrade: h2c\r\n\r\nand\r\nupgrade: websocket\r\n"
    parts = [b'name="prompt"\r\n\r\n' + prompt.encode(), b'name="images"; filename="a.png"\r\n\r\n' + image_file()]
    form = b"".join(b"--x\r\nContent-Disposition: form-data; " + part + b"\r\n" for part in parts) + b"--x--\r\n"
    head = (
        b"POST /generate-image/with-references HTTP/1.1\r\n"
        + HOST
        + KEY
        + b"Connection: close, Upgrade\r\nUpgrade: h2c\r\n"
        b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: %d\r\n\r\n" % len(form)
    )
    whole = head + form
    answer = await said(service, [whole[: cut or None], whole[cut:] if cut else b""], pause=0.02)

    assert answer.startswith(b"HTTP/1.1 200"), answer[:500]
    assert gemini.calls[0].body["contents"][0]["parts"][0]["text"] == prompt


async def test_an_http_1_0_response_is_not_chunked(service: int, gemini: Emulator) -> None:
    """
    If the response has no length, the end of the connection marks its end.
    """
    gemini.faults.append(Fault(status=503, headers={"Retry-After": "0"}))
    body = json.dumps({"prompt": "A lighthouse", "imageSize": "1K"}).encode()
    head = b"POST /generate-image HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: %d\r\n" % len(body)
    events = await said(service, [head + HOST + KEY + b"Accept: text/event-stream\r\n\r\n" + body])
    document = await said(
        service, [head + HOST + KEY + b"Expect: 100-continue\r\nConnection: keep-alive\r\n\r\n" + body]
    )

    about, _, stream = events.partition(b"\r\n\r\n")
    assert b"chunked" not in about.lower()
    assert b"connection: close" in about.lower()
    assert stream.startswith(b"event: started\ndata: ")
    assert stream.endswith(b"event: done\ndata: {}\n\n")
    assert document.startswith(b"HTTP/1.1 200")
    assert json.loads(document.partition(b"\r\n\r\n")[2])["model"]


async def test_trailers_are_not_headers(recorded: tuple[int, Recorder], service: int, gemini: Emulator) -> None:
    trailers = b"X-API-Key: a-key-of-somebody\r\nAuthorization: Bearer a-key-of-somebody\r\nUpgrade: h2c\r\n"
    sent = final(CHUNKED) + b"1\r\na\r\n0\r\n" + trailers + b"Content-Type: text/html\r\nX-Request-Id: mine\r\n\r\n"
    port, recorder = recorded
    await said(port, [sent])
    await said(port, (bytes([one]) for one in sent))

    assert recorder.requests == [("POST /chunked", b"a")] * 2
    for headers in recorder.headers:
        assert {name for name, _ in headers} == {b"connection", b"host", b"transfer-encoding"}

    ask = b'{"prompt": "A lighthouse"}'
    head = b"POST /generate-image HTTP/1.1\r\nConnection: close\r\nContent-Type: application/json\r\n" + HOST
    chunks = b"%x\r\n%s\r\n0\r\n%s\r\n" % (len(ask), ask, trailers)
    answer = await said(service, [head + b"Transfer-Encoding: chunked\r\n\r\n", chunks])

    assert answer.startswith(b"HTTP/1.1 401"), answer
    assert not gemini.calls


ENDLESS = {
    "a header": (b"GET / HTTP/1.1\r\n" + HOST + b"X: ", b"a" * 1024),
    "headers": (b"GET / HTTP/1.1\r\n" + HOST, b"X: y\r\n" * 170),
    "a target": (b"GET /", b"a" * 1024),
    "a method": (b"", b"A" * 1024),
    "trailers": (CHUNKED + b"1\r\na\r\n0\r\n", b"X: y\r\n" * 170),
    "a trailer": (CHUNKED + b"1\r\na\r\n0\r\nX: ", b"a" * 1024),
    "empty lines": (b"", b"\r\n" * 500),
    "short headers": (b"GET / HTTP/1.1\r\n" + HOST + b"a:\r\n" * 300 + b"\r\n", b"b"),
    "a chunk extension": (CHUNKED + b"1;x=", b"a" * 1024),
    "chunk extensions": (CHUNKED, b"1;x=" + b"a" * 1000 + b"\r\na\r\n"),
    "leading zeros": (CHUNKED, b"0" * 1024),
    "chunks of one byte": (CHUNKED, b"1\r\na\r\n" * 170),
}


@pytest.mark.parametrize("what", ENDLESS)
async def test_an_endless_head_or_framing_is_refused_while_it_arrives(
    recorded: tuple[int, Recorder], what: str
) -> None:
    start, more = ENDLESS[what]
    port, recorder = recorded
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(start)
    sent = 0
    while sent < 4_000_000 and not reader.at_eof():
        writer.write(more)
        sent += len(more)
        await asyncio.sleep(0)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.0005 if sent > 20_000 else 0):
                if answer := await reader.read(100):
                    break
    writer.close()

    assert answer.startswith(b"HTTP/1.1 431"), answer
    assert sent < 400_000
    assert all(body == b"cut" for _, body in recorder.requests)


AMBIGUOUS = {
    "length and chunks": HOST + b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG",
    "chunks and length": HOST + b"Transfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\nG",
    "two lengths": HOST + b"Content-Length: 3\r\nContent-Length: 5\r\n\r\nabcde",
    "a list of lengths": HOST + b"Content-Length: 3, 5\r\n\r\nabcde",
    "a signed length": HOST + b"Content-Length: +3\r\n\r\nabc",
    "a negative length": HOST + b"Content-Length: -3\r\n\r\nabc",
    "an absurd length": HOST + b"Content-Length: 99999999999999999999\r\n\r\nabc",
    "a length in hexadecimal": HOST + b"Content-Length: 0x3\r\n\r\nabc",
    "no length": HOST + b"Content-Length:\r\n\r\nabc",
    "another coding": HOST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "a coding behind chunks": HOST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "a coding before chunks": HOST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "codings in two lines": HOST + b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "identity": HOST + b"Transfer-Encoding: identity\r\n\r\nabc",
    "a folded line": HOST + b"X: a\r\n b\r\n\r\n",
    "a folded length": HOST + b"Content-Length:\r\n 3\r\n\r\nabc",
    "a folded upgrade": HOST + b"X: a\r\nUpgrade: h2c\r\n Content-Length: 3\r\n\r\nabc",
    "lines without carriage return": HOST.replace(b"\r", b"") + b"X: y\n\n",
    "a line without carriage return": HOST + b"X: a\nUpgrade: h2c\nContent-Length: 3\r\n\r\nabc",
    "an end without carriage return": HOST + b"X: y\r\n\n",
    "a carriage return alone": HOST + b"X: a\rContent-Length: 3\r\n\r\nabc",
    "space before the colon": HOST + b"Content-Length : 3\r\n\r\nabc",
    "tab before the colon": HOST + b"Transfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n",
    "space before an upgrade's colon": HOST + b"Connection: Upgrade\r\nUpgrade : h2c\r\n\r\n",
    "space before the first name": b" " + HOST + b"\r\n",
    "no colon": HOST + b"Upgrade\r\n\r\n",
    "no name": HOST + b": x\r\n\r\n",
    "a zero byte": HOST + b"X: a\0b\r\n\r\n",
    "two hosts": HOST + HOST + b"\r\n",
}
BAD_LINES = [
    b"GET /\r\n", b"GET / HTTP/0.9\r\n", b"GET / HTTP/1.2\r\n", b"GET / HTTP/3.0\r\n", b"get / HTTP/1.1\r\n",
    b"GET / HTTP/1.1 \r\n", b"GET / x HTTP/1.1\r\n", b"CONNECT localhost:80 HTTP/1.1\r\n",
    b"PRI * HTTP/2.0\r\n", b"\x16\x03\x01\x02\r\n", b"{}\r\n", b"GET / HTTP/1.1\n",
]  # fmt: skip


@pytest.mark.parametrize("what", [*AMBIGUOUS, *BAD_LINES])
async def test_a_request_that_parsers_read_differently_is_refused(
    recorded: tuple[int, Recorder], what: str | bytes
) -> None:
    """
    Neither this request nor the next one on its connection reaches the application, in packets of any size.
    """
    request = b"POST / HTTP/1.1\r\n" + AMBIGUOUS[what] if isinstance(what, str) else what + HOST + b"\r\n"
    following = b"GET /following HTTP/1.1\r\n" + HOST + b"\r\n"
    port, recorder = recorded
    answers = [
        await said(port, [request + following]),
        await said(port, [request, following], pause=0.005),
        await said(port, [*(request[i : i + 7] for i in range(0, len(request), 7)), following]),
    ]

    assert [answer[:13] for answer in answers] == [b"HTTP/1.1 400 "] * 3
    assert [answer.count(b"HTTP/1.1 ") for answer in answers] == [1] * 3
    assert all(json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "invalid_http" for answer in answers)
    assert not recorder.requests


BROKEN_CHUNKS = [
    b"zz\r\na\r\n", b"-1\r\na\r\n", b"+1\r\na\r\n", b"0x1\r\na\r\n", b"11111111111111111\r\na\r\n", b"1\r\nab\r\n",
    b"1\na\r\n", b"1\r\na\n", b" 1\r\na\r\n", b"1 \r\na\r\n", b"\r\na\r\n", b"1;a\nb\r\na\r\n",
    b"1\r\na\r\n0\r\n X: y\r\n\r\n",
    b"1\r\na\r\n0\r\nX y\r\n\r\n", b"1\r\na\r\n0\r\nContent-Length: 3\r\n\r\n", b"1\r\na\r\n0\r\n\n",
]  # fmt: skip


@pytest.mark.parametrize("chunks", BROKEN_CHUNKS)
async def test_a_malformed_chunk_is_refused_at_once(
    recorded: tuple[int, Recorder], service: int, gemini: Emulator, chunks: bytes
) -> None:
    """
    The application does not get a complete body, Gemini is not called, and the connection closes.
    """
    ask = b'{"prompt": "A lighthouse"}'
    head = (
        b"POST /generate-image HTTP/1.1\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n"
        + HOST
        + KEY
    )
    following = b"GET /following HTTP/1.1\r\n" + HOST + b"\r\n"
    port, recorder = recorded
    answers = [await said(port, [CHUNKED + chunks + following])]
    answers += [await said(port, [CHUNKED, b"2\r\n{}\r\n", chunks, following], pause=0.005)]
    answers += [await said(service, [head + b"\r\n%x\r\n%s\r\n" % (len(ask), ask), chunks, following], pause=0.02)]

    assert [answer[:13] for answer in answers] == [b"HTTP/1.1 400 "] * 3
    assert [answer.count(b"HTTP/1.1 ") for answer in answers] == [1] * 3
    assert recorder.requests == [("POST /chunked", b"cut")] * len(recorder.requests)
    assert len(recorder.requests) <= 2
    assert not gemini.calls


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 2\r\n\r\nab", b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n"]
)
async def test_empty_lines_after_a_body_are_ignored(recorded: tuple[int, Recorder], framing: bytes) -> None:
    port, recorder = recorded
    request, empty = b"POST / HTTP/1.1\r\n" + HOST + framing, b"\r\n\r\n"
    last = final(b"GET /last HTTP/1.1\r\n" + HOST + b"\r\n")
    await said(port, [request + empty, empty + request, empty, b"\r", b"\n", last], pause=0.03)

    assert recorder.requests == [("POST /", b"ab"), ("POST /", b"ab"), ("GET /last", b"")]


async def test_a_request_after_a_large_chunked_body_is_not_part_of_the_body(recorded: tuple[int, Recorder]) -> None:
    """
    A second request in the same packet is not served. The connection closes after the first response.
    """
    port, recorder = recorded
    following = b"GET /following HTTP/1.1\r\n" + HOST + b"\r\n"
    for framed in range(32 * 1024 - 3, 32 * 1024 + 4):  # around the size of the pieces that the parser gets
        body = b"x" * (framed - len(b"7fff\r\n" + b"\r\n0\r\n\r\n"))
        chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        answer = await said(port, [CHUNKED, chunks + following * 3], pause=0.01)

        assert answer.count(b"HTTP/1.1 200") == 1
        assert recorder.requests.pop() == ("POST /chunked", body)
        assert not recorder.requests


@pytest.mark.parametrize("size", [200_000, 3_000_000])
async def test_a_request_after_the_body_of_a_refused_request_is_served(service: int, size: int) -> None:
    """
    The response is sent before the body has arrived. The client sends the whole body, then another request.
    """
    refused = b"POST /generate-image HTTP/1.1\r\nContent-Length: %d\r\n" % size + HOST + b"\r\n"
    following = final(b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n")
    answer = await said(service, [refused, b"x" * size + following], pause=0.1)

    assert answer.startswith(b"HTTP/1.1 401")
    assert answer.count(b"HTTP/1.1 200") == 1


@pytest.mark.parametrize("size", [3_000_000, 20_000_000])
async def test_a_client_that_sends_its_whole_body_before_it_reads_gets_the_refusal(service: int, size: int) -> None:
    """
    Python's urllib asks for `Connection: close`. If the server closed the connection while the body arrives, the kernel
    would reset it, and the response would be lost.
    """
    request = urllib.request.Request(f"http://127.0.0.1:{service}/generate-image", b"x" * size, method="POST")
    for _ in range(3):
        with pytest.raises(urllib.error.HTTPError) as refused:
            await asyncio.to_thread(urllib.request.urlopen, request, timeout=10)
        with refused.value as answer:
            assert answer.code == 401
            assert json.load(answer)["code"] == "unauthorized"


@pytest.mark.parametrize("size", [70_000, 3_000_000])
async def test_a_refusal_before_the_end_of_a_chunked_body_closes_the_connection(service: int, size: int) -> None:
    head = b"POST /generate-image HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + HOST + b"\r\n"
    chunk, following = b"%x\r\n%s\r\n" % (size, b"x" * size), b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n"
    answer = await said(service, [head + chunk[:1000], chunk[1000:] + b"0\r\n\r\n" + following], pause=0.1)

    assert answer.startswith(b"HTTP/1.1 401")
    assert b"\r\nconnection: close\r\n" in answer.lower()
    assert answer.count(b"HTTP/1.1 ") == 1


async def test_a_request_gets_only_one_response(service: int) -> None:
    """
    If a malformed chunk arrives after the response, the connection closes without a second response.
    """
    head = b"POST /nowhere HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + HOST + KEY + b"\r\n"
    answer = await said(service, [head + b"1\r\na\r\n", b"zz\r\n"], pause=0.1)

    assert answer.startswith(b"HTTP/1.1 404")
    assert answer.count(b"HTTP/1.1 ") == 1


async def test_requests_are_read_correctly_in_packets_of_any_size(recorded: tuple[int, Recorder]) -> None:
    """
    Random sequences of requests are sent in random pieces. The valid ones reach the application completely and in
    order. Nothing after a malformed one reaches it.
    """
    rng = random.Random(14)
    port, recorder = recorded

    async def converse(name: int) -> tuple[list[tuple[str, bytes]], int, int]:
        expected, statuses = list[tuple[str, bytes]](), list[int]()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for turn in range(rng.randrange(1, 6)):
            path, broken = f"/{name}/{turn}", rng.random() < 0.15
            sent, body = a_request(rng, path, broken=broken)
            if not broken:
                expected.append((f"POST {path}", body))
            for piece in in_pieces(rng, sent):
                writer.write(piece)
                await asyncio.sleep(rng.choice([0, 0, 0.001]))
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
            statuses.append(int(head.split()[1]))
            if broken:
                writer.write(b"GET /smuggled HTTP/1.1\r\n" + HOST + b"\r\n")
                with contextlib.suppress(ConnectionError):
                    assert b"HTTP/1.1" not in await asyncio.wait_for(reader.read(), 10)
                break
            assert await reader.readexactly(len(body)) == body
        writer.close()
        return expected, statuses.count(200), statuses.count(400)

    for name in range(60):
        before = len(recorder.requests)
        expected, served, refused = await converse(name)
        reached = [one for one in recorder.requests[before:] if one[1] != b"cut"]
        assert reached == expected
        assert served == len(expected)
        assert refused <= 1


def a_request(rng: random.Random, path: str, *, broken: bool) -> tuple[bytes, bytes]:
    """Return a random request, and its body."""
    body = rng.choice([b"", b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n", rng.randbytes(rng.randrange(2000))])
    lines = [HOST, b"Connection: Upgrade\r\n", rng.choice(UPGRADES), b"X: %s\r\n" % (b"y" * rng.randrange(300))]
    lines = rng.sample(lines[1:], rng.randrange(4)) + lines[:1]
    if broken and rng.random() < 0.5:
        return b"POST %s HTTP/1.1\r\n" % path.encode() + rng.choice(list(AMBIGUOUS.values())), b""
    if broken or rng.random() < 0.5:
        lines.append(b"Transfer-Encoding: chunked\r\n")
        cuts = [0, *sorted(rng.randrange(len(body) + 1) for _ in range(3)), len(body)]
        parts = [body[start:end] for start, end in pairwise(cuts)]
        framed = b"".join(b"%x;e=%d\r\n%s\r\n" % (len(part), len(part), part) for part in parts if part)
        framed += rng.choice(BROKEN_CHUNKS) if broken else b"0\r\n" + rng.choice([b"", b"X-Trailer: y\r\n"]) + b"\r\n"
    else:
        lines.append(b"Content-Length: %d\r\n" % len(body))
        framed = body
    rng.shuffle(lines)
    return b"POST %s HTTP/1.1\r\n" % path.encode() + b"".join(lines) + b"\r\n" + framed, body


def in_pieces(rng: random.Random, sent: bytes) -> list[bytes]:
    count = rng.choice([0, 1, 3, 10])
    cuts = [0, *sorted(rng.randrange(len(sent)) for _ in range(count)), len(sent)]
    return [sent[start:end] for start, end in pairwise(cuts) if end > start]
