"""One connection: a socket with its buffer. It carries one request at a time.

The event loop reads from the kernel into the buffer, and the parser works on that same buffer. A body is therefore
copied once. After each read the socket is paused until the caller wants more.
"""

import asyncio
import selectors
import socket
import ssl
from collections.abc import AsyncIterable
from typing import cast

import httpcore2

from app.gemini.transport.http.parser import ResponseParser
from app.lib.event_loop_scheduler import FairScheduler, work_in

BUFFER_BYTES = 256 * 1024
"""The size of the buffer. A smaller one costs more CPU per byte; a larger one is not faster and takes memory."""

FIRST_BUFFER_BYTES = 16 * 1024
"""The size of the buffer at the start of a response, when its length is not known."""


class Connection(asyncio.BufferedProtocol):
    """A connection from the moment it is open until it is lost or closed."""

    _transport: asyncio.Transport

    def __init__(self, scheduler: FairScheduler) -> None:
        self.response_count = 0
        """The number of responses that were read to their end."""
        self.is_request_sent = False
        """True once the whole request is written. Otherwise the server still waits for some of it."""
        self._scheduler = scheduler
        self._buffer = memoryview(b"")  # a connection that waits for a response holds no memory
        self._filled = 0
        self._paused = self._ended = False
        self._lost: Exception | None = None
        self._data_waiter: asyncio.Future[None] | None = None
        self._drain_waiter: asyncio.Future[None] | None = None  # set while the transport's write buffer is full

    @property
    def is_usable(self) -> bool:
        """True if another request can be sent: the connection is open, and no bytes have arrived since `release`."""
        return not (self._ended or self._filled) and not _is_readable(self._transport.get_extra_info("socket"))

    async def send(self, head: bytes, body: AsyncIterable[bytes], timeout_seconds: float | None) -> None:
        """Write a request. Stop early if the server responds before all of it is written.

        Args:
            head: the request line and headers.
            body: the pieces of the body.
            timeout_seconds: limits the write of each piece.

        Raises:
            httpcore2.WriteTimeout: the server does not read.
        """
        self._resume_reading()  # a response may arrive before the request is complete
        self.is_request_sent = False
        try:
            await self._write(head, timeout_seconds)
            async for piece in body:
                if self._has_early_response():
                    break
                # A write returns at once while the kernel accepts data, so the loop must yield to other tasks here.
                await self._scheduler.slot(work_in(len(piece)))
                await self._write(piece, timeout_seconds)
            else:
                self.is_request_sent = True
        except httpcore2.WriteError:
            pass  # some servers respond before they have read the whole request, and then close

    async def receive(self, parser: ResponseParser, silence_seconds: float | None = None) -> None:
        """Wait for bytes or for the end of the connection, and feed them to `parser`.

        Raises:
            httpcore2.ReadTimeout: nothing arrived for `silence_seconds`.
            httpcore2.ReadError: the connection broke.
            httpcore2.RemoteProtocolError: from the parser.
        """
        if not self._filled and not self._ended:
            await self._wait_for_data(silence_seconds)
        await self._scheduler.slot()
        if self._filled:
            filled, self._filled = self._filled, 0
            parser.feed(self._buffer[:filled])
            if filled == len(self._buffer) < BUFFER_BYTES:
                self._buffer = memoryview(bytearray(BUFFER_BYTES))  # a full buffer means a large body
        elif self._lost is not None:
            raise httpcore2.ReadError(str(self._lost)) from self._lost
        else:
            parser.feed_eof()

    async def start_tls(self, context: ssl.SSLContext, hostname: str) -> None:
        """Speak TLS from now on, through a tunnel that a proxy has opened.

        Raises:
            OSError: the handshake failed, or the connection broke.
        """
        transport = await asyncio.get_running_loop().start_tls(self._transport, self, context, server_hostname=hostname)
        if transport is None or transport.get_extra_info("cipher") is None:
            # Event loops return normally if a proxy that speaks TLS itself closes during the handshake.
            raise ConnectionResetError("The connection ended during the TLS handshake.")
        self._transport = transport
        self._paused = False
        self._buffer = memoryview(b"")

    def release(self) -> None:
        """Free the buffer after a response was read to its end, and watch for bytes that belong to no request."""
        self.response_count += 1
        self._buffer = memoryview(b"")
        self._resume_reading()

    def abort(self) -> None:
        """Close the connection at once."""
        self._transport.abort()

    async def _wait_for_data(self, timeout_seconds: float | None) -> None:
        loop = asyncio.get_running_loop()
        self._data_waiter = loop.create_future()
        # An image takes dozens of these waits, and `asyncio.timeout` costs several times as much.
        timer = loop.call_later(timeout_seconds, self._read_timed_out) if timeout_seconds is not None else None
        self._resume_reading()
        try:
            await self._data_waiter
        finally:
            if timer is not None:
                timer.cancel()

    def _read_timed_out(self) -> None:
        if self._data_waiter is not None and not self._data_waiter.done():
            self._data_waiter.set_exception(httpcore2.ReadTimeout("The server is silent."))

    async def _write(self, data: bytes, timeout_seconds: float | None) -> None:
        if self._ended and self._transport.is_closing():
            raise httpcore2.WriteError("The connection is closed.") from self._lost
        self._transport.write(data)
        if self._drain_waiter is not None:
            try:
                async with asyncio.timeout(timeout_seconds):
                    await asyncio.shield(self._drain_waiter)
            except TimeoutError as exc:
                raise httpcore2.WriteTimeout(str(exc)) from exc

    def _resume_reading(self) -> None:
        if self._paused and not self._filled:
            self._paused = False
            self._transport.resume_reading()

    def _has_early_response(self) -> bool:
        """Return whether a final response has begun to arrive. Interim responses do not count."""
        received = bytes(self._buffer[: self._filled])
        while received.startswith(b"HTTP/1.1 1"):
            received = received.partition(b"\r\n\r\n")[2]
        return bool(received)

    # The event loop calls these methods.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's class is not a subclass

    def get_buffer(self, sizehint: int) -> memoryview:
        if not self._buffer:
            self._buffer = memoryview(bytearray(FIRST_BUFFER_BYTES))
        return self._buffer[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        self._filled += nbytes
        self._paused = True
        self._transport.pause_reading()
        self._wake_reader()
        if self._drain_waiter is not None and self._has_early_response():
            self._fail_writer("A response has arrived already.")

    def eof_received(self) -> None:
        self._ended = True
        self._wake_reader()

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended = True
        self._lost = exc
        self._wake_reader()
        self._fail_writer("The connection is closed.")

    def pause_writing(self) -> None:
        self._drain_waiter = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        waiter, self._drain_waiter = self._drain_waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _wake_reader(self) -> None:
        if self._data_waiter is not None and not self._data_waiter.done():
            self._data_waiter.set_result(None)

    def _fail_writer(self, reason: str) -> None:
        if self._drain_waiter is not None and not self._drain_waiter.done():
            self._drain_waiter.set_exception(httpcore2.WriteError(reason))
            self._drain_waiter.exception()  # asyncio logs an exception that no task retrieves


def _is_readable(connection: socket.socket) -> bool:
    if connection.fileno() < 0:
        return True  # a closed socket is as unusable as one with unexpected bytes
    with selectors.DefaultSelector() as selector:
        selector.register(connection.fileno(), selectors.EVENT_READ)
        return bool(selector.select(0))
