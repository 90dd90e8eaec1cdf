"""Servers for tests of the HTTP client: plain functions that read and write bytes. `ask` calls them."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager

import httpx2

from app.gemini.transport.http import ConnectionPool

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
"""What a server does with a connection."""

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@asynccontextmanager
async def listening(talk: Talk, tls: ssl.SSLContext | None = None) -> AsyncGenerator[int]:
    """Run a server that handles each connection with `talk`, and yield its port."""
    tasks = set[asyncio.Task[None]]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await talk(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def ask(pool: ConnectionPool, url: str, body: bytes = b"{}", **timeouts: float) -> tuple[int, bytes]:
    extensions = {"timeout": {"connect": 5.0, "read": 5.0, "write": 5.0, **timeouts}}
    response = await pool.send(httpx2.Request("POST", url, content=body, extensions=extensions))
    try:
        async with aclosing(response.aiter_stream()) as pieces:
            return response.status, b"".join([piece async for piece in pieces])
    finally:
        await response.aclose()


def with_late_surplus_response() -> tuple[Talk, list[int]]:
    """Respond to a request, and 0.1 s later send a second response that no request has asked for.

    Returns:
        The server, and a list with the number of each connection.
    """
    connections: list[int] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(len(connections))
        await reader.readuntil(b"{}")
        writer.write(OK)
        await asyncio.sleep(0.1)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nnot ours")
        await reader.read()

    return talk, connections
