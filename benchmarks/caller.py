"""An HTTP/1.1 client with low overhead: one connection, one request at a time."""

import asyncio
import time
from dataclasses import dataclass, field

import httptools


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    def encode(self) -> tuple[bytes, bytes]:
        """Return the head and the body."""
        headers = {"Host": "127.0.0.1", "Content-Length": str(len(self.body)), **self.headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"{self.method} {self.path} HTTP/1.1\r\n{lines}\r\n".encode(), self.body


@dataclass(frozen=True)
class Response:
    status: int
    body: bytes
    seconds: float


class Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self._response_complete: asyncio.Future[None] | None = None
        self._chunks: list[bytes] = []

    @classmethod
    async def open(cls, port: int) -> "Connection":
        _, connection = await asyncio.get_running_loop().create_connection(cls, "127.0.0.1", port)
        return connection

    async def send(self, request: Request) -> Response:
        """Send a request. Return its response with the seconds until its last byte."""
        self._response_complete, self._chunks = asyncio.get_running_loop().create_future(), []
        self._parser = httptools.HttpResponseParser(self)
        began = time.perf_counter()  # the clock of uvloop has a resolution of 1 ms
        for chunk in request.encode():
            self._transport.write(chunk)
        await self._response_complete
        seconds = time.perf_counter() - began
        status, chunks = self._parser.get_status_code(), self._chunks
        self._chunks = []
        return Response(status, b"".join(chunks), seconds)

    def close(self) -> None:
        self._transport.close()

    # Callbacks of the event loop and the parser.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._response_complete and not self._response_complete.done():
            self._response_complete.set_exception(
                exc or EOFError("the connection closed before the response was complete")
            )

    def on_body(self, body: bytes) -> None:
        self._chunks.append(body)

    def on_message_complete(self) -> None:
        if self._response_complete and not self._response_complete.done():
            self._response_complete.set_result(None)
