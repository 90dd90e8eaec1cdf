"""Responses that are not valid end as a documented problem, and do not block other requests."""

import asyncio
import base64
import contextlib
import gzip
import json
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

import httpx2
import pytest

from tests.conftest import Serve, image_file
from tests.test_event_stream import read

ASK = {"prompt": "A lighthouse", "imageSize": "1K"}
EVENTS = {"Accept": "text/event-stream"}
JPEG = image_file("JPEG", (1024, 1024), "navy")
PART = json.dumps({"inlineData": {"mimeType": "image/jpeg", "data": base64.b64encode(JPEG).decode()}})
MIB = 2**20


def response_body(parts: str = PART, more: str = "") -> bytes:
    return f'{{"candidates": [{{"content": {{"parts": [{parts}]}}, "finishReason": "STOP"{more}}}]}}'.encode()


def head(length: object, status: int = 200, *more: str) -> bytes:
    lines = [f"HTTP/1.1 {status} X", "Content-Type: application/json", f"Content-Length: {length}", *more, "", ""]
    return "\r\n".join(lines).encode()


class Upstream:
    """A server whose responses the test sets."""

    def __init__(self) -> None:
        self.respond_with(b"")
        self.request_count = 0
        """The number of requests received."""

    def respond_with(
        self, *pieces: bytes, then: Literal["reset", "close"] | None = None, pause_seconds: float = 0
    ) -> None:
        """Respond with these pieces from now on, then do `then` or serve the next request."""
        self._pieces, self._then, self._pause_seconds, self.request_count = pieces, then, pause_seconds, 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(head.lower().partition(b"content-length:")[2].split()[0]))
                self.request_count += 1
                for piece in self._pieces:
                    for start in range(0, len(piece), 64 * 1024):
                        writer.write(piece[start : start + 64 * 1024])
                        await writer.drain()
                    await asyncio.sleep(self._pause_seconds)
                if self._then == "reset":
                    writer.transport.abort()
                if self._then is not None:
                    break
        writer.close()


