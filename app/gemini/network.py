"""Connections to Gemini: httpcore's pool on sockets of our own.

The streams that httpcore brings hand on 64 KiB at most, 16 KiB under TLS, each through several layers of coroutines;
for answers of many megabytes that costs more than everything else that is done with them. These hand on whatever has
arrived, in one piece.
"""

import asyncio
import selectors
import socket
import ssl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, cast
from urllib.request import getproxies, proxy_bypass

import aiohappyeyeballs
import httpcore2
import httpx2

from app.pace import Pace

BUFFER_BYTES = 256 * 1024
"""How much is read at once. Below this, reading costs more per byte; above, it gains nothing and takes memory."""

FIRST_BUFFER_BYTES = 16 * 1024
"""How much is read of an answer before anybody knows how long it is."""

_MAX_IDLE_CONNECTIONS = 20
_IDLE_SECONDS = 4.0
"""Many servers close idle connections after five; a request on its way at that moment would be lost."""

_HAPPY_EYEBALLS_SECONDS = 0.25


class Network:
    """Connection pools: one for direct connections and one for each proxy that the environment names.

    Raises:
        httpcore2.TimeoutException, httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.ProxyError: as they
            happen, also while the body of an answer is read.
    """

    def __init__(self, pace: Pace, *, trust_env: bool) -> None:
        """
        Args:
            pace: in turns of which answers are read.
            trust_env: heed `HTTPS_PROXY`, `NO_PROXY` and their like, and `SSL_CERT_FILE`.
        """
        self._pace = pace
        self._trust_env = trust_env
        self._tls = httpx2.create_ssl_context(trust_env=trust_env)
        self._pools: dict[str | None, httpcore2.AsyncConnectionPool] = {}

    async def send(self, request: httpx2.Request) -> httpcore2.Response:
        """Send `request`; the answer's body is still to be read, and the answer to be closed."""
        url = request.url
        pool = self._pool(_proxy_for(url) if self._trust_env else None)
        assert isinstance(request.stream, httpx2.AsyncByteStream)
        return await pool.handle_async_request(
            httpcore2.Request(
                request.method,
                httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                headers=request.headers.raw,
                content=request.stream,
                extensions=request.extensions,
            )
        )

    async def aclose(self) -> None:
        for pool in self._pools.values():
            await pool.aclose()

    def _pool(self, proxy: str | None) -> httpcore2.AsyncConnectionPool:
        if proxy not in self._pools:
            self._pools[proxy] = httpcore2.AsyncConnectionPool(
                self._tls,
                _as_proxy(proxy) if proxy else None,
                max_connections=None,
                max_keepalive_connections=_MAX_IDLE_CONNECTIONS,
                keepalive_expiry=_IDLE_SECONDS,
                network_backend=_Backend(self._pace),
            )
        return self._pools[proxy]


def _proxy_for(url: httpx2.URL) -> str | None:
    proxies = getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    if not proxy or proxy_bypass(url.netloc.decode()):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _as_proxy(url: str) -> httpcore2.Proxy:
    proxy = httpx2.Proxy(url)
    target = httpcore2.URL(scheme=proxy.url.raw_scheme, host=proxy.url.raw_host, port=proxy.url.port, target=b"/")
    return httpcore2.Proxy(target, auth=proxy.raw_auth)


class _Backend(httpcore2.AsyncNetworkBackend):
    def __init__(self, pace: Pace) -> None:
        self._pace = pace

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the interface is httpcore's
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        loop = asyncio.get_running_loop()
        with _as_connect_errors():
            async with asyncio.timeout(timeout):
                addresses = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
                connected = await aiohappyeyeballs.start_connection(
                    addresses, happy_eyeballs_delay=_HAPPY_EYEBALLS_SECONDS
                )
                connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                _, stream = await loop.create_connection(lambda: _Stream(self._pace), sock=connected)
                return stream


class _Stream(httpcore2.AsyncNetworkStream, asyncio.BufferedProtocol):
    """One connection. What has arrived lies in one buffer until it is read, and the news that it is over waits too.

    The socket is read only when somebody reads here, so that no more than one buffer is filled for each turn.
    """

    _transport: asyncio.Transport

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._buffer = memoryview(b"")  # most of the time is spent waiting, and takes none
        self._filled = 0
        self._paused = self._ended = False
        self._lost: Exception | None = None
        self._arrival: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None  # there while the other side does not take any more

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        """All there is, be it more than `max_bytes`; nothing at all is the end."""
        if not self._filled and not self._ended:
            self._arrival = asyncio.get_running_loop().create_future()
            if self._paused:
                self._paused = False
                self._transport.resume_reading()
            try:
                async with asyncio.timeout(timeout):
                    await self._arrival
            except TimeoutError as exc:
                raise httpcore2.ReadTimeout(str(exc)) from exc
        await self._pace.turn()
        if not self._filled and self._lost is not None:
            raise httpcore2.ReadError(str(self._lost)) from self._lost
        data = bytes(self._buffer[: self._filled])
        if data and self._filled == len(self._buffer) < BUFFER_BYTES:
            self._buffer = memoryview(bytearray(BUFFER_BYTES))  # there is more to come
        self._filled = 0
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        if self._ended and self._transport.is_closing():
            raise httpcore2.WriteError("The connection is closed.") from self._lost
        self._transport.write(buffer)
        if self._room is not None:
            try:
                async with asyncio.timeout(timeout):
                    await asyncio.shield(self._room)
            except TimeoutError as exc:
                raise httpcore2.WriteTimeout(str(exc)) from exc

    async def aclose(self) -> None:
        self._transport.abort()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> httpcore2.AsyncNetworkStream:
        with _as_connect_errors():
            async with asyncio.timeout(timeout):
                transport = await asyncio.get_running_loop().start_tls(
                    self._transport, self, ssl_context, server_hostname=server_hostname
                )
        if transport is None:
            raise httpcore2.ConnectError("The connection was lost.")
        self._transport = transport
        return self

    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable":  # asked of idle connections: nothing but their end can come
            return self._ended or self._filled > 0 or _is_readable(self._transport.get_extra_info("socket"))
        names = {"client_addr": "sockname", "server_addr": "peername"}
        return self._transport.get_extra_info(names.get(info, info))

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


def _is_readable(connection: socket.socket) -> bool:
    if connection.fileno() < 0:
        return True  # closed, which is the same to whoever asks
    with selectors.DefaultSelector() as selector:
        selector.register(connection.fileno(), selectors.EVENT_READ)
        return bool(selector.select(0))


@contextmanager
def _as_connect_errors() -> Iterator[None]:
    try:
        yield
    except TimeoutError as exc:
        raise httpcore2.ConnectTimeout(str(exc)) from exc
    except OSError as exc:  # an unknown host, and whatever is wrong with TLS, too
        raise httpcore2.ConnectError(str(exc)) from exc
