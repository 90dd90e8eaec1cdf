"""HTTP/1.1 towards callers: uvicorn's protocol, with limits on heads, connections, and callers who do not read.

docs/decisions/0005 says why the head of each request is collected here before a parser sees it.
"""

import asyncio
import contextlib
import fcntl
import json
import socket
import struct
import sys
import termios
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, cast

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from app.api.http.middleware import PROBE_PATHS, new_request_id
from app.api.http.problems import MEDIA_TYPE, report
from app.api.http.response_writer import CONNECTION
from app.domain.errors import HeaderTooLarge, InvalidHttp, Overloaded, ServiceError
from app.settings import Settings

_PROBE_CONNECTIONS = 50
"""Connections beyond `MAX_CONNECTIONS` on which only health checks are answered."""

_LINGER_SECONDS = 1.0
"""How long a refused caller's bytes are read and dropped. If the socket closed at once, the kernel would send a reset,
and the caller could lose the answer."""

_MAX_HEADER_FIELDS = 200
"""Header fields of a request, trailers included. Each costs a microsecond in the parser and in each search for one."""

_PIECE_BYTES = 32 * 1024
"""How much of a chunked body the parser is given at once, so that its framing is counted in time."""

_FULL = Overloaded("This service has as many connections as it takes.", retry_after=1)


def create_protocol(settings: Settings) -> type[asyncio.Protocol]:
    """The protocol class for uvicorn, with the limits of these settings."""

    class Protocol(LimitedHttpProtocol):
        max_connections = settings.max_connections
        max_head_bytes = settings.max_header_bytes
        head_seconds = settings.header_timeout_seconds
        slow_seconds = settings.caller_idle_timeout_seconds

    return Protocol


