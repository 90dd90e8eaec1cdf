"""HTTP/1.1 with callers: uvicorn's protocol, with limits on request heads, connections and slow callers.

docs/decisions/0005 explains why the head of a request is collected before the parser gets it. The attributes of uvicorn
that are used here are not documented; tests/test_uvicorn_contract.py lists them.
"""

import asyncio
from dataclasses import dataclass
from typing import Any, cast

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from app.api.http.paths import PROBE_PATHS
from app.api.http.response_writer import CONNECTION
from app.domain.errors import HeaderTooLarge, InvalidHttp, Overloaded, ServiceError
from app.server.measured_transport import MeasuredTransport
from app.server.problem_bytes import problem_bytes
from app.server.request_head import RequestHead, require_unambiguous
from app.server.response_framing import EarlyResponseFraming, Http10Framing

_PROBE_CONNECTIONS = 50
"""Connections beyond `MAX_CONNECTIONS` on which only health checks are answered."""

_LINGER_SECONDS = 1.0
"""How long a refused connection is read before it is closed. If the socket closed at once, the kernel would send a
reset, and the caller could lose the response."""

_MAX_HEADER_FIELDS = 200
"""Header fields of a request, including trailers. Each one costs about 1 µs in the parser and in each header lookup."""

_CHUNKED_PIECE_BYTES = 32 * 1024
"""Bytes of a chunked body that the parser gets at a time, so that the bytes of its framing are counted in time."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Limits for the connections of callers."""

    max_connections: int
    max_head_bytes: int
    head_seconds: float
    """For the head of a request; also for the rest of a body whose request has been answered."""
    stall_seconds: float
    """Time limit while the service has bytes to send and the caller reads none of them."""


