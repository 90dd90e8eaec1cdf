"""The proxy for a URL, from `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`."""

import base64
import os
from dataclasses import dataclass, field
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass


class BadProxy(ValueError):
    """The environment names a proxy that cannot be used. The message is a sentence without the proxy's address."""

    def __init__(self, variable: str, predicate: str) -> None:
        super().__init__(f"{variable} {predicate}")
        self.variable = variable


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy."""

    host: str
    port: int
    uses_tls: bool
    """Whether the connection to the proxy itself is encrypted, as an https:// URL asks for."""
    authorization: bytes | None = field(repr=False)
    """The value of the header `Proxy-Authorization`, from the user name and password in the proxy's URL."""


def proxy_for(url: str) -> Proxy | None:
    """Return the proxy for `url`, or None if `url` is reached directly.

    Raises:
        BadProxy: the proxy is not an HTTP proxy.
    """
    address = urlsplit(url)
    proxies = getproxies()
    kind = next((kind for kind in (address.scheme, "all") if proxies.get(kind)), None)
    if kind is None or proxy_bypass(address.netloc):
        return None
    named = proxies[kind]
    proxy = named if "://" in named else f"http://{named}"
    if predicate := _proxy_error(proxy):
        variable = f"{kind}_proxy"
        raise BadProxy(variable if os.environ.get(variable) else variable.upper(), predicate)
    parts = urlsplit(proxy)
    uses_tls = parts.scheme == "https"
    return Proxy(parts.hostname or "", parts.port or (443 if uses_tls else 80), uses_tls, _authorization(parts))


def _authorization(parts: SplitResult) -> bytes | None:
    if not parts.username and not parts.password:
        return None
    credentials = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
    return b"Basic " + base64.b64encode(credentials.encode())


def _proxy_error(proxy: str) -> str | None:
    try:
        parts = urlsplit(proxy)
        complete = parts.hostname and parts.port != 0
    except ValueError:
        complete = False
    else:
        if parts.scheme.startswith("socks"):
            return "names a SOCKS proxy, which is not supported: name an HTTP proxy, or add the host to NO_PROXY."
        if parts.scheme not in ("http", "https"):
            return "does not name an HTTP proxy, whose URL begins with http:// or https://."
    if not complete or not proxy.isascii() or any(one.isspace() for one in proxy):
        return "is not the URL of a proxy such as http://host:3128."
    return None
