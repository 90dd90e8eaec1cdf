"""One connection to Gemini: HTTP/1.1 on a socket, one request at a time.

httptools' parser is handed the very buffer that the kernel wrote into, so that a body is copied once between the socket
and whoever reads it. The socket is read only when somebody reads here: no more than one buffer is filled for each turn.
"""

import asyncio
import re
import selectors
import socket
from collections import deque
from collections.abc import AsyncGenerator, Callable
from typing import cast

import httpcore2
import httptools
import httpx2

from app.lib.scheduler import FairScheduler, work_in

BUFFER_BYTES = 256 * 1024
"""How much is read at once. Below this, reading costs more per byte; above, it gains nothing and takes memory."""

FIRST_BUFFER_BYTES = 16 * 1024
"""How much is read of an answer before anybody knows how long it is."""

MAX_HEAD_BYTES = 64 * 1024
"""How long the headers of an answer may be, and of the trailers behind it."""

_NO_HEADER_S = re.compile(rb"[\r\n\0]")


class Connection(asyncio.BufferedProtocol):
    """A connection that is open, until it is lost or closed.

    Raises:
        httpcore2.TimeoutException, httpcore2.NetworkError, httpcore2.ProtocolError: as they happen.
    """

    _transport: asyncio.Transport

    def __init__(self, scheduler: FairScheduler) -> None:
        self.answers = 0
        """How many requests it has served."""
        self._scheduler = scheduler
        self._buffer = memoryview(b"")  # most of the time is spent waiting, and takes none
        self._filled = 0
        self._paused = self._ended = self._sent = False
        self._lost: Exception | None = None
        self._arrival: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None  # there while the other side does not take any more

    @property
    def usable(self) -> bool:
        """Whether another request can be sent; nothing but its end can come on an idle connection."""
        return not (self._ended or self._filled) and not _is_readable(self._transport.get_extra_info("socket"))

    async def ask(self, request: httpx2.Request, whole: Callable[[], object]) -> "RawResponse":
        """Send `request`; the answer's body is still to be read, and the answer to be closed.

        Args:
            request: with the headers that say how long its body is.
            whole: called once the answer has been read to its end, if the connection can be used again then.
        """
        try:
            return await self._ask(request, whole)
        except BaseException:
            self.abort()
            raise

    async def _ask(self, request: httpx2.Request, whole: Callable[[], object]) -> "RawResponse":
        limits = request.extensions.get("timeout", {})
        self._resume()  # an answer may come before all of the request is out
        self._sent = False
        try:
            await self._write(_head(request), limits.get("write"))
            assert isinstance(request.stream, httpx2.AsyncByteStream)
            async for piece in request.stream:
                if self._answers_early():
                    break
                # Until the kernel takes no more there is nothing to wait for, and others would have to.
                await self._scheduler.slot(work_in(len(piece)))
                await self._write(piece, limits.get("write"))
            else:
                self._sent = True
        except httpcore2.WriteError:
            pass  # some servers answer before they have read everything, and then close
        answer = RawResponse(self, limits.get("read"), whole)
        while answer.status is None:
            await self.advance(answer)
        return answer

    async def advance(self, answer: "RawResponse") -> None:
        """Let `render` see the next that arrives."""
        if not self._filled and not self._ended:
            await self._arrives(answer.patience)
        await self._scheduler.slot()
        if self._filled:
            filled, self._filled = self._filled, 0
            answer.feed(self._buffer[:filled])
            if filled == len(self._buffer) < BUFFER_BYTES:
                self._buffer = memoryview(bytearray(BUFFER_BYTES))  # there is more to come
        elif self._lost is not None:
            raise httpcore2.ReadError(str(self._lost)) from self._lost
        else:
            answer.end()

    async def _arrives(self, patience_seconds: float | None) -> None:
        loop = asyncio.get_running_loop()
        self._arrival = loop.create_future()
        # There are dozens of these for each image, and `asyncio.timeout` takes several times as long.
        timer = loop.call_later(patience_seconds, self._too_late) if patience_seconds is not None else None
        self._resume()
        try:
            await self._arrival
        finally:
            if timer is not None:
                timer.cancel()

    def _too_late(self) -> None:
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_exception(httpcore2.ReadTimeout("Nothing arrives."))

    async def _write(self, data: bytes, timeout_seconds: float | None) -> None:
        if self._ended and self._transport.is_closing():
            raise httpcore2.WriteError("The connection is closed.") from self._lost
        self._transport.write(data)
        if self._room is not None:
            try:
                async with asyncio.timeout(timeout_seconds):
                    await asyncio.shield(self._room)
            except TimeoutError as exc:
                raise httpcore2.WriteTimeout(str(exc)) from exc

    def _resume(self) -> None:
        if self._paused and not self._filled:
            self._paused = False
            self._transport.resume_reading()

    def _answers_early(self) -> bool:
        """Whether what has arrived is an answer, rather than word that one will come."""
        arrived = bytes(self._buffer[: self._filled])
        while arrived.startswith(b"HTTP/1.1 1"):
            arrived = arrived.partition(b"\r\n\r\n")[2]
        return bool(arrived)

    @property
    def whole(self) -> bool:
        """Whether all of the request is out; if not, the other side waits for the rest of it."""
        return self._sent

    def rest(self) -> None:
        """An answer has been read to its end. Hold no memory until the next."""
        self.answers += 1
        self._buffer = memoryview(b"")

    def abort(self) -> None:
        self._transport.abort()

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name

    def get_buffer(self, sizehint: int) -> memoryview:
        if not self._buffer:
            self._buffer = memoryview(bytearray(FIRST_BUFFER_BYTES))
        return self._buffer[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        self._filled += nbytes
        self._paused = True
        self._transport.pause_reading()
        self._wake()
        if self._room is not None and not self._room.done() and self._answers_early():
            self._room.set_exception(httpcore2.WriteError("There is an answer already."))
            self._room.exception()  # nobody may be waiting

    def eof_received(self) -> None:
        self._ended = True
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended = True
        self._lost = exc
        self._wake()
        if self._room is not None and not self._room.done():
            self._room.set_exception(httpcore2.WriteError("The connection is closed."))
            self._room.exception()  # nobody may be waiting

    def pause_writing(self) -> None:
        self._room = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        room, self._room = self._room, None
        if room is not None and not room.done():
            room.set_result(None)

    def _wake(self) -> None:
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)