@asynccontextmanager
async def listening(upstream: Upstream) -> AsyncGenerator[str]:
    server = await asyncio.start_server(upstream, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.fixture(scope="module")
async def _pair(serve: Serve) -> AsyncGenerator[tuple[Upstream, httpx2.AsyncClient]]:
    upstream = Upstream()
    overrides = {"upstream_stall_seconds": 0.3, "upstream_first_byte_seconds": 1, "max_upstream_body_bytes": 24 * MIB}
    async with listening(upstream) as url, serve(google_gemini_base_url=url, **overrides) as client:
        yield upstream, client


@pytest.fixture
def upstream(_pair: tuple[Upstream, httpx2.AsyncClient]) -> Upstream:
    return _pair[0]


@pytest.fixture
def client(_pair: tuple[Upstream, httpx2.AsyncClient]) -> httpx2.AsyncClient:
    """A caller of a service that uses `upstream` as Gemini."""
    return _pair[1]


async def post(
    client: httpx2.AsyncClient,
    *,
    streamed: bool = False,
    check_image: bool = True,
    headers: dict[str, str] | None = None,
) -> tuple[int, str, list[str]]:
    """Return the status, the code (`ok` for an image) and the warnings of the response."""
    headers = (EVENTS if streamed else {}) | (headers or {})
    async with client.stream("POST", "/generate-image", json=ASK, headers=headers) as response:
        if streamed:
            found = {name: data async for name, data in read(response)}
            document = found.get("problem") or found["image"]
        else:
            document = json.loads(await response.aread())
    if "code" in document:
        return document["status"], document["code"], []
    assert not check_image or base64.b64decode(document["image"]["data"]) == JPEG
    return 200, "ok", document["warnings"]


@asynccontextmanager
async def longest_pause() -> AsyncIterator[list[float]]:
    """Measure the longest time inside the block in which the event loop ran no other task, in seconds of CPU time."""
    longest = [0.0]

    async def watch() -> None:
        while True:
            before = time.process_time()
            await asyncio.sleep(0.001)
            longest[0] = max(longest[0], time.process_time() - before)

    watching = asyncio.create_task(watch())
    try:
        yield longest
    finally:
        watching.cancel()


INVALID = (502, "upstream_invalid_response")
PAUSE_SECONDS = 1.0
"""Longer than a slow machine needs for what the limits allow. Without limits each case takes longer."""

TOO_MUCH = {
    "text": response_body(json.dumps({"text": "word " * 4 * MIB}) + f", {PART}"),
    "text in a stream": b"data: " + response_body(json.dumps({"text": "word " * 4 * MIB})) + b"\r\n\r\n",
    "a line of a stream": b"data: " + b"x" * 20 * MIB,
    "comments": b": still here\r\n" * MIB,
    "empty lines": b"\n" * 20 * MIB,
    "spaces": b" " * 20 * MIB + response_body(),
    "sources": response_body(
        PART, f', "groundingMetadata": {{"searchEntryPoint": {{"renderedContent": "{"<b>" * MIB}"}}}}'
    ),
    "parts": response_body(", ".join(["{}"] * 300_000)),
    "parts with text": response_body(", ".join(['{"text": "a"}'] * 40_000)),
    "candidates": b'{"candidates": [' + b", ".join([b"{}"] * 90_000) + b"]}",
    "images": response_body(", ".join(['{"inlineData": {"data": "QQ=="}}'] * 100_000)),
    "events": b"data: {}\n\n" * 200_000,
    "documents in a line": b"{}" * 900_000,
    "brackets": b"[" * 5 * MIB,
    "nesting": response_body('{"x": ' + "[" * 2000 + "]" * 2000 + "}"),
    "digits": b'{"x": ' + b"1" * MIB + b"}",
    "quotation marks": response_body(json.dumps({"text": '"' * 2 * MIB})),
}


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("what", TOO_MUCH)
async def test_a_response_over_a_limit_is_an_error_and_blocks_no_other_request(
    client: httpx2.AsyncClient, upstream: Upstream, what: str, streamed: bool
) -> None:
    body = TOO_MUCH[what]
    upstream.respond_with(head(len(body)) + body)

    async with longest_pause() as pause:
        outcome = await asyncio.wait_for(post(client, streamed=streamed), 10)

    assert outcome[:2] == INVALID
    assert pause[0] < PAUSE_SECONDS


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("word", ["words and ", "a" * 399 + "! ", ("a" * 399 + " ") * 4 + "! ", "data:image/png "])
async def test_a_search_for_images_in_long_text_is_fast(
    client: httpx2.AsyncClient, upstream: Upstream, word: str, streamed: bool
) -> None:
    text = json.dumps({"text": word * (3 * MIB // 2 // len(word)) + "a" * 100})
    body = response_body(f"{text}, {PART}")
    upstream.respond_with(head(len(body)) + body)

    async with longest_pause() as pause:
        outcome = await post(client, streamed=streamed)

    assert outcome[:2] == (200, "ok")
    assert pause[0] < PAUSE_SECONDS


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (503, b'{"error": {"message": "' + b"limit: 0 " * 2 * MIB + b'"}}', (503, "upstream_busy")),
        (429, b'{"error": {"message": "' + b"retry in 1h " * 2 * MIB + b'"}}', (503, "upstream_busy")),
        (400, b'{"error": {"message": "' + b"aspect ratio " * MIB + b'"}}', (422, "invalid_request")),
        (503, "<h1>Gestört</h1>".encode("latin-1"), (503, "upstream_busy")),
        (503, b'{"error": {"code": ' + b"1" * 5000 + b"}}", (503, "upstream_busy")),
        (503, b'{"error": {"details": ' + b"[" * 450 + b"]" * 450 + b"}}", (503, "upstream_busy")),
        (503, b'{"error": {"details": [' + b",".join([b"{}"] * 40_000) + b"]}}", (503, "upstream_busy")),
        (503, b"[1, 2]", (503, "upstream_busy")),
        (503, b"null", (503, "upstream_busy")),
        (503, b"\x1f\x8b" * 100, (503, "upstream_busy")),
    ],
)
async def test_an_error_needs_only_its_status(
    client: httpx2.AsyncClient, upstream: Upstream, status: int, body: bytes, expected: tuple[int, str]
) -> None:
    upstream.respond_with(head(len(body), status) + body)

    async with longest_pause() as pause:
        outcome = await asyncio.wait_for(post(client), 10)

    assert outcome[:2] == expected
    assert pause[0] < PAUSE_SECONDS


@pytest.mark.parametrize("then", ["reset", "close", None])
async def test_an_error_with_an_incomplete_body_is_known_by_its_status(
    client: httpx2.AsyncClient, upstream: Upstream, then: Literal["reset", "close"] | None
) -> None:
    upstream.respond_with(head(99, 503) + b'{"error": ', then=then, pause_seconds=0.01)

    outcome = await asyncio.wait_for(post(client), 10)

    assert outcome[:2] == (503, "upstream_busy")


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("part", [{"inlineData": {"data": "A" * 28 * MIB}}, {"text": "words " * 4 * MIB}])
async def test_the_limit_counts_bytes_after_decompression(
    client: httpx2.AsyncClient, upstream: Upstream, part: object, streamed: bool
) -> None:
    body = gzip.compress(response_body(json.dumps(part)), 1)
    upstream.respond_with(head(len(body), 200, "Content-Encoding: gzip") + body)

    async with longest_pause() as pause:
        outcome = await asyncio.wait_for(post(client, streamed=streamed), 10)

    assert outcome[:2] == INVALID
    assert pause[0] < PAUSE_SECONDS


# Content lengths.


@pytest.mark.parametrize("length", [24 * MIB + 1, 10**12, 2**63, 2**64 - 1])
async def test_a_content_length_over_the_limit_is_an_error_at_once(
    client: httpx2.AsyncClient, upstream: Upstream, length: int
) -> None:
    """
    It reserves no memory, and no other request waits.
    """
    upstream.respond_with(head(length) + b"{")

    code = (await asyncio.wait_for(post(client), 5))[1]
    metrics = (await client.get("/metrics")).text

    assert code == "upstream_invalid_response" if length < 2**63 else code.startswith("upstream_")
    assert 'gemini_images_buffered_bytes{kind="responses"} 0.0' in metrics


@pytest.mark.parametrize("length", ["-1", "abc", "0x10", "1e3", "5\r\nContent-Length: 6", "9" * 30, "1_0", "5, 6"])
async def test_an_invalid_content_length_is_an_upstream_error(
    client: httpx2.AsyncClient, upstream: Upstream, length: str
) -> None:
    upstream.respond_with(head(length) + response_body(), then="close")

    status, code, _ = await asyncio.wait_for(post(client), 10)

    assert (status, code) in ((502, "upstream_error"), INVALID)


async def test_a_content_length_alone_reserves_no_memory(serve: Serve) -> None:
    """
    Two responses that announce 90 MB and send nothing leave enough memory for a third.
    """
    upstream = Upstream()
    upstream.respond_with(head(90 * MIB) + b"{")
    async with listening(upstream) as url, serve(google_gemini_base_url=url, max_buffered_bytes=100 * MIB) as client:
        dripping = [asyncio.create_task(post(client)) for _ in range(2)]
        while upstream.request_count < 2:  # noqa: ASYNC110 - it has no other way to tell
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        upstream.respond_with(head(len(response_body())) + response_body())
        outcome = await asyncio.wait_for(post(client), 5)
        for one in dripping:
            one.cancel()
        await asyncio.gather(*dripping, return_exceptions=True)

    assert outcome[:2] == (200, "ok")


# Bytes after a complete response.


@pytest.mark.parametrize(
    ("after", "announced", "then", "warned"),
    [
        (b"", 0, None, False),
        (b"", 1000, "reset", True),
        (b"", 1000, "close", True),
        (b"", 1000, None, True),  # silence
        (b"\r\n", 1000, "reset", True),
        (b" rubbish", 0, None, True),
        (b'{"error": {"code": 503}}', 0, None, True),
        (b"<html>", 0, None, True),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
async def test_bytes_after_a_complete_response_do_not_affect_its_image(
    client: httpx2.AsyncClient,
    upstream: Upstream,
    after: bytes,
    announced: int,
    then: Literal["reset", "close"] | None,
    warned: bool,
    streamed: bool,
) -> None:
    """
    The connection may break, be silent, or carry other bytes: the image has arrived and is paid.
    """
    body = (b"data: " + response_body() + b"\r\n\r\n" if streamed else response_body()) + after
    upstream.respond_with(head(len(body) + announced) + body, then=then, pause_seconds=0.05)

    status, code, warnings = await asyncio.wait_for(post(client, streamed=streamed), 10)

    assert (status, code) == (200, "ok")
    if not (streamed and after in (b"<html>", b" rubbish")):  # lines that no event stream has a use for
        assert bool(warnings) == warned


async def test_an_image_that_arrived_before_the_deadline_is_delivered(
    client: httpx2.AsyncClient, upstream: Upstream
) -> None:
    body = b"data: " + response_body() + b"\r\n\r\n"
    upstream.respond_with(head(len(body) + 1) + body)

    outcome = await asyncio.wait_for(post(client, streamed=True, headers={"X-Timeout-Seconds": "0.5"}), 5)

    assert outcome[:2] == (200, "ok")


# Random damage.


async def test_random_damage_ends_as_a_problem(client: httpx2.AsyncClient, upstream: Upstream) -> None:
    """
    Responses are cut and changed at random, in headers and bodies. None becomes a 500.
    """
    chance = random.Random(14)
    stream = b"data: " + response_body() + b'\r\n\r\n{\r\n  "error": {\r\n    "code": 503\r\n  }\r\n}\r\n'
    for number in range(60):
        reply = bytearray(chance.choice([head(len(response_body())) + response_body(), head(len(stream)) + stream]))
        for _ in range(chance.randint(1, 3)):
            place = chance.randrange(chance.choice([len(reply) + 1, 200]))
            inserted = chance.choice([b"", b"", b'"', b"\\", b"{", b"\n\n", b"data:", b"\xff", b"\r\n", b"]", b"\0"])
            reply[place : chance.choice([place, place + 1, len(reply)])] = inserted
        upstream.respond_with(bytes(reply), then="close")

        status = (await asyncio.wait_for(post(client, streamed=number % 2 == 0, check_image=False), 10))[0]

        assert status in (200, 422, 429, 502, 503, 504), bytes(reply[:300])


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_response_that_breaks_off_inside_a_string_blocks_no_other_request(
    client: httpx2.AsyncClient, upstream: Upstream, streamed: bool
) -> None:
    whole = response_body(json.dumps({"text": '"' * 100_000}))
    upstream.respond_with(head(len(whole)) + whole[: len(whole) // 2], then="close")

    async with longest_pause() as pause:
        outcome = await asyncio.wait_for(post(client, streamed=streamed), 10)

    assert outcome[0] == 502
    assert pause[0] < PAUSE_SECONDS
