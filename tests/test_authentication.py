"""Which requests are allowed: keys, loopback addresses, and web pages of other sites."""

import asyncio
import re
import socket
from collections.abc import AsyncGenerator

import anyio.to_thread
import httpx2
import pytest

from app.emulator import Emulator
from app.lib.loopback import is_loopback
from app.server.start_checks import require_startable
from app.settings import Settings, UnsafeConfiguration
from tests.conftest import Serve, image_file

KEYS = "web:first-secret,web:second-secret,batch:third:with:colons"
BODY = {"prompt": "x"}

STRONG = "4f9c0e7b6d1a8253"
WEAK = (
    "4f9c0e7b6d1a825",
    "abcabcabcabcabcabc1234",
    "CHANGEME-4f9c0e7b6d1a82",
    "my-Password-4f9c0e7b6d1a",
    "4f9c0e7bsecret6d1a8253",
)
"""Secrets that can be guessed: a short one, one of seven different characters, and three of examples."""


@pytest.fixture(scope="session")
async def client_of_service_with_keys(serve: Serve) -> AsyncGenerator[httpx2.AsyncClient]:
    async with serve(service_api_keys=KEYS) as client:
        yield client


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer first-secret"},
        {"Authorization": "bearer second-secret"},
        {"X-API-Key": "third:with:colons"},
        {"X-API-Key": "first-secret", "Authorization": "Basic whatever"},
        {"X-API-Key": "first-secret", "Authorization": "Bearer a-token-of-a-gateway"},
    ],
)
async def test_a_request_with_a_valid_key_is_accepted(
    client_of_service_with_keys: httpx2.AsyncClient, gemini: Emulator, headers: dict[str, str]
) -> None:
    """
    The key may be in either header. A caller may have two keys while one replaces the other.
    """
    response = await client_of_service_with_keys.post("/generate-image", json=BODY, headers=headers)

    assert response.status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "first-secret"},
        {"X-API-Key": "web:first-secret"},
        {"X-API-Key": "first-secre"},
        {"X-API-Key": "é".encode("latin-1")},
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/generate-image"),
        ("POST", "/generate-image/with-references"),
        ("POST", "/generate-image/with-search"),
        ("GET", "/models"),
        ("GET", "/nowhere"),
    ],
)
async def test_a_request_without_a_valid_key_is_rejected(
    client_of_service_with_keys: httpx2.AsyncClient,
    gemini: Emulator,
    headers: dict[str, str],
    method: str,
    path: str,
) -> None:
    response = await client_of_service_with_keys.request(method, path, headers=headers)

    assert response.status_code == 401
    assert response.json()["code"] == "unauthorized"
    assert response.headers["www-authenticate"] == "Bearer"
    assert not gemini.calls


async def test_health_checks_need_no_key_and_a_setting_decides_about_the_docs(serve: Serve) -> None:
    async with serve(service_api_keys=KEYS, docs_access="key") as client:
        health = [(await client.get(path)).status_code for path in ("/healthz", "/readyz")]
        shut = [
            (await client.get(path)).status_code for path in ("/docs", "/openapi.json", "/docs/assets/swagger-ui.css")
        ]
        opened = await client.get("/openapi.json", headers={"X-API-Key": "first-secret"})
    async with serve(docs_access="off") as client:
        off = [(await client.get(path)).status_code for path in ("/docs", "/openapi.json")]

    assert health == [200, 200]
    assert shut == [401, 401, 401]
    assert opened.status_code == 200
    assert off == [404, 404]


