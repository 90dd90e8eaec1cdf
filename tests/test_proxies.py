"""Calls to Gemini through a real HTTP proxy: forwarded, and through a tunnel with TLS inside."""

import asyncio
import base64
import random
import ssl
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpcore2
import httpx2
import pytest

from app.emulator import Emulator
from app.emulator.faults import Fault
from app.gemini.transport.http import ConnectionPool
from app.lib.event_loop_scheduler import FairScheduler
from tests.conftest import Serve, image_file, image_of, wait_for_calls
from tests.raw_servers import OK, Talk, ask, listening, with_late_surplus_response
from tests.tls import served_with_tls, server_context, write_certificate

ASK = {"prompt": "A lighthouse"}
JPEG = image_file("JPEG", (1024, 768))
NOISE = random.Random(3).randbytes(3_000_000)


@dataclass
class HttpProxy:
    """A proxy that forwards plain HTTP and opens tunnels."""

    refusal: bytes | None = None
    """What it responds instead, before it closes the connection."""
    heads: list[bytes] = field(default_factory=list)
    """The head of each first request of a connection."""
    client_left: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head)
        if self.refusal is not None:
            writer.write(self.refusal)
            await writer.drain()
            return
        method, target, _ = head.split(b" ", 2)
        url = httpx2.URL(target.decode() if b"://" in target else f"http://{target.decode()}")
        from_server, to_server = await asyncio.open_connection("127.0.0.1", url.port)
        if method == b"CONNECT":
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            to_server.write(head)
        backwards = asyncio.create_task(_copy(from_server, writer))
        try:
            await _copy(reader, to_server)
        finally:
            self.client_left.set()
            to_server.close()
            backwards.cancel()
            await asyncio.gather(backwards, return_exceptions=True)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()


def set_proxy(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, url)


# The HTTP client alone.


@dataclass(frozen=True)
class Way:
    """How requests reach the server."""

    server_tls: bool
    proxy_tls: bool


WAYS = {
    "forwarded": Way(server_tls=False, proxy_tls=False),
    "tunnelled": Way(server_tls=True, proxy_tls=False),
    "forwarded by a proxy with TLS": Way(server_tls=False, proxy_tls=True),
    "tunnelled by a proxy with TLS": Way(server_tls=True, proxy_tls=True),
}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Way:
    return WAYS[request.param]


@pytest.fixture
def trusted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let clients trust the certificates of the tests' servers."""
    monkeypatch.setenv("SSL_CERT_FILE", write_certificate(tmp_path))


@asynccontextmanager
async def behind(
    proxy: HttpProxy, talk: Talk, way: Way, monkeypatch: pytest.MonkeyPatch, credentials: str = ""
) -> AsyncGenerator[tuple[ConnectionPool, str]]:
    """Run a server behind `proxy`; yield a pool that uses the proxy, and the server's URL."""
    async with (
        listening(talk, server_context() if way.server_tls else None) as port,
        listening(proxy, server_context() if way.proxy_tls else None) as proxy_port,
    ):
        set_proxy(monkeypatch, f"http{'s' * way.proxy_tls}://{credentials}localhost:{proxy_port}")
        async with aclosing(ConnectionPool(FairScheduler(), trust_env=True)) as pool:
            yield pool, f"http{'s' * way.server_tls}://localhost:{port}/v1beta/x"


@dataclass
class Server:
    """A server that gives the same response to each request."""

    response: bytes = OK
    heads: list[bytes] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    connections: int = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            self.heads.append(head)
            length = int(head.lower().partition(b"content-length:")[2].split()[0])
            self.bodies.append(await reader.readexactly(length))
            writer.write(self.response)
            await writer.drain()