class RawResponse:
    """What came back: status and headers, and the body while it arrives."""

    def __init__(
        self,
        connection: Connection,
        first_byte_seconds: float | None,
        whole: Callable[[], object],
    ) -> None:
        """
        Args:
            connection: where it comes from.
            first_byte_seconds: how long the headers may be waited for. Who reads the body limits its pauses.
            whole: called when it has been read to its end, if the connection can be used again then.
        """
        self.status: int | None = None
        self.headers: list[tuple[bytes, bytes]] = []
        self.patience = first_byte_seconds
        """Seconds that silence may last."""
        self._connection = connection
        self._whole = whole
        self._parser = httptools.HttpResponseParser(self)
        self._pieces: deque[bytes] = deque()
        self._head_bytes = 0
        self._framing_bytes = 0  # since the last of the body, or since the beginning
        self._complete = self._reusable = self._closed = False

    async def aiter_stream(self) -> AsyncGenerator[bytes]:
        """The body as it arrives, in pieces of any length."""
        while True:
            while self._pieces:
                yield self._pieces.popleft()
            if self._complete:
                return
            await self._connection.advance(self)

    async def aclose(self) -> None:
        """Done with it. A connection that has delivered everything can serve another request."""
        if self._closed:
            return
        self._closed = True
        if self._complete and self._reusable and self._connection.whole:
            self._connection.rest()
            self._whole()
        else:
            self._connection.abort()

    def feed(self, data: memoryview) -> None:
        self._framing_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as exc:
            if not self._complete:
                raise httpcore2.RemoteProtocolError(type(exc).__name__) from exc
            self._reusable = False  # there is something behind the answer
        # The parser tells of a header, or of a chunk, when it is whole; one that never ends has to be counted here.
        if self._framing_bytes > MAX_HEAD_BYTES and not self._complete:
            raise httpcore2.RemoteProtocolError("The headers of the answer are too long.")

    def end(self) -> None:
        """There is nothing more to come. For some answers that is how they end."""
        names = {name.lower() for name, _ in self.headers}
        if self.status is None or names & {b"content-length", b"transfer-encoding"}:
            raise httpcore2.RemoteProtocolError("The connection ended before the answer did.")
        self._complete = True

    # What the parser calls.

    def on_message_begin(self) -> None:
        self._reusable = False  # until it has ended, and whatever is behind it is no answer of ours

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > MAX_HEAD_BYTES:
            raise httpcore2.RemoteProtocolError("The headers of the answer are too long.")
        if self.status is None:
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if 100 <= status < 200:  # the answer is still to come
            self.headers.clear()
        elif self.status is None:
            self.status = status
            self.patience = None
            self._framing_bytes = 0

    def on_body(self, body: bytes) -> None:
        self._framing_bytes = 0
        if not self._complete:
            self._pieces.append(body)

    def on_message_complete(self) -> None:
        if self.status is not None and not self._complete:
            self._complete = True
            self._reusable = self._parser.should_keep_alive()


def _head(request: httpx2.Request) -> bytes:
    lines = [request.method.encode() + b" " + request.url.raw_path + b" HTTP/1.1"]
    for name, value in request.headers.raw:
        if _NO_HEADER_S.search(name + value):
            raise httpcore2.LocalProtocolError("A header has a character that no header can have.")
        lines.append(name + b": " + value)
    return b"\r\n".join([*lines, b"", b""])


def _is_readable(connection: socket.socket) -> bool:
    if connection.fileno() < 0:
        return True  # closed, which is the same to whoever asks
    with selectors.DefaultSelector() as selector:
        selector.register(connection.fileno(), selectors.EVENT_READ)
        return bool(selector.select(0))