async def test_an_unauthorized_upload_is_rejected_before_it_is_read(serve: Serve) -> None:
    """
    The response comes while the caller still has most of the body to send.
    """
    async with serve(service_api_keys=KEYS) as client:
        assert client.base_url.host
        with socket.create_connection((client.base_url.host, client.base_url.port or 0), timeout=5) as sock:
            sock.sendall(
                b"POST /generate-image/with-references HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000000\r\n"
                b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
            )
            answer = await anyio.to_thread.run_sync(sock.recv, 4096)

    assert b" 401 " in answer


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (None, 200),
        ("http://localhost:5173", 200),
        ("http://127.0.0.1:8000", 200),
        ("https://app.example", 200),
        ("https://evil.example", 403),
        ("null", 403),
    ],
)
async def test_without_keys_a_page_of_another_site_cannot_generate(
    serve: Serve, gemini: Emulator, origin: str | None, status: int
) -> None:
    """
    Any site can make a browser post a form to a loopback address.
    """
    headers = {"Origin": origin} if origin else {}
    async with serve(cors_allow_origins=("https://app.example",)) as client:
        response = await client.post("/generate-image", json=BODY, headers=headers)

    assert response.status_code == status
    assert len(gemini.calls) == (status == 200)


# Requests of others that arrive at a loopback address.

PORT = ":8000"


@pytest.mark.parametrize(
    ("host", "served"),
    [
        *((own, True) for own in ("localhost", "localhost.", "LOCALHOST", "app.localhost", "127.0.0.1", "127.8.9.10")),
        ("[::1]", True),
        *((other, False) for other in ("evil.example", "localhost.evil.example", "evil-localhost", "notlocalhost")),
        *((other, False) for other in ("127.0.0.1.evil.example", "0.0.0.0", "192.168.0.7", "[2001:db8::1]", "")),
        *((other, False) for other in ("a@localhost", "localhost/", "localhost localhost", "127.0.0.1:80:80", "127")),
    ],
)
@pytest.mark.parametrize("port", ["", PORT])
async def test_without_keys_a_host_header_with_another_name_is_rejected(
    client: httpx2.AsyncClient, host: str, port: str, served: bool
) -> None:
    """
    DNS rebinding: a page can let its own domain resolve to this machine. Then `Host` has that name, and the request is
    same-origin.
    """
    answers = [
        await client.get("/chats", headers={"Host": host + port}),
        await client.post("/generate-image", json=BODY, headers={"Host": host + port, "Sec-Fetch-Site": "same-origin"}),
    ]

    assert [one.status_code for one in answers] == [200 if served else 403] * 2
    if not served:
        assert {one.json()["code"] for one in answers} == {"forbidden_host"}
        assert "SERVICE_API_KEYS" in answers[0].json()["detail"]


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /chats HTTP/1.0\r\n", 200),
        (b"GET /chats HTTP/1.1\r\n", 403),
        (b"GET /chats HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n", 403),
        (b"GET /chats HTTP/1.1\r\nHost:   localhost \t\r\n", 200),
        (
            b"GET /chats HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\nOrigin: https://evil.example\r\n",
            403,
        ),
        (b"GET /healthz HTTP/1.1\r\nHost: evil.example\r\nX-Forwarded-For: 192.0.2.1\r\n", 200),
    ],
)
async def test_malformed_host_and_origin_headers_are_rejected(
    client: httpx2.AsyncClient, head: bytes, status: int
) -> None:
    reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
    writer.write(head + b"Connection: close\r\n\r\n")
    answer = await asyncio.wait_for(reader.readline(), 10)
    writer.close()

    assert answer.split()[1] == str(status).encode()


FROM_PROXY = (
    "Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "x-forwarded-anything", "X-Real-IP", "Via",
)  # fmt: skip


async def test_without_keys_a_forwarded_request_is_rejected(
    client: httpx2.AsyncClient, serve: Serve, gemini: Emulator
) -> None:
    """
    A proxy on this machine would make every client look local. The problem says which setting to use instead.
    """
    refused = [await client.post("/generate-image", json=BODY, headers={name: "127.0.0.1"}) for name in FROM_PROXY]
    through = {"Host": "images.example", **dict.fromkeys(FROM_PROXY, "192.0.2.1")}
    async with serve(allow_anonymous=True) as anonymous, serve(service_api_keys=KEYS) as keyed:
        served = [
            await anonymous.post("/generate-image", json=BODY, headers=through),
            await keyed.post("/generate-image", json=BODY, headers=through | {"X-API-Key": "first-secret"}),
        ]

    assert {(one.status_code, one.json()["code"]) for one in refused} == {(403, "forbidden_host")}
    for name, one in zip(FROM_PROXY, refused, strict=True):
        assert name.lower() in one.json()["detail"]
        assert {"SERVICE_API_KEYS", "ALLOW_ANONYMOUS=true"} <= set(re.findall(r"[A-Z_=true]{9,}", one.json()["detail"]))
    assert [one.status_code for one in served] == [200, 200]
    assert len(gemini.calls) == 2