class LimitedHttpProtocol(HttpToolsProtocol):
    """One connection of a caller.

    The bytes of a head are counted and collected up to its blank line; the parser gets it in one piece, without
    `Upgrade` fields. Bodies go to the parser as they arrive, and are never changed.
    """

    max_connections: int
    max_head_bytes: int
    head_seconds: float
    slow_seconds: float

    cut_off = False
    """Whether the connection was cut because the caller did not read."""

    _probes_only = False
    _reading_body = _chunked = False
    _may_begin = False  # the parser has been given a head that was counted
    _ignoring = False  # nothing more is read from this connection
    _fields = 0  # of a head, and of trailers
    _empty_bytes = 0  # of empty lines in front of a request
    _body_left = 0  # bytes still to come of a body whose length is known
    _framing_bytes = 0  # of a chunked body: what is not body
    _head_timer: asyncio.TimerHandle | None = None
    _linger_timer: asyncio.TimerHandle | None = None
    _reader_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._head, self._parts = bytearray(), list[bytes]()
        self._counted = MeasuredTransport(transport, self._watch_reader, self._linger)
        super().connection_made(cast("asyncio.Transport", self._counted))
        beyond = len(self.connections) - self.max_connections
        if beyond > _PROBE_CONNECTIONS:
            self._refuse(_FULL)
            self.transport.close()
        else:
            self._probes_only = beyond > 0
            self._limit_head()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._head_timer, self._linger_timer, self._reader_timer):
            if timer is not None:
                timer.cancel()
        self._ignoring = True
        self._counted.release()
        super().connection_lost(exc)

    # What arrives.

    def data_received(self, data: bytes) -> None:
        while data and not self._ignoring:
            if self._reading_body:
                self._receive_body(data)
                return
            if not self._head:
                data = self._without_empty_lines(data)
            if not data or self._ignoring:
                return
            if self._answering:
                # A second request before the first is answered is not served: reading on is the only way to notice
                # that the caller has left. The connection closes with the first answer, and the client asks again.
                self._read_no_more()
                return
            data = self._receive_head(data)

    def _without_empty_lines(self, data: bytes) -> bytes:
        """What follows the empty lines in front of a request, which some clients send behind a body."""
        rest = data.lstrip(b"\r\n")
        self._empty_bytes += len(data) - len(rest)
        if self._empty_bytes > self.max_head_bytes:
            self._refuse_head_length()
        return rest

    def _receive_head(self, data: bytes) -> bytes:
        """Collect a head, and give it to the parser when it is complete. Returns what follows it."""
        searched = max(0, len(self._head) - 2)
        self._head += data
        if not self._head[:1].isalpha():
            self.send_400_response("")  # most likely TLS, whose client waits for an answer before it sends more
            return b""
        length = _end_of_head(self._head, searched)
        if (length or len(self._head)) > self.max_head_bytes:
            self._refuse_head_length()
            return b""
        if not length:
            self._limit_head()
            return b""
        head, rest = bytes(self._head[:length]), bytes(self._head[length:])
        self._head.clear()
        self._may_begin = True
        super().data_received(without_upgrade(head))
        return rest

    def _receive_body(self, data: bytes) -> None:
        if not self._chunked and len(data) > self._body_left:
            # The next request, behind the rest of a body whose request has been answered already. The parser must not
            # see it before it is counted.
            end = self._body_left
            self._receive_body(data[:end])
            return self.data_received(data[end:])
        self._body_left -= len(data)
        view, step = memoryview(data), _PIECE_BYTES if self._chunked else len(data)
        for start in range(0, len(data), step):
            piece = view[start : start + step]
            self._framing_bytes += len(piece)
            super().data_received(piece)  # type: ignore[arg-type]  # the parser takes any buffer
            if self._ignoring:
                return
            if not self._reading_body:
                return self.data_received(bytes(view[start + step :]))
            self._pass_body_on()
            if self._framing_bytes > self.max_head_bytes:
                return self._refuse_head_length()  # of trailers, or chunk extensions, or of far too many chunks
        if not self._at_work:
            # The request is answered, but its body still arrives. Others get their turn after each packet.
            self._limit_head()
            self.flow.pause_reading()
            self.loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        if not self.transport.is_closing():
            self.flow.resume_reading()

    def _pass_body_on(self) -> None:
        body = b"".join(self._parts)
        self._parts.clear()
        # A body may be framed by as many bytes as it has.
        self._framing_bytes = max(0, self._framing_bytes - 2 * len(body))
        if body:
            super().on_body(body)

    # What the parser finds.

    def on_message_begin(self) -> None:
        if not self._may_begin:  # in one piece with the body of the request before
            self._read_no_more()
        if self._ignoring:
            return
        self._may_begin, self._empty_bytes, self._fields = False, 0, 0
        super().on_message_begin()
        self.scope["extensions"] = {CONNECTION: {"connection": self}}

    def on_url(self, url: bytes) -> None:
        if not self._ignoring:
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._ignoring:
            return
        self._fields += 1
        if self._fields > _MAX_HEADER_FIELDS:
            raise ValueError("too many fields")  # which the parser turns into an error of its own
        if not self._reading_body:  # trailers are not headers
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._ignoring:
            return
        self._require_plain_request()
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        if self._probes_only and self.url.partition(b"?")[0].decode("latin-1") not in PROBE_PATHS:
            self._refuse(_FULL)
            return
        super().on_headers_complete()
        self._reading_body = True
        self._body_left = next((int(value) for name, value in self.headers if name == b"content-length"), 0)

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)  # and nothing else: chunks may be of one byte each

    def on_message_complete(self) -> None:
        if not self._ignoring:
            self._pass_body_on()
            self._reading_body, self._framing_bytes = False, 0
            super().on_message_complete()

    def _require_plain_request(self) -> None:
        """Raise a `ValueError`, which the parser turns into an error of its own, for what llhttp leaves open."""
        names = [name for name, _ in self.headers]
        codings = [value.lower() for name, value in self.headers if name == b"transfer-encoding"]
        if self.parser.should_upgrade():
            raise ValueError("CONNECT is for proxies")
        if self.parser.get_http_version() not in ("1.0", "1.1"):
            raise ValueError("not a version of HTTP that is spoken here")
        if codings not in ([], [b"chunked"]):
            raise ValueError("a transfer coding that is not understood")
        if names.count(b"host") > 1:
            raise ValueError("more than one host")
        self._chunked = bool(codings)

    def send_400_response(self, msg: str) -> None:
        if self._fields > _MAX_HEADER_FIELDS:
            return self._refuse(HeaderTooLarge(f"A request may have {_MAX_HEADER_FIELDS} header fields."))
        self._refuse(InvalidHttp("This is not HTTP that can be read."))

    # What leaves.

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        if cycle.scope["http_version"] == "1.0":
            cycle.waiting_for_100_continue = False
            app = _until_close(app, cycle)
        if self._chunked:
            app = self._close_after_early_answer(app, cycle)
        super()._start_asgi_task(cycle, app)

    def _close_after_early_answer(self, app: ASGIApp, cycle: RequestResponseCycle) -> ASGIApp:
        """The application for a chunked body: an answer that goes out before its end also ends the connection.

        The parser cannot stop at that end, so a request in the same packet would be lost without an answer.
        """

        async def answering(scope: Scope, receive: Receive, send: Send) -> None:
            async def closing(message: Message) -> None:
                if message["type"] == "http.response.start" and self._reading_body:
                    cycle.keep_alive = False
                await send(message)

            await app(scope, receive, closing)

        return answering

    @property
    def _at_work(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def _answering(self) -> bool:
        """Whether something of the answer is still to come. A caller who has all of it may ask again at once."""
        if not self._at_work:
            return False
        cycle = self.cycle
        has_all = cycle.response_started and cycle.chunked_encoding is False and cycle.expected_content_length == 0
        return not (has_all and cycle.keep_alive)

    def _read_no_more(self) -> None:
        """Ignore what arrives from now on, and close the connection after the answer that is under way."""
        self._ignoring = True
        if self._at_work:
            self.cycle.keep_alive = False
        else:
            self.transport.close()

    def _refuse_head_length(self) -> None:
        self._refuse(HeaderTooLarge(f"The head of a request may have {self.max_head_bytes:,} bytes."))

    def _refuse(self, error: ServiceError) -> None:
        """Answer with a problem without asking the application, and close the connection.

        An application that waits for the body of this request is told that the caller has left. If it has begun to
        answer, no second answer is sent.
        """
        if self._ignoring:
            return
        if self._reading_body:
            if self.cycle.response_started:
                return self._read_no_more()
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self._ignoring = True
        self._head.clear()
        self.flow.resume_reading()
        self.transport.write(_problem(error))
        self.transport.write_eof()
        self._linger_timer = self.loop.call_later(_LINGER_SECONDS, self.transport.close)

    def _linger(self) -> bool:
        """The connection is about to be closed behind an answer. Keep it if the body of the request still arrives.

        The rest of the body is read and dropped, for `head_seconds` at the most: a client that sends all of it before
        it reads (Python's urllib, for instance) would get a reset instead of the answer.

        Returns:
            Whether it is kept.
        """
        if self._ignoring or not self._reading_body:
            return False
        self._ignoring = True
        self.flow.resume_reading()
        self.transport.write_eof()
        self._linger_timer = self.loop.call_later(self.head_seconds, self.transport.close)
        return True

    def _limit_head(self) -> None:
        self._unset_keepalive_if_required()
        if self._head_timer is None and not self.transport.is_closing():
            self._head_timer = self.loop.call_later(self.head_seconds, self.transport.abort)

    # A caller who does not read.

    @property
    def is_write_paused(self) -> bool:
        return self.flow.write_paused

    def abort(self) -> None:
        self.cut_off = True
        # Lingering for zero seconds makes the kernel forget what it still holds for a reader who takes nothing.
        sock = self.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def _watch_reader(self) -> None:
        """Something was written: see whether the caller takes some of it within `slow_seconds`."""
        if self._reader_timer is None:
            self._reader_timer = self.loop.call_later(self.slow_seconds, self._require_reader, self._counted.taken())

    def _require_reader(self, taken_before: int) -> None:
        self._reader_timer = None
        taken = self._counted.taken()
        if taken == self._counted.written:
            return
        if taken <= taken_before:
            self.abort()
        else:
            self._reader_timer = self.loop.call_later(self.slow_seconds, self._require_reader, taken)


class MeasuredTransport:
    """A transport that knows how many of the bytes written to it have reached the other side's system."""

    def __init__(
        self, transport: asyncio.Transport, on_write: Callable[[], None], on_close: Callable[[], bool]
    ) -> None:
        """
        Args:
            transport: the real one.
            on_write: called after each write.
            on_close: called before the transport is closed for the first time; returns whether it is kept open until it
                is closed again.
        """
        self._transport = transport
        self._on_write = on_write
        self._on_close = on_close
        self._closing = False
        self.written = 0
        """Bytes, since the connection was made."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if not data:
            return
        self.written += len(data)
        self._transport.write(data)
        self._on_write()

    def close(self) -> None:
        first, self._closing = not self._closing, True
        if not (first and self._on_close()):
            self._transport.close()

    def is_closing(self) -> bool:
        return self._closing or self._transport.is_closing()

    def release(self) -> None:
        """Forget the callbacks, or they and this would keep each other, and what they hold."""
        self._on_write, self._on_close = lambda: None, lambda: False

    def taken(self) -> int:
        """Bytes that the other side has confirmed: all but those that wait here, and those that the kernel holds."""
        held = bytearray(4)
        with contextlib.suppress(OSError, ValueError):  # closed already, or a system that does not tell
            fcntl.ioctl(self._transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, held)
        return self.written - self._transport.get_write_buffer_size() - int.from_bytes(held, sys.byteorder)


def _end_of_head(head: bytearray, start: int) -> int:
    """Where the first blank line ends that ends behind `start`; 0 if there is none yet.

    Lines that end without a carriage return count here, so that the parser sees them at once, and refuses them.
    """
    ends = [(head.find(blank, start), len(blank)) for blank in (b"\n\r\n", b"\n\n")]
    return min((found + length for found, length in ends if found >= 0), default=0)


def without_upgrade(head: bytes) -> bytes:
    """The head of a request without its `Upgrade` fields, which a server may ignore (RFC 9110, section 7.8).

    The parser would take the end of such a head for the end of the request, and the body for the next one.
    """
    if b"\r\nupgrade:" not in head.lower():
        return head
    lines = head.split(b"\r\n")
    return b"\r\n".join(line for line in lines if not line.lower().startswith(b"upgrade:"))


def _until_close(app: ASGIApp, cycle: RequestResponseCycle) -> ASGIApp:
    """The application for HTTP/1.0, which knows no chunks: a body without a length ends with its connection."""

    async def answering(scope: Scope, receive: Receive, send: Send) -> None:
        has_length = False

        async def unchunked(message: Message) -> None:
            nonlocal has_length
            if message["type"] == "http.response.start":
                has_length = any(name.lower() == b"content-length" for name, _ in message.get("headers", ()))
            if not has_length:
                cycle.chunked_encoding = False
                cycle.expected_content_length = len(message.get("body", b""))
            await send(message)

        await app(scope, receive, unchunked)

    return answering


def _problem(error: ServiceError) -> bytes:
    """A whole answer. It is not logged: connections by the thousand may end like this."""
    told = report(error, new_request_id(), log_sensitive=False)
    body = json.dumps(told.document)
    headers = {
        "Content-Type": MEDIA_TYPE,
        "Content-Length": str(len(body)),
        "Connection": "close",
        "X-Request-Id": told.document["requestId"],
        **told.headers,
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {told.status} {HTTPStatus(told.status).phrase}\r\n{head}\r\n{body}".encode()
