"""Opens connections: directly, to a proxy that forwards, or through a tunnel that a proxy opens."""

import asyncio
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import aiohappyeyeballs
import httpcore2
import httpx2

from app.gemini.transport.http.connection import Connection
from app.gemini.transport.http.response import send
from app.gemini.transport.http.route import Route
from app.lib.event_loop_scheduler import FairScheduler

_HAPPY_EYEBALLS_SECONDS = 0.25

_KEEPALIVE_OPTIONS = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}
"""TCP keepalive: probe after 30 seconds of silence, give up after three probes without a reply, 10 seconds apart. An
image takes minutes, and firewalls and NAT gateways forget silent connections."""


class Connector:
    """Opens connections, each within one time limit for all its steps.

    Nothing of a request is sent before the connection is open. After any of these errors it can be sent again.

    Raises:
        httpcore2.ConnectTimeout: the connection was not open in time.
        httpcore2.ConnectError: the host is unknown, the connection or the TLS handshake failed.
        httpcore2.ProxyError: the proxy refused to open a tunnel.
    """

    def __init__(self, scheduler: FairScheduler, tls: ssl.SSLContext) -> None:
        self._scheduler = scheduler
        self._tls = tls

    async def open(self, route: Route, timeout_seconds: float | None) -> Connection:
        """Open a connection that is ready for a request."""
        with _as_connect_errors():
            async with asyncio.timeout(timeout_seconds):
                if route.proxy is None:
                    return await self._connect(route.host, route.port, tls=route.uses_tls)
                proxy = route.proxy
                connection = await self._connect(proxy.host, proxy.port, tls=proxy.uses_tls)
                if route.uses_tls:
                    await self._open_tunnel(connection, route)
                return connection

    async def _connect(self, host: str, port: int, *, tls: bool) -> Connection:
        """Connect to the host. If it has several addresses, the first that accepts is used."""
        loop = asyncio.get_running_loop()
        addresses = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        connected = await aiohappyeyeballs.start_connection(addresses, happy_eyeballs_delay=_HAPPY_EYEBALLS_SECONDS)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE_OPTIONS.items():
            if hasattr(socket, name):  # macOS and Windows lack some of them
                connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        _, connection = await loop.create_connection(
            lambda: Connection(self._scheduler),
            sock=connected,
            ssl=self._tls if tls else None,
            server_hostname=host if tls else None,
        )
        return connection

    async def _open_tunnel(self, connection: Connection, route: Route) -> None:
        try:
            response = await send(connection, route.connect_head(), httpx2.ByteStream(b""), {}, lambda: None)
            if not 200 <= response.status < 300:
                raise httpcore2.ProxyError(f"The proxy refused the tunnel with status {response.status}.")
            await connection.start_tls(self._tls, route.host)
        except BaseException:
            connection.abort()
            raise


@contextmanager
def _as_connect_errors() -> Iterator[None]:
    try:
        yield
    except TimeoutError as exc:
        raise httpcore2.ConnectTimeout(str(exc)) from exc
    except (OSError, UnicodeError, httpcore2.NetworkError, httpcore2.ProtocolError) as exc:
        # `getaddrinfo` raises UnicodeError for a name that DNS cannot carry, such as one with two dots in a row.
        raise httpcore2.ConnectError(str(exc)) from exc
