"""The proxy for a URL, from `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`."""

import os
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass


class BadProxy(ValueError):
    """The environment names a proxy that cannot be used. The message is a sentence without the proxy's address."""

    def __init__(self, variable: str, predicate: str) -> None:
        super().__init__(f"{variable} {predicate}")
        self.variable = variable


def proxy_for(url: str) -> str | None:
    """Return the URL of the proxy for `url`; None if `url` is reached directly.

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
    return proxy


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
