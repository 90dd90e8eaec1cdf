"""A response whose body is still arriving."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping

import httpx2

from app.gemini.transport.http.connection import Connection
from app.gemini.transport.http.parser import ResponseParser


class RawResponse:
    """The status and headers of a response, and its body while it arrives. The caller must close it."""

    def __init__(self, connection: Connection, on_reusable: Callable[[], object]) -> None:
        """
        Args:
            connection: where the response arrives.
            on_reusable: called by `aclose` if the connection can carry another request.
        """
        self._connection = connection
        self._on_reusable = on_reusable
        self._parser = ResponseParser()
        self._closed = False

    @property
    def status(self) -> int:
        assert self._parser.status is not None
        return self._parser.status

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        return self._parser.headers

    async def read_headers(self, silence_seconds: float | None) -> None:
        """Read until the headers of the final response are complete.

        Raises:
            httpcore2.ReadTimeout: the server was silent for `silence_seconds`.
        """
        while self._parser.status is None:
            await self._connection.receive(self._parser, silence_seconds)

    async def aiter_stream(self) -> AsyncGenerator[bytes]:
        """Yield the body as it arrives, in pieces of any length. The caller limits the time between pieces."""
        while True:
            while self._parser.body:
                yield self._parser.body.popleft()
            if self._parser.is_complete:
                return
            await self._connection.receive(self._parser)

    async def aclose(self) -> None:
        """Keep the connection if everything was sent and received; otherwise close it."""
        if self._closed:
            return
        self._closed = True
        if not (self._parser.is_complete and self._parser.allows_reuse and self._connection.is_request_sent):
            self._connection.abort()
            return
        self._connection.release()
        try:
            await asyncio.sleep(0)  # bytes behind the response that the TLS layer holds arrive in this iteration
        except BaseException:
            self._connection.abort()
            raise
        self._on_reusable()


async def send(
    connection: Connection,
    head: bytes,
    body: httpx2.AsyncByteStream,
    timeouts: Mapping[str, float | None],
    on_reusable: Callable[[], object],
) -> RawResponse:
    """Send a request and read the headers of its response. Close the connection if either fails.

    Args:
        connection: an open connection that carries no other request.
        head: the request line and headers, which say how long the body is.
        body: the body of the request.
        timeouts: `write` limits each piece of the body, `read` limits the silence before the headers; in seconds.
        on_reusable: called when the response is closed and the connection can carry another request.
    """
    try:
        await connection.send(head, body, timeouts.get("write"))
        response = RawResponse(connection, on_reusable)
        await response.read_headers(timeouts.get("read"))
    except BaseException:
        connection.abort()
        raise
    return response