class LimitedHttpProtocol(HttpToolsProtocol):
    """One connection of a caller."""

    cut_off = False
    """Whether the connection was aborted because the caller did not read."""

    _probes_only = False
    _ignores_input = False  # the connection is about to close
    _head_is_counted = False  # the parser has been given a complete head and may begin a request
    _reads_body = _is_chunked = False
    _fields = 0  # of the head and the trailers
    _body_bytes_left = 0  # of a body with a length
    _framing_bytes = 0  # of a chunked body: bytes that are not content
    _head_timer: asyncio.TimerHandle | None = None
    _linger_timer: asyncio.TimerHandle | None = None

    def __init__(self, limits: ConnectionLimits, **uvicorn_arguments: Any) -> None:
        super().__init__(**uvicorn_arguments)
        self._limits = limits
        self._head = RequestHead(limits.max_head_bytes)
        self._body_pieces: list[bytes] = []

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._measured = MeasuredTransport(
            transport, stall_seconds=self._limits.stall_seconds, on_stall=self.abort, on_close=self._linger
        )
        super().connection_made(cast("asyncio.Transport", self._measured))
        excess = len(self.connections) - self._limits.max_connections
        if excess > _PROBE_CONNECTIONS:
            self._refuse(_too_many_connections())
            self.transport.close()
        else:
            self._probes_only = excess > 0
            self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in filter(None, (self._head_timer, self._linger_timer)):
            timer.cancel()
        self._ignores_input = True
        self._measured.release()
        super().connection_lost(exc)

    # What the caller sends

    def data_received(self, data: bytes) -> None:
        try:
            while data and not self._ignores_input:
                data = self._receive_body(data) if self._reads_body else self._receive_head(data)
        except ServiceError as error:
            self._refuse(error)

    def _receive_head(self, data: bytes) -> bytes:
        """Collect a head, and give it to the parser when it is complete. Return the bytes after it."""
        data = self._head.skip_empty_lines(data)
        if not data:
            return b""
        if self._has_response_to_send:
            # Pipelining is not supported. Reading goes on to notice a disconnect. After the first response the
            # connection closes, and the client repeats the second request.
            self._stop_reading()
            return b""
        head, rest = self._head.feed(data)
        if head:
            self._head_is_counted = True
            self._parse(head)
        else:
            self._start_head_timer()
        return rest

    def _receive_body(self, data: bytes) -> bytes:
        """Give the bytes of a body to the parser. Return the bytes after it, which belong to the next request."""
        if self._is_chunked:
            rest = self._receive_chunks(data)
        else:
            rest = data[self._body_bytes_left :]
            data = data[: self._body_bytes_left]
            self._body_bytes_left -= len(data)
            self._parse(data)
            self._pass_body_on()
        if self._reads_body and not self._ignores_input and not self._has_open_request:
            # The request has its response, but its body still arrives. Other connections come first after each packet.
            self._start_head_timer()
            self.flow.pause_reading()
            self.loop.call_soon(self._resume_reading)
        return rest

    def _receive_chunks(self, data: bytes) -> bytes:
        view = memoryview(data)
        for start in range(0, len(data), _CHUNKED_PIECE_BYTES):
            end = start + _CHUNKED_PIECE_BYTES
            piece = view[start:end]
            self._framing_bytes += len(piece)
            self._parse(piece)
            if self._ignores_input:
                return b""
            if not self._reads_body:
                return bytes(view[end:])
            self._pass_body_on()
            if self._framing_bytes > self._limits.max_head_bytes:
                raise self._head.too_large()  # trailers, chunk extensions, or very many small chunks
        return b""

    def _resume_reading(self) -> None:
        if not self.transport.is_closing():
            self.flow.resume_reading()

    def _parse(self, data: bytes | memoryview) -> None:
        """Give bytes to the parser, which calls the `on_…` methods.

        Raises:
            ServiceError: the bytes are not valid HTTP, or an `on_…` method has raised this error.
        """
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if isinstance(error.__context__, ServiceError):
                raise error.__context__ from None
            self.logger.warning("Invalid HTTP request received.")
            raise InvalidHttp("The request is not valid HTTP.") from None

    def _pass_body_on(self) -> None:
        """Give the pieces of the body to the application as one, because chunks may have one byte each."""
        body = b"".join(self._body_pieces)
        self._body_pieces.clear()
        # The framing may have as many bytes as the content.
        self._framing_bytes = max(0, self._framing_bytes - 2 * len(body))
        if body:
            super().on_body(body)

    # What the parser finds. After an exception it stops.

    def on_message_begin(self) -> None:
        if not self._head_is_counted:  # a second request in one piece with a chunked body
            self._stop_reading()
            raise InvalidHttp("The next request must wait for the response.")  # stops the parser; it is not sent
        self._head_is_counted, self._fields = False, 0
        super().on_message_begin()
        self.scope["extensions"] = {CONNECTION: {"connection": self}}

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields += 1
        if self._fields > _MAX_HEADER_FIELDS:
            raise HeaderTooLarge(f"A request may have at most {_MAX_HEADER_FIELDS} header fields.")
        if not self._reads_body:  # trailers are not headers
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            raise InvalidHttp("CONNECT is only for proxies.")
        require_unambiguous(self.headers, self.parser.get_http_version())
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        if self._probes_only and self.url.partition(b"?")[0].decode("latin-1") not in PROBE_PATHS:
            raise _too_many_connections()
        self._is_chunked = any(name == b"transfer-encoding" for name, _ in self.headers)
        super().on_headers_complete()
        self._reads_body = True
        self._body_bytes_left = next((int(value) for name, value in self.headers if name == b"content-length"), 0)

    def on_body(self, body: bytes) -> None:
        self._body_pieces.append(body)

    def on_message_complete(self) -> None:
        self._pass_body_on()
        self._reads_body, self._framing_bytes = False, 0
        super().on_message_complete()

    # What the caller gets

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        if cycle.scope["http_version"] == "1.0":
            app = Http10Framing(app, cycle)
        if self._is_chunked:
            app = EarlyResponseFraming(app, cycle, lambda: self._reads_body)
        super()._start_asgi_task(cycle, app)

    @property
    def _has_open_request(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def _has_response_to_send(self) -> bool:
        """Whether bytes of the response are still to come. A caller that has all of them may send the next request."""
        if not self._has_open_request:
            return False
        cycle = self.cycle
        is_sent = cycle.response_started and cycle.chunked_encoding is False and cycle.expected_content_length == 0
        return not (is_sent and cycle.keep_alive)

    def _stop_reading(self) -> None:
        """Ignore further input, and close the connection after the current response."""
        self._ignores_input = True
        if self._has_open_request:
            self.cycle.keep_alive = False
        else:
            self.transport.close()

    def _refuse(self, error: ServiceError) -> None:
        """Answer with a problem instead of calling the application, and close the connection.

        An application that waits for the body of this request is told that the caller has disconnected. If it has
        started a response, no second response is sent.
        """
        if self._ignores_input:
            return
        if self._reads_body:
            if self.cycle.response_started:
                return self._stop_reading()
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self._ignores_input = True
        self._head.clear()
        self.flow.resume_reading()
        self.transport.write(problem_bytes(error))
        self._close_after(_LINGER_SECONDS)

    def _linger(self) -> bool:
        """Keep the connection open after a response if the request's body still arrives. Return whether it stays open.

        The rest of the body is read and dropped, for at most `head_seconds`. A client that sends its whole body before
        it reads (Python's urllib, for example) would otherwise get a reset instead of the response.
        """
        if self._ignores_input or not self._reads_body:
            return False
        self._ignores_input = True
        self.flow.resume_reading()
        self._close_after(self._limits.head_seconds)
        return True

    def _close_after(self, seconds: float) -> None:
        self.transport.write_eof()
        self._linger_timer = self.loop.call_later(seconds, self.transport.close)

    def _start_head_timer(self) -> None:
        self._unset_keepalive_if_required()
        if self._head_timer is None and not self.transport.is_closing():
            self._head_timer = self.loop.call_later(self._limits.head_seconds, self.transport.abort)

    # For the application: `ConnectionControl`

    @property
    def is_write_paused(self) -> bool:
        return self.flow.write_paused

    def abort(self) -> None:
        self.cut_off = True
        self._measured.reset()


def _too_many_connections() -> Overloaded:
    return Overloaded("The service has reached its limit of connections.", retry_after=1)
