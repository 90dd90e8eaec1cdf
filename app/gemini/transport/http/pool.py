"""The connections of this process: it reuses idle ones and opens new ones."""

import asyncio
from collections import defaultdict
from functools import partial

import httpcore2
import httpx2

from app.gemini.transport.http.connection import Connection
from app.gemini.transport.http.connector import Connector
from app.gemini.transport.http.response import RawResponse, send
from app.gemini.transport.http.route import Route
from app.lib.event_loop_scheduler import FairScheduler
from app.lib.proxies import BadProxy, Proxy, proxy_for

_MAX_IDLE_CONNECTIONS = 20
"""The maximum number of idle connections for each route."""

_IDLE_SECONDS = 4.0
"""How long an idle connection is kept. Many servers close one after 5 seconds; a request that is sent at that moment is
lost."""


class ConnectionPool:
    """Sends requests, directly or through the proxy that the environment names.

    Raises:
        httpcore2.ConnectError, httpcore2.ConnectTimeout, httpcore2.ProxyError, httpcore2.UnsupportedProtocol,
            httpcore2.LocalProtocolError: nothing of the request was sent.
        httpcore2.TimeoutException, httpcore2.NetworkError, httpcore2.ProtocolError: some of it may have been sent. The
            body of a response raises these too.
    """

    def __init__(self, scheduler: FairScheduler, *, trust_env: bool) -> None:
        """
        Args:
            scheduler: limits how much one iteration of the event loop reads and writes.
            trust_env: whether to use `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY` and `SSL_CERT_FILE`.
        """
        self._trust_env = trust_env
        self.tls = httpx2.create_ssl_context(trust_env=trust_env)
        """Trusts the certificate authorities of the system, or those in the file `SSL_CERT_FILE`."""
        self.tls.set_alpn_protocols(["http/1.1"])
        self._connector = Connector(scheduler, self.tls)
        self._idle: defaultdict[Route, list[Connection]] = defaultdict(list)

    async def send(self, request: httpx2.Request) -> RawResponse:
        """Send `request` and read the headers of its response. The caller must read and close the response.

        The request's extension `timeout` has limits in seconds. `connect` limits opening a connection, `write` limits
        the write of each piece, and `read` limits the silence before the headers.
        """
        route = Route.to(request.url, _proxy_for(request.url) if self._trust_env else None)
        head = route.request_head(request)
        timeouts = request.extensions.get("timeout", {})
        assert isinstance(request.stream, httpx2.AsyncByteStream)
        connection = self._take_idle(route) or await self._connector.open(route, timeouts.get("connect"))
        return await send(connection, head, request.stream, timeouts, partial(self._keep_idle, route, connection))

    async def aclose(self) -> None:
        """Close the idle connections."""
        for connections in self._idle.values():
            for connection in connections:
                connection.abort()
        self._idle.clear()

    def _take_idle(self, route: Route) -> Connection | None:
        idle = self._idle[route]
        while idle:
            connection = idle.pop()
            if connection.is_usable:
                return connection
            connection.abort()
        return None

    def _keep_idle(self, route: Route, connection: Connection) -> None:
        idle = self._idle[route]
        if len(idle) >= _MAX_IDLE_CONNECTIONS:
            connection.abort()
            return
        idle.append(connection)
        asyncio.get_running_loop().call_later(
            _IDLE_SECONDS, self._close_idle, route, connection, connection.response_count
        )

    def _close_idle(self, route: Route, connection: Connection, response_count: int) -> None:
        """Close the connection unless it was used since; then a later timer applies."""
        if connection.response_count == response_count and connection in self._idle[route]:
            self._idle[route].remove(connection)
            connection.abort()


def _proxy_for(url: httpx2.URL) -> Proxy | None:
    try:
        return proxy_for(f"{url.scheme}://{url.netloc.decode()}")
    except BadProxy as error:
        raise httpcore2.ProxyError(str(error)) from error
