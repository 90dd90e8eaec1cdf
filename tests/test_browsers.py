"""What a page on another origin needs: CORS headers (also on errors), readable headers, docs that load nothing else."""

import re
from typing import Any

import httpx2
import pytest

from app.emulator import Emulator, Fault
from tests.conftest import Serve

PAGE = "https://app.example"
KEYED = {"service_api_keys": "web:secret", "cors_allow_origins": (PAGE,)}


async def test_a_preflight_needs_no_key(serve: Serve) -> None:
    async with serve(**KEYED) as client:
        response = await client.options(
            "/generate-image",
            headers={
                "Origin": PAGE,
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "authorization,content-type,x-stainless-retry-count",
            },
        )

    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == PAGE
    assert "x-stainless-retry-count" in response.headers["access-control-allow-headers"]


@pytest.mark.parametrize("overrides", [KEYED, {"service_api_keys": "web:secret"}, {"allow_anonymous": True}, {}])
async def test_a_preflight_from_an_unlisted_origin_says_which_setting_allows_it(
    serve: Serve, capfd: pytest.CaptureFixture[str], overrides: dict[str, Any]
) -> None:
    """
    The response tells the page's developer, and the log tells the operator. Neither contains a key.
    """
    pages = ["https://evil.example", "https://app.example.evil", "null", "https://\x9b" + "x" * 9000]
    async with serve(**overrides, log_format="text") as client:
        for page in pages:
            asked = {b"Origin": page.encode("latin-1"), b"Access-Control-Request-Method": b"POST"}
            capfd.readouterr()
            response = await client.options("/generate-image", headers=asked)

            assert (response.status_code, response.json()["code"]) == (403, "forbidden_origin")
            assert "CORS_ALLOW_ORIGINS" in response.json()["detail"]
            assert "access-control-allow-origin" not in response.headers
            [line] = [line for line in capfd.readouterr().err.splitlines() if "forbidden_origin" in line]
            assert page[:20].replace("\x9b", "\\x9b") in line
            assert "CORS_ALLOW_ORIGINS" in line
            assert len(line) < 600


@pytest.mark.parametrize("asked", [{}, {"Access-Control-Request-Private-Network": "true"}])
async def test_a_preflight_from_a_listed_origin_allows_every_method_and_header(
    serve: Serve, asked: dict[str, str]
) -> None:
    async with serve(**KEYED) as client:
        answers = [
            await client.options("/chats", headers=asked | {"Origin": PAGE, "Access-Control-Request-Method": method})
            for method in ("GET", "POST", "DELETE")
        ]

    assert {one.status_code for one in answers} == {200}


@pytest.mark.parametrize(
    ("key", "body", "fault", "status"),
    [
        ("secret", {"prompt": "x"}, Fault(), 200),
        ("secret", {"prompt": "x"}, Fault(status=503, times=3), 503),
        ("secret", {"prompt": "x"}, Fault(finish_reason="IMAGE_SAFETY"), 422),
        ("secret", {}, Fault(), 422),
        ("wrong", {"prompt": "x"}, Fault(), 401),
    ],
)
async def test_every_response_can_be_read_from_a_listed_origin(
    serve: Serve, gemini: Emulator, key: str, body: dict[str, str], fault: Fault, status: int
) -> None:
    gemini.faults.append(fault)
    async with serve(**KEYED) as client:
        response = await client.post("/generate-image", json=body, headers={"Origin": PAGE, "X-API-Key": key})

    assert response.status_code == status
    assert response.headers["access-control-allow-origin"] == PAGE
    exposed = response.headers["access-control-expose-headers"].lower()
    assert {"x-request-id", "retry-after", "x-usage", "x-text"} <= set(exposed.split(", "))
    assert response.headers["x-request-id"]


@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_early_errors_can_be_read_from_a_listed_origin(serve: Serve, method: str) -> None:
    async with serve(**KEYED, max_body_bytes=10) as client:
        response = await client.request(
            method, "/nowhere", content=b"x" * 20, headers={"Origin": PAGE, "X-API-Key": "secret"}
        )

    assert response.status_code == 413
    assert response.headers["access-control-allow-origin"] == PAGE
    assert response.headers["content-type"] == "application/problem+json"


async def test_without_keys_a_page_from_this_machine_can_read_responses(
    client: httpx2.AsyncClient, gemini: Emulator
) -> None:
    """
    A frontend under development has a port of its own. Any request that the service accepts must get a readable
    response.
    """
    page = "http://localhost:5173"
    preflight = await client.options(
        "/generate-image",
        headers={
            "Origin": page,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "content-type",
        },
    )
    response = await client.post("/generate-image", json={"prompt": "x"}, headers={"Origin": page})

    assert preflight.status_code == response.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == response.headers["access-control-allow-origin"] == page


async def test_an_unlisted_origin_gets_no_cors_headers(serve: Serve, gemini: Emulator) -> None:
    async with serve(**KEYED) as client:
        response = await client.post(
            "/generate-image", json={"prompt": "x"}, headers={"Origin": "https://evil.example", "X-API-Key": "secret"}
        )

    assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize(
    ("offered", "kept"),
    [
        ("order-66.a_b:c", True),
        ("x" * 128, True),
        ("x" * 129, False),
        ("bad id", False),
        ("<script>", False),
        ("", False),
    ],
)
async def test_a_valid_request_id_is_kept_and_an_invalid_one_is_replaced(
    client: httpx2.AsyncClient, offered: str, kept: bool
) -> None:
    response = await client.get("/healthz", headers={"X-Request-Id": offered})

    assert (response.headers["x-request-id"] == offered) is kept
    assert response.headers["x-request-id"]


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_probes_may_send_head_requests(client: httpx2.AsyncClient, path: str) -> None:
    assert (await client.head(path)).status_code == 200


async def test_the_docs_load_nothing_from_other_hosts(client: httpx2.AsyncClient) -> None:
    page = await client.get("/docs")

    assert page.status_code == 200
    addresses = re.findall(r"""(?:src|href)=["']([^"']+)""", page.text)
    assert addresses
    for address in addresses:
        assert address.startswith("/docs/assets/"), address
        assert (await client.get(address)).status_code == 200
    assert "/openapi.json" in page.text


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("POST", "/generate-image/", 404, "not_found"),
        ("GET", "/generate-image", 405, "method_not_allowed"),
        ("POST", "/models", 405, "method_not_allowed"),
    ],
)
async def test_an_unknown_path_returns_a_problem_document(
    client: httpx2.AsyncClient, method: str, path: str, status: int, code: str
) -> None:
    response = await client.request(method, path)

    assert (response.status_code, response.json()["code"]) == (status, code)
    assert ("allow" in response.headers) is (status == 405)
