"""Connections of which a limited number of bytes is read, so that a receiver cannot keep the service busy.

The HTTP client skips informational responses (`100 Continue`). Without a limit, a receiver could send them without end.
"""

import asyncio
import ssl
from collections.abc import Iterable
from typing import Any

import httpcore2

_READ_BYTES = 4096
"""Most bytes of one read. Other tasks run between two reads."""


class AnswerTooLong(httpcore2.RemoteProtocolError):
    """The receiver has sent more bytes than the limit."""


class LimitedNetwork(httpcore2.AsyncNetworkBackend):
    """Opens TCP connections."""

    def __init__(self, max_bytes: int) -> None:
        """
        Args:
            max_bytes: the most that is read from each connection, without the bytes of TLS.
        """
        self._backend = httpcore2.AnyIOBackend()
        self._max_bytes = max_bytes

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore2 defines it
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        stream = await self._backend.connect_tcp(host, port, timeout, local_address, socket_options)
        return _LimitedStream(stream, self._max_bytes)


class _LimitedStream(httpcore2.AsyncNetworkStream):
    def __init__(self, stream: httpcore2.AsyncNetworkStream, max_bytes: int) -> None:
        self._stream = stream
        self._left = max_bytes

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        if self._left <= 0:
            raise AnswerTooLong
        await asyncio.sleep(0)  # with TLS, a read can return without waiting
        data = await self._stream.read(min(max_bytes, _READ_BYTES), timeout)
        self._left -= len(data)
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> httpcore2.AsyncNetworkStream:
        return _LimitedStream(await self._stream.start_tls(ssl_context, server_hostname, timeout), self._left)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
