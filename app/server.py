"""uvicorn, with limits where it has none and an end that lets everybody finish.

The limits: how many connections there are, how long the head of a request is and how long it takes. The end: on the
first signal readiness fails and nothing new is taken on, while whatever is under way is finished and delivered; then
the process exits with 0. On the second one it ends at once.
"""

import asyncio
import contextlib
import fcntl
import json
import logging
import re
import signal
import socket
import struct
import sys
import termios
from collections.abc import Iterator
from types import FrameType

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.api.edge import PROBES
from app.api.sending import CONNECTION
from app.service.gate import Gate
from app.settings import Settings

log = logging.getLogger(__name__)

_LAST_WORDS_SECONDS = 0.1
"""For telling callers that they were sent away."""

_FOR_PROBES = 50
"""Connections beyond the limit on which nothing but a health check is answered."""

_FULL = "This service has as many connections as it takes."

_UPGRADE = re.compile(rb"(\r\n)upgrade:(?=[ \t]*h2c[ \t]*\r\n)", re.IGNORECASE)
"""Some clients offer HTTP/2 with each request. A parser that sees it takes the body for something else."""

_REASONS = {400: "Bad Request", 431: "Request Header Fields Too Large", 503: "Service Unavailable"}


def server_of(app: FastAPI, settings: Settings) -> "Server":
    """A server for the app that `create_app` has built with these settings; its gate is at `app.state.gate`."""
    config = uvicorn.Config(
        app,
        log_config=None,  # app.logs has set the loggers up
        access_log=False,
        server_header=False,
        ws="none",
        http=_limited(settings),
        # When this begins everybody is done, or has been sent away; what is left are answers on their way.
        timeout_graceful_shutdown=int(settings.slow_caller_seconds) + 5,
        host=settings.host,
        port=settings.port,
    )
    return Server(config, app.state.gate, settings.shutdown_notice_seconds, settings.shutdown_grace_seconds)


class Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, gate: Gate, notice_seconds: float, grace_seconds: float) -> None:
        super().__init__(config)
        self._gate = gate
        self._notice = notice_seconds
        self._grace = grace_seconds
        self._draining: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn does, but an end in good order is no death by signal."""
        before = {sig: signal.signal(sig, self.handle_exit) for sig in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for sig, handler in before.items():
                signal.signal(sig, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._gate.stopping:
            self.force_exit = True
        else:
            self._gate.stopping = True  # at once, whatever the event loop is doing
            self._gate.draining = not self._notice

    async def on_tick(self, counter: int) -> bool:
        if self._gate.stopping and self._draining is None:
            self._draining = asyncio.create_task(self.drain())
        if self.force_exit:
            self._gate.end()
            await asyncio.sleep(_LAST_WORDS_SECONDS)
            return True
        return await super().on_tick(counter)

    async def drain(self) -> None:
        """Let whoever balances the load notice; let whatever is under way finish, as long as the grace lasts; stop."""
        await asyncio.sleep(self._notice)
        self._gate.drain()
        log.info("stopping", extra={"underWay": self._gate.under_way})
        try:
            async with asyncio.timeout(self._grace):
                await self._gate.emptied()
        except TimeoutError:
            log.warning("sending away whoever is left", extra={"underWay": self._gate.under_way})
            self._gate.end()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self._gate.emptied()
        self.should_exit = True


def _limited(settings: Settings) -> type[asyncio.Protocol]:
    class Protocol(_Protocol):
        max_connections = settings.max_connections
        max_head_bytes = settings.max_header_bytes
        head_seconds = settings.head_timeout_seconds
        slow_seconds = settings.slow_caller_seconds

    return Protocol


class _Protocol(HttpToolsProtocol):
    max_connections: int
    max_head_bytes: int
    head_seconds: float
    slow_seconds: float

    _head_bytes = 0
    _too_long = _probes_only = _deaf = False
    _head_timer: asyncio.TimerHandle | None = None
    _flush_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        beyond = len(self.connections) - self.max_connections
        if beyond > _FOR_PROBES:
            self._refuse(503, "overloaded", _FULL)
        else:
            self._probes_only = beyond > 0
            self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_there()
        self._stop_waiting_for_flush()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        if self._answering and self.cycle.more_body is False:
            # A second request before the first is answered: nobody does that any more, and reading on is the only way
            # to notice that a caller has left. It is not answered, and the connection ends with the first one's answer.
            self._deaf = True
            self.cycle.keep_alive = False
            return
        if not self._at_work:
            data = _UPGRADE.sub(rb"\1x-ignored:", data, count=1) if _UPGRADE.search(data) else data
        super().data_received(data)
        if self._head_timer is None and not self._at_work:
            self._expect_head()  # a second request has begun, on a connection that was idle

    @property
    def _at_work(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def _answering(self) -> bool:
        """Whether something of the answer is still to come; whoever has all of it may ask again at once."""
        if not self._at_work:
            return False
        cycle = self.cycle
        return not (cycle.response_started and cycle.chunked_encoding is False and cycle.expected_content_length == 0)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._stop_waiting_for_flush()  # whoever asks again is there, and what they read of the next answer is watched
        self._head_bytes = 0
        self.scope["extensions"] = {CONNECTION: {"connection": self}}

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._head_is_there()
        if self._probes_only and self.url.partition(b"?")[0].decode("latin-1") not in PROBES:
            self._deaf = True
            self._refuse(503, "overloaded", _FULL)
            return
        if self._answering:  # in one piece with the first request
            self._deaf = True
            self.cycle.keep_alive = False
            return
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if not self._deaf:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if not self._deaf:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._flush_timer is None and self.unread():
            self._flush_timer = self.loop.call_later(self.slow_seconds, self._flushed_or_cut, self.unread())

    def send_400_response(self, msg: str) -> None:
        if self._at_work:
            self._deaf = True
            self.cycle.keep_alive = False
        elif self._too_long:
            self._refuse(431, "too_large", f"The head of a request may have {self.max_head_bytes:,} bytes.")
        else:
            self._refuse(400, "invalid_http", "This is not HTTP that can be read.")

    # What the application may ask of its connection.

    @property
    def congested(self) -> bool:
        return self.flow.write_paused

    def unread(self) -> int:
        """Bytes that the caller has not confirmed: those that wait here, and those that the kernel holds."""
        held = bytearray(4)
        with contextlib.suppress(OSError, ValueError):  # closed already, or a system that does not tell
            fcntl.ioctl(self.transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, held)
        return self.transport.get_write_buffer_size() + int.from_bytes(held, sys.byteorder)

    def cut(self) -> None:
        # Lingering for zero seconds makes the kernel forget what it still holds for a reader who takes nothing.
        sock = self.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def _stop_waiting_for_flush(self) -> None:
        if self._flush_timer is not None:
            self._flush_timer.cancel()
            self._flush_timer = None

    def _flushed_or_cut(self, before: int) -> None:
        """The last of an answer waits to be taken too, even by whoever keeps the connection open."""
        self._flush_timer = None
        unread = self.unread()
        if unread >= before:
            self.cut()
        elif unread:
            self._flush_timer = self.loop.call_later(self.slow_seconds, self._flushed_or_cut, unread)

    def _count(self, length: int) -> None:
        self._head_bytes += length
        if self._head_bytes > self.max_head_bytes:
            self._too_long = True
            raise ValueError("the head is too long")  # the parser makes it an error of its own

    def _expect_head(self) -> None:
        if not self.transport.is_closing():
            self._head_timer = self.loop.call_later(self.head_seconds, self.transport.abort)

    def _head_is_there(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self, status: int, code: str, detail: str) -> None:
        """A problem from below the application, which does not get to see this one."""
        document = {
            "type": f"urn:gemini-images:problem:{code}",
            "title": _REASONS[status],
            "status": status,
            "detail": detail,
            "code": code,
            "error": detail,
        }
        body = json.dumps(document)
        retry = "Retry-After: 1\r\n" if status == 503 else ""
        self.transport.write(
            f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: application/problem+json\r\n"
            f"Content-Length: {len(body)}\r\n{retry}Connection: close\r\n\r\n{body}".encode()
        )
        self.transport.close()
