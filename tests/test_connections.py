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
from tests.raw_servers import OK, Talk, with_late_surplus_response
from tests.tls import authority, server_context


@asynccontextmanager
async def talking(talk: Talk, *, tls: bool = False) -> AsyncGenerator[tuple[ConnectionPool, str]]:
    """A server that runs `talk` for each connection, and the network to reach it with."""

    async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await talk(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(served, "127.0.0.1", 0, ssl=server_context() if tls else None)
    network = ConnectionPool(FairScheduler(), trust_env=False)
    authority().configure_trust(network.tls)
    async with server:
        try:
            yield network, f"http{'s' * tls}://localhost:{server.sockets[0].getsockname()[1]}/v1beta/x"
        finally:
            await network.aclose()


async def asked(network: ConnectionPool, url: str, body: bytes = b"{}") -> tuple[int | None, bytes]:
    timeout = {"connect": 5.0, "read": 5.0, "write": 5.0}
    answer = await network.send(httpx2.Request("POST", url, content=body, extensions={"timeout": timeout}))
    try:
        async with aclosing(answer.aiter_stream()) as pieces:
            return answer.status, b"".join([piece async for piece in pieces])
    finally:
        await answer.aclose()


def saying(*replies: bytes, hang_up: bool = False) -> tuple[Talk, list[int]]:
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
        if not hang_up:
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
    talk, connections = saying(reply, reply, reply)
    async with talking(talk) as (network, url):
        answers = [await asked(network, url) for _ in range(3)]

    assert answers == [(200, b"ok")] * 3
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
    talk, connections = saying(reply, reply)
    async with talking(talk) as (network, url):
        answers = [await asked(network, url) for _ in range(2)]

    assert answers == [(200, b"ok")] * 2
    assert connections == [1, 1]


@pytest.mark.parametrize("tls", [False, True])
async def test_a_response_between_two_requests_is_used_for_neither(tls: bool) -> None:
    """
    The TLS layer may already have it, so that the socket alone does not show it.
    """
    talk, connections = with_late_surplus_response()
    async with talking(talk, tls=tls) as (network, url):
        first = await asked(network, url)
        await asyncio.sleep(0.3)
        second = await asked(network, url)

    assert [first, second] == [(200, b"ok")] * 2
    assert len(connections) == 2


async def test_a_response_without_a_length_ends_with_its_connection() -> None:
    talk, connections = saying(b"HTTP/1.1 200 OK\r\n\r\neverything", hang_up=True)
    async with talking(talk) as (network, url):
        answers = [await asked(network, url) for _ in range(2)]

    assert answers == [(200, b"everything")] * 2
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
    talk, _ = saying(reply, hang_up=True)
    async with talking(talk) as (network, url):
        with pytest.raises((httpcore2.RemoteProtocolError, httpcore2.ReadError)):
            await asyncio.wait_for(asked(network, url), 4)


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

    async with talking(talk) as (network, url):
        with pytest.raises((httpcore2.RemoteProtocolError, httpcore2.ReadError)):
            await asyncio.wait_for(asked(network, url), 10)

    assert sent < 50 * MAX_HEAD_BYTES, "sockets hold a megabyte or two"


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

    async with talking(talk) as (network, url):
        answer = await asked(network, url, b"x" * 8_000_000)

    assert answer == (413, b"no")


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

    async with talking(talk) as (network, url):
        answers = [await asyncio.wait_for(asked(network, url, b"x" * 20_000_000), 2) for _ in range(2)]

    assert answers == [(503, b"no")] * 2
    assert connections == 2, "what is left of the request would be taken for the next one"


async def test_an_invalid_header_value_is_not_sent() -> None:
    talk, connections = saying(OK)
    async with talking(talk) as (network, url):
        request = httpx2.Request("POST", url, headers={"X-Goog-Api-Key": "a\r\nHost: elsewhere"})
        with pytest.raises(httpcore2.LocalProtocolError):
            await network.send(request)

    assert sum(connections) == 0


@pytest.mark.parametrize("host", ["gemini..example", f"{'a' * 64}.example"])
async def test_a_host_name_that_dns_cannot_carry_is_a_failed_connection(host: str) -> None:
    async with aclosing(ConnectionPool(FairScheduler(), trust_env=False)) as pool:
        with pytest.raises(httpcore2.ConnectError):
            await asked(pool, f"http://{host}/v1beta/x")


async def test_idle_connections_are_closed() -> None:
    ended = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        writer.write(OK)
        await reader.read()
        ended.set()

    async with talking(talk) as (network, url):
        await asked(network, url)
        await asyncio.wait_for(ended.wait(), 8)
