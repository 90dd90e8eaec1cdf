"""`Accept`: JSON by default, raw bytes for image types, and a 406 before the generation if no type matches."""

import base64
import json
from urllib.parse import unquote

import httpx2
import pytest

from app.emulator import Emulator, Fault
from tests.conftest import Serve, image_file


@pytest.mark.parametrize(
    "accept", ["image/*", "image/jpeg", "image/avif,image/jpeg", "IMAGE/JPEG", "image/png;q=0.2,image/jpeg"]
)
async def test_raw_bytes_are_gemini_s_bytes(client: httpx2.AsyncClient, gemini: Emulator, accept: str) -> None:
    sent = image_file("JPEG", (2048, 2048))
    gemini.faults.append(Fault(image_base64=base64.b64encode(sent).decode(), text="Voilà — 好\n2nd line"))

    response = await client.post("/generate-image", json={"prompt": "x"}, headers={"Accept": accept})

    assert response.status_code == 200
    assert response.content == sent
    assert response.headers["content-type"] == "image/jpeg"
    assert int(response.headers["content-length"]) == len(sent)
    assert response.headers["content-disposition"].endswith('.jpg"')
    assert response.headers["x-model"] == "gemini-3-pro-image"
    assert response.headers["x-image-width"] == "2048"
    assert unquote(response.headers["x-text"]) == "Voilà — 好\n2nd line"
    assert json.loads(response.headers["x-usage"])["estimatedCostUsd"] > 0
    assert response.headers["vary"].lower().startswith("accept")


async def test_several_accept_headers_are_combined(client: httpx2.AsyncClient) -> None:
    headers = [("Accept", "application/xml"), ("Accept", "image/*")]

    response = await client.post("/generate-image", json={"prompt": "x"}, headers=headers)

    assert response.headers["content-type"] == "image/jpeg"


@pytest.mark.parametrize(
    "accept",
    [
        None,
        "*/*",
        "application/json",
        "application/json, image/*",
        "application/json, text/plain, */*",
        "image/png, application/json;q=0.1",
        "what is this",
    ],
)
async def test_other_accept_headers_get_json(client: httpx2.AsyncClient, accept: str | None) -> None:
    headers = {"Accept": accept} if accept else {}

    response = await client.post("/generate-image", json={"prompt": "x"}, headers=headers)

    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.json()["image"]["mimeType"] == "image/jpeg"


@pytest.mark.parametrize(
    ("accept", "possible"),
    [
        ("image/heic", ["application/json", "image/jpeg", "image/png", "image/webp"]),
        ("image/heif, image/heic;q=0.5", ["application/json", "image/jpeg", "image/png", "image/webp"]),
        ("text/html", ["application/json", "image/*", "text/event-stream"]),
    ],
)
async def test_a_type_that_the_model_cannot_produce_is_rejected_before_the_call(
    client: httpx2.AsyncClient, gemini: Emulator, accept: str, possible: list[str]
) -> None:
    response = await client.post("/generate-image", json={"prompt": "x"}, headers={"Accept": accept})

    assert response.status_code == 406
    assert response.json()["code"] == "not_acceptable"
    assert response.json()["possible"] == possible
    assert not gemini.calls


async def test_an_unexpected_type_is_rejected_after_the_call(serve: Serve, gemini: Emulator) -> None:
    """The settings list the model without its type, so that it is not known before."""
    gemini.faults.append(Fault(image_base64=base64.b64encode(image_file("PNG")).decode()))
    async with serve(extra_models={"gemini-3-pro-image": {"output_type": None}}) as client:
        response = await client.post("/generate-image", json={"prompt": "x"}, headers={"Accept": "image/heic"})

    assert response.status_code == 406
    assert response.json()["possible"] == ["application/json", "image/png", "image/jpeg", "image/webp"]


async def test_a_problem_is_a_problem_document_for_any_accept_header(
    client: httpx2.AsyncClient, gemini: Emulator
) -> None:
    gemini.faults.append(Fault(finish_reason="IMAGE_SAFETY"))

    response = await client.post("/generate-image", json={"prompt": "x"}, headers={"Accept": "image/*"})

    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"


async def test_a_png_model_returns_png(client: httpx2.AsyncClient) -> None:
    body = {"prompt": "x", "model": "gemini-2.5-flash-image"}

    response = await client.post("/generate-image", json=body, headers={"Accept": "image/png"})

    assert response.status_code == 200
    assert response.content.startswith(b"\x89PNG")


async def test_response_headers_stay_small_and_name_what_they_leave_out(
    client: httpx2.AsyncClient, gemini: Emulator
) -> None:
    """
    Some proxies reject responses with large headers.
    """
    gemini.faults.append(Fault(text="word " * 2000))

    response = await client.post("/generate-image/with-search", json={"prompt": "x"}, headers={"Accept": "image/*"})

    assert response.status_code == 200
    assert sum(len(name) + len(value) for name, value in response.headers.items()) < 4096
    assert "text" in response.headers["x-omitted"]
    assert "x-text" not in response.headers


async def test_short_grounding_is_in_a_header(client: httpx2.AsyncClient) -> None:
    response = await client.post("/generate-image/with-search", json={"prompt": "x"}, headers={"Accept": "image/*"})

    grounding = json.loads(unquote(response.headers["x-grounding"]))
    assert grounding["sources"][0]["title"] == "example.com"
