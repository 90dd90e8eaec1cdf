"""Which addresses webhooks may have: those of public hosts, and those that the operator allows.

Without this check, callers could use the service to reach hosts of its own network (server-side request forgery).
"""

import asyncio
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import anyio
import anyio.to_thread
import httpx2

from app.domain.errors import WebhookRefused

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Returns the addresses of a host. Takes the host and the port; raises `OSError` or `UnicodeError`."""

MAX_URL_LENGTH = 2000
RESOLVE_SECONDS = 5.0
_RESOLVERS = 20
"""Most names that are resolved at the same time."""

_UNICAST = ipaddress.IPv6Network("2000::/3")
"""The public addresses of IPv6. Among others, NAT64 (64:ff9b::/96 and 64:ff9b:1::/48) is outside."""

_SPECIAL = tuple(
    map(
        ipaddress.ip_network,
        (
            "192.0.0.0/24",  # protocol assignments
            "192.88.99.0/24",  # relays of 6to4
            "2001::/23",  # protocol assignments, with Teredo (2001::/32)
            "2001:db8::/32",  # documentation
            "2002::/16",  # 6to4: contains any IPv4 address
            "3fff::/20",  # documentation
        ),
    )
)
"""Networks that are not public, although some versions of Python say that they are global."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a webhook is sent."""

    url: httpx2.URL
    addresses: tuple[str, ...]
    """Checked addresses of the host, the preferred one first."""


class WebhookAddresses:
    """Checks the URLs of webhooks and resolves their hosts."""

    def __init__(
        self,
        allowed: Sequence[str] = (),
        resolve: Resolve | None = None,
        resolve_seconds: float = RESOLVE_SECONDS,
    ) -> None:
        """
        Args:
            allowed: host names in lower case, addresses and networks that need not be public, and may use plain http.
            resolve: finds the addresses of a host. Default: the system's resolver.
            resolve_seconds: time limit of `resolve`.
        """
        self._hosts = frozenset(allowed)
        self._networks = tuple(network for network in map(_network, allowed) if network is not None)
        self._resolve_seconds = resolve_seconds
        self._resolve = resolve or SystemResolver()

    async def target(self, text: str) -> Target:
        """Check a URL, and resolve its host.

        Raises:
            WebhookRefused: the URL is not valid, or an address of its host is neither public nor allowed. The message
                does not tell whether the host exists, because it may be a name of the service's own network.
        """
        url = parse(text)
        host = _host(url)
        if url.scheme == "http" and not self._hosts:
            raise WebhookRefused("The URL of the webhook must begin with https://.")
        try:
            async with asyncio.timeout(self._resolve_seconds):
                found = await self._resolve(host, url.port or (443 if url.scheme == "https" else 80))
            addresses = [_unwrap(ipaddress.ip_address(address.partition("%")[0])) for address in found]
        except (OSError, UnicodeError, ValueError):
            addresses = []
        if not addresses or not all(self._is_allowed(host, url.scheme, address) for address in addresses):
            raise WebhookRefused(
                "The host of the webhook is unknown, or not all of its addresses are public and reached by https. The "
                "operator of this service can allow it by WEBHOOK_ALLOW_HOSTS."
            )
        return Target(url, tuple(dict.fromkeys(map(str, addresses))))

    def _is_allowed(self, host: str, scheme: str, address: IPv4Address | IPv6Address) -> bool:
        if host in self._hosts or any(address in network for network in self._networks):
            return True
        return scheme == "https" and is_public(address)


class SystemResolver:
    """Asks the system's resolver in threads of its own, so that slow names do not delay other work."""

    def __init__(self) -> None:
        self._limiter: anyio.CapacityLimiter | None = None

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(_RESOLVERS)
        found = await anyio.to_thread.run_sync(_addresses, host, port, limiter=self._limiter, abandon_on_cancel=True)
        return list(found)


def _addresses(host: str, port: int) -> list[str]:
    return [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def parse(text: str) -> httpx2.URL:
    """Return the URL of a webhook, without checking its addresses.

    Raises:
        WebhookRefused: it is not an http or https URL with a host, has a user name, or an unusual port.
    """
    if len(text) > MAX_URL_LENGTH:
        raise WebhookRefused(f"The URL of the webhook has more than {MAX_URL_LENGTH:,} characters.")
    if not text.isprintable() or any(character.isspace() or character == "\\" for character in text):
        raise WebhookRefused("The URL of the webhook has spaces, backslashes or control characters.")
    try:
        url = httpx2.URL(text)
    except httpx2.InvalidURL as error:
        raise WebhookRefused("The URL of the webhook is not valid.") from error
    if url.scheme not in ("https", "http"):
        raise WebhookRefused("The URL of the webhook must begin with https://.")
    if url.userinfo:
        raise WebhookRefused("The URL of the webhook must not contain a user name or a password.")
    if not _is_host(_host(url)):
        raise WebhookRefused("The URL of the webhook has no valid host.")
    if url.port is not None and url.port not in (80, 443) and not 1024 <= url.port <= 65_535:
        raise WebhookRefused("The port of the webhook must be 443, 80, or 1024 or higher.")
    return url


def _host(url: httpx2.URL) -> str:
    return url.raw_host.decode("ascii").lower().rstrip(".")


def _is_host(host: str) -> bool:
    if ":" in host:
        return "%" not in host and _network(host) is not None
    return re.fullmatch(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*", host) is not None and len(host) <= 253


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Return whether the address belongs to one host of the public internet."""
    address = _unwrap(address)
    if isinstance(address, IPv6Address) and address not in _UNICAST:
        return False
    if any(address in network for network in _SPECIAL):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def _unwrap(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """Return the IPv4 address in `::ffff:…`, and other addresses unchanged."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return address if mapped is None else mapped


def _network(text: str) -> IPv4Network | IPv6Network | None:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None
