"""Errors below `/v1` have OpenAI's format, and never a status with which a client would pay twice."""

import json
from typing import Any

import httpx2
import pytest

from app.emulator import Emulator, Fault
from tests.conftest import Serve, image_file

GENERATIONS, EDITS = "/v1/images/generations", "/v1/images/edits"
ASK = {"prompt": "A lighthouse"}


def error(response: httpx2.Response) -> dict[str, Any]:
    """Return the error of a response in OpenAI's format."""
    assert response.headers["content-type"] == "application/json"
    found: dict[str, Any] = response.json()["error"]
    assert {"message", "type", "param", "code"} <= found.keys()
    return found


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1", 404, "unknown_url"),
        ("POST", "/v1/chat/completions", 404, "unknown_url"),
        ("POST", "/v1/images/variations", 404, "unknown_url"),
        ("GET", GENERATIONS, 405, "method_not_supported"),
        ("DELETE", "/v1/models", 405, "method_not_supported"),
        ("GET", "/v1/models/no-such-model", 404, "model_not_found"),
    ],
)
async def test_unknown_paths_and_methods_have_openais_error(
    client: httpx2.AsyncClient, method: str, path: str, status: int, code: str
) -> None:
    response = await client.request(method, path)

    assert (response.status_code, error(response)["code"]) == (status, code)


async def test_a_path_that_only_begins_like_v1_has_a_problem_document(client: httpx2.AsyncClient) -> None:
    response = await client.get("/v10")

    assert response.headers["content-type"] == "application/problem+json"


async def test_a_body_that_is_not_json_is_a_400(client: httpx2.AsyncClient) -> None:
    response = await client.post(GENERATIONS, content=b"{", headers={"Content-Type": "application/json"})

    assert (response.status_code, error(response)["code"]) == (400, "invalid_json")


async def test_a_body_of_another_type_is_a_415(client: httpx2.AsyncClient) -> None:
    generation = await client.post(GENERATIONS, files={"prompt": (None, "A lighthouse")})
    edit = await client.post(EDITS, data={"prompt": "A lighthouse"})

    assert (generation.status_code, error(generation)["code"]) == (415, "unsupported_media_type")
    assert (edit.status_code, error(edit)["code"]) == (415, "unsupported_media_type")
    assert "multipart/form-data" in error(edit)["message"]


async def test_a_large_body_is_a_413(serve: Serve) -> None:
    async with serve(max_body_bytes=1000) as client:
        announced = await client.post(GENERATIONS, json={"prompt": "x" * 2000})
        chunked = await client.post(GENERATIONS, content=_chunks(), headers={"Content-Type": "application/json"})
        form = await client.post(EDITS, files={"image": image_file("PNG")}, data={"prompt": "x" * 2000})

    for response in (announced, chunked, form):
        assert (response.status_code, error(response)["code"]) == (413, "too_large")


async def _chunks() -> Any:
    for _ in range(20):
        yield b" " * 100


async def test_a_header_that_is_too_long_is_a_431(client: httpx2.AsyncClient) -> None:
    response = await client.post(GENERATIONS, json=ASK, headers={"Accept": "x" * 3000})

    assert (response.status_code, error(response)["code"]) == (431, "too_large")


@pytest.mark.parametrize("header", ["Authorization", "X-API-Key", "api-key"])
async def test_a_key_is_accepted_in_the_headers_of_all_clients(serve: Serve, header: str) -> None:
    async with serve(service_api_keys="web:0123456789abcdef") as client:
        key = "Bearer 0123456789abcdef" if header == "Authorization" else "0123456789abcdef"
        accepted = await client.get("/v1/models", headers={header: key})
        refused = await client.get("/v1/models", headers={header: f"{key}0"})

    assert accepted.status_code == 200
    assert (refused.status_code, error(refused)["code"]) == (401, "invalid_api_key")


async def test_pages_of_other_origins_can_read_errors(serve: Serve) -> None:
    origin = "https://app.example"
    async with serve(service_api_keys="web:0123456789abcdef", cors_allow_origins=origin) as client:
        unauthorized = await client.post(GENERATIONS, json=ASK, headers={"Origin": origin})
        preflight = await client.options(
            GENERATIONS, headers={"Origin": "https://other.example", "Access-Control-Request-Method": "POST"}
        )

    assert unauthorized.headers["access-control-allow-origin"] == origin
    assert error(unauthorized)["code"] == "invalid_api_key"
    assert (preflight.status_code, error(preflight)["code"]) == (403, "forbidden_origin")


@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        (Fault(finish_reason="IMAGE_SAFETY"), "moderation_blocked", "IMAGE_SAFETY"),
        (Fault(finish_reason="IMAGE_RECITATION"), "moderation_blocked", "IMAGE_RECITATION"),
        (Fault(block_reason="PROHIBITED_CONTENT"), "moderation_blocked", "PROHIBITED_CONTENT"),
        (Fault(shape="text_only"), "no_image", ""),
    ],
)
async def test_a_refusal_is_a_400_that_clients_do_not_repeat(
    client: httpx2.AsyncClient, gemini: Emulator, fault: Fault, code: str, words: str
) -> None:
    gemini.faults.append(fault)

    response = await client.post(GENERATIONS, json=ASK)

    assert (response.status_code, error(response)["code"]) == (400, code)
    assert error(response)["type"] == "image_generation_user_error"
    assert words in error(response)["message"]
    assert response.headers["x-should-retry"] == "false"
    assert len(gemini.calls) == 1


async def test_the_models_words_are_in_the_message_of_a_refusal(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    gemini.faults.append(Fault(shape="text_only"))

    response = await client.post(GENERATIONS, json=ASK)

    assert error(response)["text"]
    assert error(response)["text"] in error(response)["message"]


async def test_a_quota_is_a_429_with_retry_after(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    details = [{"retryDelay": "34s"}]
    gemini.faults.append(Fault(status=429, details=details, times=9))

    response = await client.post(GENERATIONS, json=ASK)

    assert (response.status_code, error(response)["code"]) == (429, "rate_limit_exceeded")
    assert response.headers["retry-after"] == "34"


async def test_a_busy_model_is_a_503_with_retry_after(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    gemini.faults.append(Fault(status=503, times=9))

    response = await client.post(GENERATIONS, json=ASK)

    assert (response.status_code, error(response)["code"]) == (503, "upstream_busy")
    assert error(response)["type"] == "server_error"
    assert int(response.headers["retry-after"]) > 0


async def test_what_may_have_been_paid_has_a_status_that_no_client_repeats(
    client: httpx2.AsyncClient, gemini: Emulator
) -> None:
    gemini.faults.append(Fault(reset="in_body", times=9))

    response = await client.post(GENERATIONS, json=ASK)

    assert response.status_code == 424
    assert response.headers["x-should-retry"] == "false"
    assert error(response)["code"] == "upstream_error"


async def test_a_stream_ends_with_an_error_event(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    gemini.faults.append(Fault(finish_reason="IMAGE_SAFETY"))

    response = await client.post(GENERATIONS, json=ASK | {"stream": True})

    name, data = response.text.strip().split("\n\n")[-1].split("\n")
    assert name == "event: error"
    assert json.loads(data.removeprefix("data: "))["error"]["code"] == "moderation_blocked"
