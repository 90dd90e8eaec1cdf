"""A transport of the HTTP server that notices when the client stops reading the response."""

import asyncio
import contextlib
import fcntl
import socket
import struct
import sys
import termios
from collections.abc import Callable
from typing import Any


class MeasuredTransport:
    """Wraps a transport and measures how many of the written bytes the caller's system has acknowledged."""

    def __init__(
        self,
        transport: asyncio.Transport,
        *,
        stall_seconds: float,
        on_stall: Callable[[], None],
        on_close: Callable[[], bool],
    ) -> None:
        """
        Args:
            transport: the transport to wrap.
            stall_seconds: how long written bytes may wait while the caller acknowledges none of them.
            on_stall: called when that time is over.
            on_close: called before the first `close`. If it returns True, the transport stays open until the second
                `close`.
        """
        self._transport = transport
        self._stall_seconds = stall_seconds
        self._on_stall = on_stall
        self._on_close = on_close
        self._is_closing = False
        self._written_bytes = 0
        self._stall_timer: asyncio.TimerHandle | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if not data:
            return
        self._written_bytes += len(data)
        self._transport.write(data)
        if self._stall_timer is None:
            self._start_stall_timer(self._acknowledged_bytes())

    def close(self) -> None:
        is_first, self._is_closing = not self._is_closing, True
        if not (is_first and self._on_close()):
            self._transport.close()

    def is_closing(self) -> bool:
        return self._is_closing or self._transport.is_closing()

    def reset(self) -> None:
        """Close the connection at once. Unsent bytes are dropped here and in the kernel."""
        sock = self._transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def release(self) -> None:
        """Drop the timer and the callbacks, so that no reference cycle keeps a closed connection in memory."""
        if self._stall_timer is not None:
            self._stall_timer.cancel()
        self._on_stall, self._on_close = lambda: None, lambda: False

    def _start_stall_timer(self, acknowledged: int) -> None:
        loop = asyncio.get_running_loop()
        self._stall_timer = loop.call_later(self._stall_seconds, self._check_progress, acknowledged)

    def _check_progress(self, acknowledged_before: int) -> None:
        self._stall_timer = None
        acknowledged = self._acknowledged_bytes()
        if acknowledged == self._written_bytes:
            return
        if acknowledged > acknowledged_before:
            self._start_stall_timer(acknowledged)
        else:
            self._on_stall()

    def _acknowledged_bytes(self) -> int:
        """Return the written bytes without those in the transport's buffer and in the kernel's send queue."""
        queued = bytearray(4)
        with contextlib.suppress(OSError, ValueError):  # the socket is closed, or the system has no TIOCOUTQ
            fcntl.ioctl(self._transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, queued)
        buffered = self._transport.get_write_buffer_size() + int.from_bytes(queued, sys.byteorder)
        return self._written_bytes - buffered