# Web pages, if no key is required.

FOREIGN = "https://evil.example"
OWN = "https://images.example"
CROSS, SAME = {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-origin"}
SERVED, REFUSED = [200, 200, 404], [403, 403, 403]
PAGES = {
    "a client that is no browser": ({}, SERVED),
    "the address bar": ({"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"}, SERVED),
    "a page of the service's own": (SAME | {"Origin": OWN}, SERVED),
    "the same behind a proxy that changes Host": (SAME | {"Origin": "https://public.example"}, SERVED),
    "the same in a browser that says less": ({"Origin": OWN}, SERVED),
    "a listed page": (CROSS | {"Origin": "https://app.example"}, SERVED),
    "an image in a listed page": ({"Sec-Fetch-Site": "same-site", "Referer": "https://app.example/"}, SERVED),
    "a foreign page": (CROSS | {"Origin": FOREIGN}, REFUSED),
    "a foreign page in a browser that says less": ({"Origin": FOREIGN}, REFUSED),
    "a page of a sibling": ({"Sec-Fetch-Site": "same-site", "Origin": "https://other.example"}, REFUSED),
    "a page of the same name without TLS": (CROSS | {"Origin": "http://images.example"}, REFUSED),
    "a page whose origin begins with the name": ({"Origin": OWN + ".evil.example"}, REFUSED),
    "a page of this machine": ({"Origin": "http://localhost:5173"}, REFUSED),
    "a page that has two origins": ({"Origin": f"{OWN}, {FOREIGN}"}, REFUSED),
    "an extension of the same name": ({"Origin": "chrome-extension://images.example"}, REFUSED),
    "an image in a page with an odd address": (CROSS | {"Referer": "http://[::1"}, REFUSED),
    "a file, or a frame in a sandbox": (CROSS | {"Origin": "null"}, REFUSED),
    "a form that keeps quiet about its page": (CROSS | {"Sec-Fetch-Mode": "navigate"}, REFUSED),
    "an image in a foreign page": (CROSS | {"Referer": FOREIGN + "/", "Sec-Fetch-Dest": "image"}, REFUSED),
}


async def test_pages_of_other_sites_are_rejected_if_anonymous_callers_are_allowed(
    serve: Serve, gemini: Emulator
) -> None:
    """
    The proxy in front accepts the browser's cookies, whichever page sends the request. Submitting a form, reading chats
    and deleting a chat are all rejected.
    """
    files = {"images": ("a.png", image_file(), "image/png")}
    found: dict[str, list[int]] = {}
    async with serve(allow_anonymous=True, cors_allow_origins=("https://app.example",)) as client:
        for page, (headers, _) in PAGES.items():
            sent = headers | {"Host": "images.example"}
            answers = [
                await client.post("/generate-image/with-references", data=BODY, files=files, headers=sent),
                await client.get("/chats", headers=sent),
                await client.request("DELETE", "/chats/chat_" + "0" * 32, headers=sent),
            ]
            found[page] = [one.status_code for one in answers]
            if found[page] == REFUSED:
                assert {one.json()["code"] for one in answers} == {"forbidden_origin"}
                assert "CORS_ALLOW_ORIGINS" in answers[0].json()["detail"]

    assert found == {page: expected for page, (_, expected) in PAGES.items()}
    assert len(gemini.calls) == list(found.values()).count(SERVED)


async def test_a_link_on_another_site_may_lead_to_the_service(serve: Serve) -> None:
    """
    The page with the link cannot read the response.
    """
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    async with serve(allow_anonymous=True) as client:
        followed = await client.get("/models", headers=link)
        framed = await client.get("/models", headers=link | {"Sec-Fetch-Dest": "iframe"})
        sent = await client.post("/generate-image", json=BODY, headers=link)

    assert [followed.status_code, framed.status_code, sent.status_code] == [200, 403, 403]


async def test_without_keys_a_page_of_another_site_cannot_embed_a_chat_s_image(client: httpx2.AsyncClient) -> None:
    shown = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}
    strange = await client.get("/chats", headers=shown | {"Referer": "https://evil.example/"})
    local = await client.get("/chats", headers=shown | {"Referer": "http://localhost:5173/"})

    assert [strange.status_code, local.status_code] == [403, 200]


