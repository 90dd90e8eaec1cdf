"""Who may call: keys, loopback, and pages on other sites."""

import socket

import anyio.to_thread
import pytest

from app.emulator import Emulator
from app.settings import Settings, UnsafeSettings, is_loopback
from tests.conftest import Serve

KEYS = "web:first-secret,web:second-secret,batch:third:with:colons"
BODY = {"prompt": "x"}


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
async def test_a_key_opens_the_door(serve: Serve, gemini: Emulator, headers: dict[str, str]) -> None:
    """
    In either header; a caller may have two secrets while one replaces the other.
    """
    async with serve(service_api_keys=KEYS) as client:
        response = await client.post("/generate-image", json=BODY, headers=headers)

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
async def test_without_one_it_stays_shut(
    serve: Serve, gemini: Emulator, headers: dict[str, str], method: str, path: str
) -> None:
    async with serve(service_api_keys=KEYS) as client:
        response = await client.request(method, path, headers=headers)

    assert response.status_code == 401
    assert response.json()["code"] == "unauthorized"
    assert response.headers["www-authenticate"] == "Bearer"
    assert not gemini.calls


async def test_health_stays_open_and_docs_follow_a_setting(serve: Serve) -> None:
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


async def test_a_refused_upload_is_not_read(serve: Serve) -> None:
    """
    The answer comes while the caller still has nearly everything to send.
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
async def test_without_keys_a_strange_page_may_not_spend_money(
    serve: Serve, gemini: Emulator, origin: str | None, status: int
) -> None:
    """
    Any site can make a browser post a form to loopback.
    """
    headers = {"Origin": origin} if origin else {}
    async with serve(cors_allow_origins=("https://app.example",)) as client:
        response = await client.post("/generate-image", json=BODY, headers=headers)

    assert response.status_code == status
    assert len(gemini.calls) == (status == 200)


async def test_with_keys_the_key_decides_not_the_page(serve: Serve, gemini: Emulator) -> None:
    async with serve(service_api_keys=KEYS) as client:
        response = await client.post(
            "/generate-image", json=BODY, headers={"Origin": "https://app.example", "X-API-Key": "first-secret"}
        )

    assert response.status_code == 200


async def test_without_keys_only_loopback_is_served(serve: Serve, gemini: Emulator) -> None:
    """
    Whoever starts the service with a server of their own on every address does not open it to every caller.
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
    ("knobs", "names"),
    [
        ({"gemini_api_key": None}, ["GEMINI_API_KEY", "DEMO"]),
        ({"gemini_api_key": None, "google_genai_use_vertexai": True}, ["GOOGLE_CLOUD_PROJECT", "DEMO"]),
        ({"host": "0.0.0.0"}, ["SERVICE_API_KEYS", "ALLOW_ANONYMOUS"]),
        ({"host": "::"}, ["SERVICE_API_KEYS", "ALLOW_ANONYMOUS"]),
        ({"host": "example.com", "demo": True}, ["SERVICE_API_KEYS"]),
    ],
)
def test_it_refuses_to_start_by_accident(settings: Settings, knobs: dict[str, object], names: list[str]) -> None:
    changed = settings.model_copy(update=knobs)

    with pytest.raises(UnsafeSettings) as refused:
        changed.require_startable(changed.host)

    for name in names:
        assert name in str(refused.value)


@pytest.mark.parametrize(
    "knobs",
    [
        {"host": "::1"},
        {"host": "localhost"},
        {"host": "0.0.0.0", "allow_anonymous": True},
        {"gemini_api_key": None, "demo": True},
    ],
)
def test_what_is_safe_starts(settings: Settings, knobs: dict[str, object]) -> None:
    changed = settings.model_copy(update=knobs)

    changed.require_startable(changed.host)
