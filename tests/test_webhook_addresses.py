"""Which addresses the service calls for a webhook. It must not reach hosts of its own network for a caller."""

import asyncio
import ipaddress
from collections.abc import Sequence

import pytest

from app.domain.errors import WebhookRefused
from app.service.webhooks.addresses import Resolve, WebhookAddresses, is_public


def resolver(*addresses: str) -> Resolve:
    """Return a resolver that finds the same addresses for each name."""

    async def resolve(host: str, port: int) -> Sequence[str]:
        return addresses

    return resolve


LOOPBACK = [
    "127.0.0.1",
    "127.1",
    "0x7f000001",
    "2130706433",
    "017700000001",
    "0",
    "localhost",
    "localhost.",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
]


@pytest.mark.parametrize("host", LOOPBACK)
async def test_loopback_is_refused_in_every_spelling(host: str) -> None:
    with pytest.raises(WebhookRefused, match="not all of its addresses are public"):
        await WebhookAddresses().target(f"https://{host}:8443/hook")


NOT_PUBLIC = [
    "0.0.0.0",
    "10.0.0.1",
    "100.64.0.1",
    "127.0.0.1",
    "169.254.169.254",
    "172.16.0.1",
    "192.0.0.8",
    "192.0.0.10",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.0.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",
    "::ffff:10.0.0.1",
    "::ffff:0:127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::808:808",
    "64:ff9b:1::7f00:1",
    "100::1",
    "2001::1",
    "2001:0:7f00:1::",
    "2001:10::1",
    "2001:20::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:808:808::1",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fec0::1",
    "ff02::1",
]


@pytest.mark.parametrize("address", NOT_PUBLIC)
async def test_an_address_that_is_not_public_is_refused(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))

    with pytest.raises(WebhookRefused) as refused:
        await WebhookAddresses(resolve=resolver(address)).target("https://hooks.example/")

    assert address not in str(refused.value)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "93.184.216.34", "2606:4700:4700::1111", "2a00:1450::1"])
async def test_public_addresses_are_accepted(address: str) -> None:
    target = await WebhookAddresses(resolve=resolver(address)).target("https://hooks.example/a?b=c")

    assert target.addresses == (address,)


@pytest.mark.parametrize("addresses", [("8.8.8.8", "10.0.0.1"), ("10.0.0.1", "8.8.8.8"), ("8.8.8.8", "::1"), ()])
async def test_all_addresses_of_a_host_must_be_public(addresses: tuple[str, ...]) -> None:
    with pytest.raises(WebhookRefused, match="unknown, or not all of its addresses are public"):
        await WebhookAddresses(resolve=resolver(*addresses)).target("https://hooks.example/")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://hooks.example/", "must begin with https"),
        ("ftp://hooks.example/", "must begin with https"),
        ("file:///etc/passwd", "must begin with https"),
        ("gopher://hooks.example/", "must begin with https"),
        ("//hooks.example/", "must begin with https"),
        ("hooks.example", "must begin with https"),
        ("", "must begin with https"),
        ("https://", "no valid host"),
        ("https:///hook", "no valid host"),
        ("https://anna@hooks.example/", "user name"),
        ("https://anna:secret@hooks.example/", "user name"),
        ("https://hooks.example\\@127.0.0.1/", "backslashes"),
        ("https://hooks.example/\r\nX: 1", "control characters"),
        ("https://hooks .example/", "spaces"),
        ("https://hooks%00.example/", "no valid host"),
        ("https://a..b/", "no valid host"),
        ("https://[::1%25lo]/", "no valid host"),
        ("https://[::1/", "not valid"),
        ("https://１２７.0.0.1/", "not valid"),
        ("https://hooks.example:22/", "port"),
        ("https://hooks.example:0/", "port"),
        ("https://hooks.example:99999/", "port"),
        (f"https://hooks.example/{'a' * 2000}", "2,000 characters"),
    ],
)
async def test_a_url_that_is_not_an_ordinary_https_url_is_refused(url: str, reason: str) -> None:
    with pytest.raises(WebhookRefused, match=reason):
        await WebhookAddresses(resolve=resolver("8.8.8.8")).target(url)


@pytest.mark.parametrize(
    "url", ["https://hooks.example", "https://HOOKS.example.:443/a", "https://hüter.example:8443/"]
)
async def test_an_ordinary_https_url_is_accepted(url: str) -> None:
    assert await WebhookAddresses(resolve=resolver("8.8.8.8")).target(url)


@pytest.mark.parametrize(
    ("allowed", "url", "address"),
    [
        ("hooks.internal", "http://hooks.internal:8080/", "10.1.2.3"),
        ("hooks.internal", "https://HOOKS.internal./", "10.1.2.3"),
        ("10.1.0.0/16", "http://hooks.internal/", "10.1.2.3"),
        ("127.0.0.1", "http://127.0.0.1:9000/", "127.0.0.1"),
        ("::1", "http://[::1]:9000/", "::1"),
        ("10.1.0.0/16", "https://hooks.internal/", "::ffff:10.1.2.3"),
    ],
)
async def test_the_operator_can_allow_hosts_and_networks(allowed: str, url: str, address: str) -> None:
    assert await WebhookAddresses([allowed], resolver(address)).target(url)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://other.internal/", "10.2.0.1"),
        ("https://other.internal/", "10.2.0.1"),
        ("http://hooks.example/", "8.8.8.8"),
        ("http://sub.hooks.internal/", "10.2.0.1"),
        ("http://evil-hooks.internal/", "10.2.0.1"),
    ],
)
async def test_what_the_operator_has_not_allowed_is_still_refused(url: str, address: str) -> None:
    allowed = ["hooks.internal", "10.1.0.0/16"]
    with pytest.raises(WebhookRefused):
        await WebhookAddresses(allowed, resolver(address)).target(url)


async def test_the_message_does_not_tell_whether_an_internal_name_exists() -> None:
    async def unknown(host: str, port: int) -> Sequence[str]:
        raise OSError("Name or service not known")

    messages = set()
    for resolve in (unknown, resolver("10.0.0.1"), resolver("8.8.8.8", "10.0.0.1")):
        with pytest.raises(WebhookRefused) as refused:
            await WebhookAddresses(resolve=resolve).target("https://db.internal/")
        messages.add(str(refused.value))

    assert len(messages) == 1


async def test_a_name_that_is_not_resolved_in_time_is_refused() -> None:
    async def hang(host: str, port: int) -> Sequence[str]:
        await asyncio.sleep(60)
        return ["8.8.8.8"]

    with pytest.raises(WebhookRefused):
        await WebhookAddresses(resolve=hang, resolve_seconds=0.05).target("https://slow.example/")