async def test_large_bodies_pass_a_proxy_unchanged(way: Way, trusted: None, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(NOISE), NOISE))
    proxy = HttpProxy()
    async with behind(proxy, server, way, monkeypatch) as (pool, url):
        responses = [await ask(pool, url, NOISE[::-1]) for _ in range(3)]

    assert responses == [(200, NOISE)] * 3
    assert server.bodies == [NOISE[::-1]] * 3
    assert len(proxy.heads) == server.connections == 1, "the connection is used again"


async def test_a_proxy_learns_the_server_s_address(way: Way, trusted: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A forwarded request names the whole URL; a tunnel is opened to host and port, and the server sees the path alone.
    """
    proxy, server = HttpProxy(), Server()
    async with behind(proxy, server, way, monkeypatch) as (pool, url):
        await ask(pool, url)

    authority = httpx2.URL(url).netloc
    line = b"CONNECT %b HTTP/1.1\r\n" if way.server_tls else b"POST http://%b/v1beta/x HTTP/1.1\r\n"
    assert proxy.heads[0].startswith(line % authority)
    assert b"\r\nHost: %b\r\n" % authority in proxy.heads[0]
    if way.server_tls:
        assert server.heads[0].startswith(b"POST /v1beta/x HTTP/1.1\r\n")


async def test_credentials_go_to_the_proxy_alone(way: Way, trusted: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    They stand percent-encoded in the proxy's URL. A forwarding proxy has to remove them before it forwards.
    """
    proxy, server = HttpProxy(), Server()
    async with behind(proxy, server, way, monkeypatch, credentials="us%40er:p%3Ass@") as (pool, url):
        await ask(pool, url)

    written = base64.b64encode(b"us@er:p:ss")
    assert b"\r\nProxy-Authorization: Basic %b\r\n" % written in proxy.heads[0]
    if way.server_tls:
        assert b"authorization" not in server.heads[0].lower()


@pytest.mark.parametrize("credentials", ["@", ":@"])
@pytest.mark.parametrize("way", ["tunnelled"], indirect=True)
async def test_empty_credentials_are_not_sent(
    way: Way, trusted: None, monkeypatch: pytest.MonkeyPatch, credentials: str
) -> None:
    proxy, server = HttpProxy(), Server()
    async with behind(proxy, server, way, monkeypatch, credentials=credentials) as (pool, url):
        await ask(pool, url)

    assert b"authorization" not in proxy.heads[0].lower()


@pytest.mark.parametrize(
    "refusal",
    [
        b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 2\r\n\r\nno",
        b"HTTP/1.0 403 Forbidden\r\n\r\nno",
        b"HTTP/1.1 200 OK\r\n\r\nno TLS",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"",
    ],
)
@pytest.mark.parametrize("way", ["tunnelled", "tunnelled by a proxy with TLS"], indirect=True)
async def test_without_a_tunnel_nothing_is_sent(
    way: Way, trusted: None, monkeypatch: pytest.MonkeyPatch, refusal: bytes
) -> None:
    """
    These errors are the ones after which a call can be made again without a risk.
    """
    proxy, server = HttpProxy(refusal), Server()
    async with behind(proxy, server, way, monkeypatch) as (pool, url):
        with pytest.raises((httpcore2.ProxyError, httpcore2.ConnectError)):
            await ask(pool, url)

    assert len(proxy.heads) == 1
    assert server.connections == 0


@pytest.mark.parametrize("way", ["tunnelled"], indirect=True)
async def test_a_certificate_is_checked_inside_a_tunnel(
    way: Way, trusted: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, server = HttpProxy(), Server()
    async with behind(proxy, server, way, monkeypatch) as (pool, url):
        with pytest.raises(httpcore2.ConnectError) as raised:
            await ask(pool, url.replace("localhost", "127.0.0.1"))  # the certificate is for localhost

    assert isinstance(raised.value.__cause__, ssl.SSLCertVerificationError)
    assert server.heads == []


async def test_a_surplus_response_reaches_no_other_call(
    way: Way, trusted: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A server may send a second response that no request has asked for. The connection is closed then.
    """
    server = Server(OK + b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nnot ours")
    async with behind(HttpProxy(), server, way, monkeypatch) as (pool, url):
        responses = [await ask(pool, url) for _ in range(2)]

    assert responses == [(200, b"ok")] * 2
    assert server.connections == 2


async def test_a_late_surplus_response_reaches_no_other_call(
    way: Way, trusted: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk, connections = with_late_surplus_response()
    async with behind(HttpProxy(), talk, way, monkeypatch) as (pool, url):
        first = await ask(pool, url)
        await asyncio.sleep(0.3)
        second = await ask(pool, url)

    assert [first, second] == [(200, b"ok")] * 2
    assert len(connections) == 2


async def test_a_server_s_silence_has_a_limit(way: Way, trusted: None, monkeypatch: pytest.MonkeyPatch) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)

    proxy = HttpProxy()
    async with behind(proxy, talk, way, monkeypatch) as (pool, url):
        with pytest.raises(httpcore2.ReadTimeout):
            await asyncio.wait_for(ask(pool, url, read=0.2), 4)
        await asyncio.wait_for(proxy.client_left.wait(), 4)


async def test_a_broken_tunnel_is_an_error(way: Way, trusted: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The request was sent by then, so that it is not one of the errors before that.
    """

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        writer.write(OK[:-1])
        await writer.drain()

    async with behind(HttpProxy(), talk, way, monkeypatch) as (pool, url):
        with pytest.raises((httpcore2.RemoteProtocolError, httpcore2.ReadError)):
            await ask(pool, url)


# The service.


@pytest.fixture
async def proxy(monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[HttpProxy]:
    """A proxy that the environment names."""
    proxy = HttpProxy()
    async with listening(proxy) as port:
        set_proxy(monkeypatch, f"http://127.0.0.1:{port}")
        yield proxy


@pytest.fixture(params=["forwarded", "tunnelled"])
async def url(
    request: pytest.FixtureRequest, gemini: Emulator, gemini_url: str, proxy: HttpProxy, trusted: None
) -> AsyncGenerator[str]:
    """Gemini's URL behind the proxy: with http:// it is forwarded, with https:// tunnelled."""
    if request.param == "forwarded":
        yield gemini_url
        return
    async with served_with_tls(gemini) as url:
        yield url


async def test_the_environment_s_proxies_are_used(
    serve: Serve, gemini: Emulator, gemini_url: str, proxy: HttpProxy, trusted: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    `HTTP_PROXY` and `HTTPS_PROXY` for Gemini, but not for hosts in `NO_PROXY`, and never for a demo's emulator.
    """
    monkeypatch.setenv("NO_PROXY", "elsewhere.example")
    monkeypatch.setenv("no_proxy", "elsewhere.example")
    async with served_with_tls(gemini) as tls_url, serve(google_gemini_base_url=tls_url) as client:
        tunnelled = await client.post("/generate-image", json=ASK)
    async with serve() as client:
        forwarded = await client.post("/generate-image", json=ASK)
    seen = list(proxy.heads)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    async with serve() as client:
        direct = await client.post("/generate-image", json=ASK)
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.delenv("no_proxy")
    async with serve(demo=True, demo_delay_seconds=0) as client:
        demo = await client.post("/generate-image", json=ASK)

    assert [one.status_code for one in (tunnelled, forwarded, direct, demo)] == [200] * 4
    assert seen[0].startswith(b"CONNECT localhost:")
    assert seen[1].startswith(b"POST http://127.0.0.1:")
    assert proxy.heads == seen


@pytest.mark.parametrize("accept", ["application/json", "image/*"])
async def test_an_image_passes_a_proxy_unchanged(
    serve: Serve, url: str, proxy: HttpProxy, gemini: Emulator, accept: str
) -> None:
    content = JPEG[:-2] + NOISE + JPEG[-2:]
    gemini.faults.append(Fault(image_base64=base64.b64encode(content).decode()))

    async with serve(google_gemini_base_url=url) as client:
        response = await client.post("/generate-image", json=ASK, headers={"Accept": accept})

    assert (response.content if accept == "image/*" else image_of(response)) == content
    assert len(proxy.heads) == 1


@pytest.mark.parametrize(
    ("setting", "fault", "waited_for"),
    [
        ("upstream_first_byte_seconds", Fault(delay_seconds=20), "first_byte"),
        ("upstream_stall_seconds", Fault(stall_seconds=20), "transfer"),
    ],
)
async def test_silence_has_limits_behind_a_proxy_too(
    serve: Serve, url: str, proxy: HttpProxy, gemini: Emulator, setting: str, fault: Fault, waited_for: str
) -> None:
    gemini.faults.append(fault)

    async with serve(google_gemini_base_url=url, **{setting: 0.5}) as client:
        response = await asyncio.wait_for(client.post("/generate-image", json=ASK), 10)

    assert (response.status_code, response.json().get("waitedFor")) == (504, waited_for)
    assert len(proxy.heads) == 1


async def test_short_pauses_are_allowed(serve: Serve, url: str, gemini: Emulator) -> None:
    """
    The limit is for each pause, not for the sum of them.
    """
    gemini.faults.append(Fault(stall_seconds=0.6, delay_seconds=0.6, image_base64=base64.b64encode(JPEG).decode()))

    async with serve(google_gemini_base_url=url, upstream_stall_seconds=2, upstream_connect_seconds=0.5) as client:
        response = await client.post("/generate-image", json=ASK)

    assert image_of(response) == JPEG


@pytest.mark.parametrize(
    "says", [b"", pytest.param(b"HTTP/1.1 200 Connection established\r\n\r\n", marks=pytest.mark.slow)]
)
async def test_a_proxy_that_opens_no_tunnel_in_time_is_tried_again(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, says: bytes
) -> None:
    """
    It reads CONNECT and is silent, or it agrees and no server speaks TLS behind it. Nothing was sent to Gemini.
    """
    connections = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        writer.write(says)
        await reader.read()

    async with listening(talk) as port:
        set_proxy(monkeypatch, f"http://127.0.0.1:{port}")
        overrides: dict[str, Any] = {
            "google_gemini_base_url": "https://gemini.invalid",
            "upstream_connect_seconds": 1.0,
        }
        async with serve(**overrides, upstream_attempts=2) as client:
            response = await asyncio.wait_for(client.post("/generate-image", json=ASK), 10)

    assert (response.status_code, response.json()["waitedFor"]) == (504, "connection")
    assert "x-should-retry" not in response.headers
    assert connections == 2


@pytest.mark.parametrize("status", [407, 502])
async def test_a_refused_tunnel_is_tried_again(serve: Serve, proxy: HttpProxy, trusted: None, status: int) -> None:
    proxy.refusal = b"HTTP/1.1 %d No\r\nContent-Length: 0\r\n\r\n" % status

    async with serve(google_gemini_base_url="https://gemini.invalid", upstream_attempts=2) as client:
        response = await client.post("/generate-image", json=ASK)

    assert (response.status_code, response.json()["code"]) == (502, "upstream_error")
    assert "x-should-retry" not in response.headers
    assert len(proxy.heads) == 2


async def test_a_caller_who_disconnects_leaves_no_connection_open(
    serve: Serve, url: str, proxy: HttpProxy, gemini: Emulator
) -> None:
    gemini.faults.append(Fault(delay_seconds=20))

    async with serve(google_gemini_base_url=url) as client:
        asking = asyncio.create_task(client.post("/generate-image", json=ASK))
        await wait_for_calls(gemini)
        asking.cancel()
        await asyncio.wait_for(proxy.client_left.wait(), 5)
        metrics = (await client.get("/metrics")).text

    assert 'gemini_images_buffered_bytes{kind="responses"} 0.0' in metrics
