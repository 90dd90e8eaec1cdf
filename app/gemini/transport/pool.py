"""Connections to Gemini: our own where nothing stands between, httpcore's where a proxy does.

httpcore hands a body on in pieces of 64 KiB, 16 KiB under TLS, copied three times over and through half a dozen
coroutines each; for answers of many megabytes that costs more than everything else that is done with them.
"""

import asyncio
import socket
import ssl
from collections import defaultdict
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

import aiohappyeyeballs
import httpcore2
import httpx2

from app.gemini.transport.connection import Connection
from app.lib.proxies import BadProxy, proxy_for
from app.lib.scheduler import FairScheduler

_MAX_IDLE_CONNECTIONS = 20
_IDLE_SECONDS = 4.0
"""Many servers close idle connections after five; a request on its way at that moment would be lost."""

_HAPPY_EYEBALLS_SECONDS = 0.25

_PROBES = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}
"""An image takes minutes, and whatever tracks connections on the way forgets silent ones: probe after 30 seconds, and
give a path up that is dead for another 30."""

_Origin = tuple[str, str, int]


class RawResponse(Protocol):
    """What came back; its body is still to be read, and itself to be closed."""

    @property
    def status(self) -> int | None: ...

    @property
    def headers(self) -> list[tuple[bytes, bytes]]: ...

    def aiter_stream(self) -> AsyncGenerator[bytes]: ...

    async def aclose(self) -> None: ...


class ConnectionPool:
    """Sends requests over whatever way the environment names.

    Raises:
        httpcore2.TimeoutException, httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.ProxyError: as they
            happen, also while the body of an answer is read. `ConnectError` and `ConnectTimeout` mean that nothing of
            the request has left.
    """

    def __init__(self, scheduler: FairScheduler, *, trust_env: bool) -> None:
        """
        Args:
            scheduler: limits how much one iteration of the event loop reads.
            trust_env: heed `HTTPS_PROXY`, `NO_PROXY` and their like, and `SSL_CERT_FILE`.
        """
        self._scheduler = scheduler
        self._trust_env = trust_env
        self.tls = httpx2.create_ssl_context(trust_env=trust_env)
        """Trusts what the system does, or what `SSL_CERT_FILE` names."""
        self.tls.set_alpn_protocols(["http/1.1"])
        self._idle: defaultdict[_Origin, list[Connection]] = defaultdict(list)
        self._proxies: dict[str, httpcore2.AsyncConnectionPool] = {}

    async def send(self, request: httpx2.Request) -> RawResponse:
        """Send `request`; the answer's body is still to be read, and the answer to be closed."""
        proxy = _proxy_for(request.url) if self._trust_env else None
        return await (self._through(proxy, request) if proxy else self._directly(request))

    async def aclose(self) -> None:
        for connections in self._idle.values():
            for connection in connections:
                connection.abort()
        self._idle.clear()
        for pool in self._proxies.values():
            await pool.aclose()

    async def _directly(self, request: httpx2.Request) -> RawResponse:
        url = request.url
        tls = _tls_of(url.scheme, self.tls)
        origin = (url.scheme, url.host, url.port or (443 if tls else 80))
        limits = request.extensions.get("timeout", {})
        connection = self._take(origin) or await self._open(*origin[1:], tls, limits.get("connect"))
        return await connection.ask(request, partial(self._give_back, origin, connection))

    async def _open(self, host: str, port: int, tls: ssl.SSLContext | None, seconds: float | None) -> Connection:
        """Connect to whichever of the host's addresses answers first."""
        loop = asyncio.get_running_loop()
        with _as_connect_errors():
            async with asyncio.timeout(seconds):
                addresses = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
                connected = await aiohappyeyeballs.start_connection(
                    addresses, happy_eyeballs_delay=_HAPPY_EYEBALLS_SECONDS
                )
                connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                for name, value in _PROBES.items():
                    if hasattr(socket, name):  # not every system has all of them
                        connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
                _, connection = await loop.create_connection(
                    lambda: Connection(self._scheduler), sock=connected, ssl=tls, server_hostname=host if tls else None
                )
                return connection

    def _take(self, origin: _Origin) -> Connection | None:
        idle = self._idle[origin]
        while idle:
            connection = idle.pop()
            if connection.usable:
                return connection
            connection.abort()
        return None

    def _give_back(self, origin: _Origin, connection: Connection) -> None:
        idle = self._idle[origin]
        if len(idle) >= _MAX_IDLE_CONNECTIONS:
            connection.abort()
            return
        idle.append(connection)
        asyncio.get_running_loop().call_later(_IDLE_SECONDS, self._expire, origin, connection, connection.answers)

    def _expire(self, origin: _Origin, connection: Connection, answers: int) -> None:
        """Close what has been idle since; whoever was used in between has another timer."""
        if connection.answers == answers and connection in self._idle[origin]:
            self._idle[origin].remove(connection)
            connection.abort()

    async def _through(self, proxy: str, request: httpx2.Request) -> RawResponse:
        if proxy not in self._proxies:
            self._proxies[proxy] = httpcore2.AsyncConnectionPool(
                self.tls,
                _as_proxy(proxy),
                max_connections=None,
                max_keepalive_connections=_MAX_IDLE_CONNECTIONS,
                keepalive_expiry=_IDLE_SECONDS,
            )
        url = request.url
        assert isinstance(request.stream, httpx2.AsyncByteStream)
        limits = request.extensions.get("timeout", {})
        connecting = asyncio.timeout(limits.get("connect"))

        async def trace(event: str, info: dict[str, Any]) -> None:
            # httpcore limits each step alone, and has minutes for the proxy's answer to CONNECT.
            sending = event == "http11.send_request_headers.started" and info["request"].method != b"CONNECT"
            if sending and not connecting.expired():
                connecting.reschedule(None)

        try:
            async with connecting:
                return await self._proxies[proxy].handle_async_request(
                    httpcore2.Request(
                        request.method,
                        httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                        headers=request.headers.raw,
                        content=request.stream,
                        extensions={**request.extensions, "trace": trace},
                    )
                )
        except TimeoutError as exc:
            if connecting.expired():
                raise httpcore2.ConnectTimeout("The proxy opens no connection.") from exc
            raise


def _tls_of(scheme: str, context: ssl.SSLContext) -> ssl.SSLContext | None:
    if scheme not in ("http", "https"):
        raise httpcore2.UnsupportedProtocol("Gemini is reached over http:// or https://.")
    return context if scheme == "https" else None


def _proxy_for(url: httpx2.URL) -> str | None:
    try:
        return proxy_for(f"{url.scheme}://{url.netloc.decode()}")
    except BadProxy as error:
        raise httpcore2.ProxyError(str(error)) from error


def _as_proxy(url: str) -> httpcore2.Proxy:
    proxy = httpx2.Proxy(url)
    target = httpcore2.URL(scheme=proxy.url.raw_scheme, host=proxy.url.raw_host, port=proxy.url.port, target=b"/")
    return httpcore2.Proxy(target, auth=proxy.raw_auth)


@contextmanager
def _as_connect_errors() -> Iterator[None]:
    try:
        yield
    except TimeoutError as exc:
        raise httpcore2.ConnectTimeout(str(exc)) from exc
    except OSError as exc:  # an unknown host, and whatever is wrong with TLS, too
        raise httpcore2.ConnectError(str(exc)) from exc