async def test_with_keys_the_page_s_origin_does_not_matter(serve: Serve, gemini: Emulator) -> None:
    async with serve(service_api_keys=KEYS) as client:
        response = await client.post(
            "/generate-image", json=BODY, headers={"Origin": "https://app.example", "X-API-Key": "first-secret"}
        )

    assert response.status_code == 200


async def test_without_keys_only_loopback_connections_are_accepted(serve: Serve, gemini: Emulator) -> None:
    """
    This also holds if another server than ours runs the application and listens on every address.
    """
    address = _own_address()
    if address is None:
        pytest.skip("this machine has no address but loopback")
    async with serve(served_on="0.0.0.0") as client:
        url = f"http://{address}:{client.base_url.port}/generate-image"
        refused = await client.post(url, json=BODY)
        allowed = await client.post("/generate-image", json=BODY)
    async with serve(served_on="0.0.0.0", allow_anonymous=True) as client:
        anonymous = await client.post(f"http://{address}:{client.base_url.port}/generate-image", json=BODY)

    assert refused.status_code == 401
    assert allowed.status_code == anonymous.status_code == 200


def _own_address() -> str | None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("192.0.2.1", 9))  # sends nothing: a datagram socket only looks up the way
        except OSError:
            return None
        address = str(sock.getsockname()[0])
    return None if is_loopback(address) else address


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        ({"gemini_api_key": None}, ["GEMINI_API_KEY", "DEMO"]),
        ({"gemini_api_key": None, "google_genai_use_vertexai": True}, ["GOOGLE_CLOUD_PROJECT", "DEMO"]),
        ({"host": "0.0.0.0"}, ["SERVICE_API_KEYS", "ALLOW_ANONYMOUS"]),
        ({"host": "::"}, ["SERVICE_API_KEYS", "ALLOW_ANONYMOUS"]),
        ({"host": "example.com", "demo": True}, ["SERVICE_API_KEYS", "REQUIRE_KEYS"]),
        *(
            ({"host": "0.0.0.0", "service_api_keys": f"web:{STRONG},batch:{weak}"}, ["SERVICE_API_KEYS", "batch"])
            for weak in WEAK
        ),
        *(({"host": "::1.2.3.4", "allow_anonymous": True, "admin_api_key": weak}, ["ADMIN_API_KEY"]) for weak in WEAK),
    ],
)
def test_an_unsafe_configuration_does_not_start(
    settings: Settings, overrides: dict[str, object], names: list[str]
) -> None:
    changed = Settings.model_validate({**dict(settings), **overrides})

    with pytest.raises(UnsafeConfiguration) as refused:
        require_startable(changed, changed.host)

    for name in names:
        assert name in str(refused.value)
    for secret in (STRONG, *WEAK):
        assert secret not in str(refused.value)


@pytest.mark.parametrize(
    "overrides",
    [
        {"host": "::1"},
        {"host": "localhost"},
        {"host": "0.0.0.0", "allow_anonymous": True},
        {"host": "0.0.0.0", "require_keys": True, "admin_api_key": STRONG},
        {"host": "0.0.0.0", "service_api_keys": f"web:{STRONG}"},
        {"host": "127.0.0.1", "service_api_keys": "web:a", "admin_api_key": "b"},
        {"gemini_api_key": None, "demo": True},
    ],
)
def test_a_safe_configuration_starts(settings: Settings, overrides: dict[str, object]) -> None:
    changed = Settings.model_validate({**dict(settings), **overrides})

    require_startable(changed, changed.host)
