"""Servers for tests of the HTTP client: plain functions that read and write bytes."""

import asyncio
from collections.abc import Awaitable, Callable

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
"""What a server does with a connection."""

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


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
