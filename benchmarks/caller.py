"""A caller that costs little itself: HTTP/1.1 over one connection, bodies in the pieces they came in."""

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

    def pieces(self) -> tuple[bytes, bytes]:
        headers = {"Host": "127.0.0.1", "Content-Length": str(len(self.body)), **self.headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"{self.method} {self.path} HTTP/1.1\r\n{lines}\r\n".encode(), self.body


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes
    seconds: float


class Connection(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self) -> None:
        self._answered: asyncio.Future[None] | None = None
        self._pieces: list[bytes] = []

    @classmethod
    async def open(cls, port: int) -> "Connection":
        _, connection = await asyncio.get_running_loop().create_connection(cls, "127.0.0.1", port)
        return connection

    async def ask(self, request: Request) -> Answer:
        """The answer, and the time until its last byte was here."""
        self._answered, self._pieces = asyncio.get_running_loop().create_future(), []
        self._parser = httptools.HttpResponseParser(self)
        began = time.perf_counter()  # uvloop's own clock counts milliseconds
        for piece in request.pieces():
            self._transport.write(piece)
        await self._answered
        seconds = time.perf_counter() - began
        status, pieces = self._parser.get_status_code(), self._pieces
        self._pieces = []
        return Answer(status, b"".join(pieces), seconds)

    def close(self) -> None:
        self._transport.close()

    # What the event loop and the parser call.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answered and not self._answered.done():
            self._answered.set_exception(exc or EOFError("the connection closed before the answer was complete"))

    def on_body(self, body: bytes) -> None:
        self._pieces.append(body)

    def on_message_complete(self) -> None:
        if self._answered and not self._answered.done():
            self._answered.set_result(None)
