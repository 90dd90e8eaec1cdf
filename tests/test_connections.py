"""The HTTP client over a real socket, with servers that behave correctly or not."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager

import httpcore2
import httpx2
import pytest

from app.gemini.transport.http import ConnectionPool
from app.gemini.transport.http.parser import MAX_HEAD_BYTES
from app.lib.event_loop_scheduler import FairScheduler
from tests.raw_servers import OK, Talk, ask, listening, with_late_surplus_response
from tests.tls import authority, server_context


@asynccontextmanager
async def serving(talk: Talk, *, tls: bool = False) -> AsyncGenerator[tuple[ConnectionPool, str]]:
    """Run a server that handles each connection with `talk`. Yield a pool that trusts it, and its URL."""
    async with (
        listening(talk, server_context() if tls else None) as port,
        aclosing(ConnectionPool(FairScheduler(), trust_env=False)) as pool,
    ):
        authority().configure_trust(pool.tls)
        yield pool, f"http{'s' * tls}://localhost:{port}/v1beta/x"


def replying(*replies: bytes, close: bool = False) -> tuple[Talk, list[int]]:
    """Send one reply after another on each connection, each after a request; also return the number of connections."""
    connections: list[int] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(0)
        for reply in replies:
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.lower().partition(b"content-length:")[2].split()[0]))
            connections[-1] += 1
            writer.write(reply)
            await writer.drain()
        if not close:
            await reader.read()

    return talk, connections


@pytest.mark.parametrize(
    "reply",
    [
        OK,
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1;ext=1\r\nk\r\n0\r\nTrailer: t\r\n\r\n",
    ],
)
async def test_a_connection_is_reused_after_a_complete_response(reply: bytes) -> None:
    talk, connections = replying(reply, reply, reply)
    async with serving(talk) as (pool, url):
        responses = [await ask(pool, url) for _ in range(3)]

    assert responses == [(200, b"ok")] * 3
    assert connections == [3]


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        OK + b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nnot ours",
        OK + b"\r\n\r\nrubbish",
    ],
)
async def test_a_connection_is_not_reused_after_an_irregular_response(reply: bytes) -> None:
    """
    Otherwise a surplus response could be taken for the response to another caller's request.
    """
    talk, connections = replying(reply, reply)
    async with serving(talk) as (pool, url):
        responses = [await ask(pool, url) for _ in range(2)]

    assert responses == [(200, b"ok")] * 2
    assert connections == [1, 1]


@pytest.mark.parametrize("tls", [False, True])
async def test_a_response_between_two_requests_is_used_for_neither(tls: bool) -> None:
    """
    The TLS layer may already have it, so that the socket alone does not show it.
    """
    talk, connections = with_late_surplus_response()
    async with serving(talk, tls=tls) as (pool, url):
        first = await ask(pool, url)
        await asyncio.sleep(0.3)
        second = await ask(pool, url)

    assert [first, second] == [(200, b"ok")] * 2
    assert len(connections) == 2


async def test_a_response_without_a_length_ends_with_its_connection() -> None:
    talk, connections = replying(b"HTTP/1.1 200 OK\r\n\r\neverything", close=True)
    async with serving(talk) as (pool, url):
        responses = [await ask(pool, url) for _ in range(2)]

    assert responses == [(200, b"everything")] * 2
    assert connections == [1, 1]


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: other\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * MAX_HEAD_BYTES + b"\r\n\r\n",
    ],
)
async def test_an_incomplete_or_missing_response_is_an_error(reply: bytes) -> None:
    talk, _ = replying(reply, close=True)
    async with serving(talk) as (pool, url):
        with pytest.raises((httpcore2.RemoteProtocolError, httpcore2.ReadError)):
            await asyncio.wait_for(ask(pool, url), 4)


@pytest.mark.parametrize(
    ("begin", "more"),
    [
        (b"HTTP/1.1 200 OK\r\nX: ", b"a" * 1000),
        (b"HTTP/1.1 200 OK\r\n", b"a" * 1000),
        (b"HTTP/1.1 200 ", b"a" * 1000),
        (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 100),
        (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n" * 40),
        (b"", b"HTTP/1.1 100 Continue\r\nX: y\r\n\r\n" * 40),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n", b"X: y\r\n" * 100),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX: ", b"y" * 1000),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n1;", b"y" * 1000),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n", b"0" * 1000),
    ],
)
async def test_endless_headers_and_trailers_are_an_error(begin: bytes, more: bytes) -> None:
    """
    Bytes are counted as they arrive, because an incomplete header is kept in memory.
    """
    sent = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"{}")
        writer.write(begin)
        while sent < 100 * MAX_HEAD_BYTES:
            writer.write(more)
            sent += len(more)
            await writer.drain()
            await asyncio.sleep(0)

    async with serving(talk) as (pool, url):
        with pytest.raises((httpcore2.RemoteProtocolError, httpcore2.ReadError)):
            await asyncio.wait_for(ask(pool, url), 10)

    assert sent < 50 * MAX_HEAD_BYTES, "the buffers of the sockets hold 1 to 2 MB"


async def test_a_response_before_the_end_of_the_request_is_received() -> None:
    """
    The server rejects an upload early, closes the connection and never reads the rest.
    """

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
        await writer.drain()
        writer.write_eof()
        await reader.read()

    async with serving(talk) as (pool, url):
        response = await ask(pool, url, b"x" * 8_000_000)

    assert response == (413, b"no")


async def test_an_early_response_is_received_while_the_connection_stays_open() -> None:
    """
    The server does not read the rest of the request, and the client does not wait for that.
    """
    connections = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 Busy\r\nContent-Length: 2\r\n\r\nno")
        await writer.drain()
        await asyncio.sleep(3)

    async with serving(talk) as (pool, url):
        responses = [await asyncio.wait_for(ask(pool, url, b"x" * 20_000_000), 2) for _ in range(2)]

    assert responses == [(503, b"no")] * 2
    assert connections == 2, "the server would take the rest of the first request for the second one"


async def test_an_invalid_header_value_is_not_sent() -> None:
    talk, connections = replying(OK)
    async with serving(talk) as (pool, url):
        request = httpx2.Request("POST", url, headers={"X-Goog-Api-Key": "a\r\nHost: elsewhere"})
        with pytest.raises(httpcore2.LocalProtocolError):
            await pool.send(request)

    assert sum(connections) == 0


@pytest.mark.parametrize("host", ["gemini..example", f"{'a' * 64}.example"])
async def test_a_host_name_that_dns_cannot_carry_is_a_failed_connection(host: str) -> None:
    async with aclosing(ConnectionPool(FairScheduler(), trust_env=False)) as pool:
        with pytest.raises(httpcore2.ConnectError):
            await ask(pool, f"http://{host}/v1beta/x")


@pytest.mark.slow
async def test_idle_connections_are_closed() -> None:
    ended = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        writer.write(OK)
        await reader.read()
        ended.set()

    async with serving(talk) as (pool, url):
        await ask(pool, url)
        await asyncio.wait_for(ended.wait(), 8)
