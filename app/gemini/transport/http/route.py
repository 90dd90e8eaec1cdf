"""The way to a server: its address, and the proxy between, if there is one."""

from dataclasses import dataclass
from typing import Self

import httpcore2
import httpx2

from app.lib.proxies import Proxy

_DEFAULT_PORTS = {"http": 80, "https": 443}
_FORBIDDEN_IN_HEADERS = frozenset(b"\r\n\0")


@dataclass(frozen=True, slots=True)
class Route:
    """The way to a server. Connections of the same route are interchangeable."""

    scheme: str
    host: str
    port: int
    proxy: Proxy | None

    @classmethod
    def to(cls, url: httpx2.URL, proxy: Proxy | None) -> Self:
        """
        Raises:
            httpcore2.UnsupportedProtocol: the scheme is neither http nor https.
        """
        if url.scheme not in _DEFAULT_PORTS:
            raise httpcore2.UnsupportedProtocol("The URL must begin with http:// or https://.")
        return cls(url.scheme, url.raw_host.decode(), url.port or _DEFAULT_PORTS[url.scheme], proxy)

    @property
    def uses_tls(self) -> bool:
        return self.scheme == "https"

    def request_head(self, request: httpx2.Request) -> bytes:
        """Return the request line and headers.

        A proxy forwards a request for an http:// URL. Its request line names the server, and a header has the
        credentials for the proxy. A request for an https:// URL passes through a tunnel, in the same form as
        without a proxy.

        Raises:
            httpcore2.LocalProtocolError: a header contains a line break or a null byte.
        """
        target, headers = request.url.raw_path, request.headers.raw
        if self.proxy is not None and not self.uses_tls:
            target = b"http://" + request.url.netloc + target
            headers = [*headers, *_authorization(self.proxy)]
        return _head(request.method.encode(), target, headers)

    def connect_head(self) -> bytes:
        """Return the request for a tunnel to the server."""
        assert self.proxy is not None
        host = f"[{self.host}]" if ":" in self.host else self.host
        authority = f"{host}:{self.port}".encode()
        return _head(b"CONNECT", authority, [(b"Host", authority), *_authorization(self.proxy)])


def _authorization(proxy: Proxy) -> list[tuple[bytes, bytes]]:
    return [] if proxy.authorization is None else [(b"Proxy-Authorization", proxy.authorization)]


def _head(method: bytes, target: bytes, headers: list[tuple[bytes, bytes]]) -> bytes:
    lines = [method + b" " + target + b" HTTP/1.1"]
    for name, value in headers:
        if not _FORBIDDEN_IN_HEADERS.isdisjoint(name + value):
            raise httpcore2.LocalProtocolError("A header contains a line break or a null byte.")
        lines.append(name + b": " + value)
    return b"\r\n".join([*lines, b"", b""])
