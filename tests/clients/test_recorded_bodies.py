"""Requests as programs send them that are too large to run here. Their sources were read, or their traffic recorded."""

import base64
from dataclasses import dataclass, field
from typing import Any

import httpx2
import pytest

from app.emulator import Emulator
from tests.clients.images import images_of, sent_images
from tests.conftest import Serve, image_file

MODEL = "gemini-3-pro-image"
PNG, JPEG = image_file("PNG"), image_file("JPEG")

Part = tuple[str, tuple[str | None, bytes] | tuple[str | None, bytes, str]]


@dataclass(frozen=True)
class Body:
    """A JSON body for `/v1/images/generations`, and what the answer must be."""

    json: dict[str, Any]
    format: str = "JPEG"
    images: int = 1
    size: tuple[int, int] | None = None
    headers: dict[str, str] = field(default_factory=dict)
    query: str = ""


GENERATIONS = {
    "Open WebUI": Body(
        {
            "model": "gemini-3-pro-image",
            "prompt": "A lighthouse",
            "n": 1,
            "size": "512x512",
            "response_format": "b64_json",
        },
        size=(1024, 1024),
    ),
    "Open WebUI with IMAGES_OPENAI_PARAMS": Body(
        {
            "model": "gpt-image-1",
            "prompt": "A lighthouse",
            "n": 2,
            "size": "auto",
            "aspect_ratio": "16:9",
            "output_format": "png",
        },
        format="PNG",
        images=2,
    ),
    "LibreChat": Body(
        {
            "model": "gpt-image-1",
            "prompt": "A lighthouse",
            "n": 1,
            "background": "auto",
            "output_format": "png",
            "quality": "auto",
            "size": "auto",
        },
        format="PNG",
    ),
    "LibreChat with imageOutputType webp": Body(
        {
            "model": "gpt-image-1",
            "prompt": "A lighthouse",
            "n": 1,
            "background": "auto",
            "output_format": "webp",
            "output_compression": 100,
            "quality": "auto",
            "size": "1024x1536",
        },
        format="WEBP",
        size=(848, 1264),
    ),
    "LiteLLM as a client": Body(
        {"prompt": "A lighthouse", "model": "gemini-3-pro-image", "n": 1, "size": "1024x1024", "user": "u1"},
        size=(1024, 1024),
    ),
    "Azure": Body(
        {"model": "gpt-image-1", "prompt": "A lighthouse", "size": "1792x1024", "style": "natural", "quality": "hd"},
        size=(1376, 768),
        headers={"api-key": "any"},
        query="?api-version=2025-04-01-preview",
    ),
    "AI SDK, openai-compatible": Body({"model": "gemini-3-pro-image", "prompt": "A lighthouse", "n": 1}),
    "AI SDK, openai": Body(
        {"model": "dall-e-3", "prompt": "A lighthouse", "n": 1, "size": "1024x1024", "response_format": "b64_json"},
        size=(1024, 1024),
    ),
    "n8n": Body({"prompt": "A lighthouse", "model": "gpt-image-1-mini", "quality": "medium", "size": "1024x1024"}),
    "n8n, DALL·E": Body(
        {
            "prompt": "A lighthouse",
            "model": "dall-e-3",
            "response_format": "b64_json",
            "quality": "hd",
            "size": "1024x1792",
            "style": "vivid",
        },
        size=(768, 1376),
    ),
    "Dify": Body(
        {
            "model": "gemini-3-pro-image",
            "prompt": "A lighthouse",
            "size": "1024x1024",
            "quality": "standard",
            "style": "vivid",
            "response_format": "b64_json",
            "watermark": False,
        },
        size=(1024, 1024),
    ),
    "a typed client that writes every field": Body(
        {"prompt": "A lighthouse"}
        | dict.fromkeys(
            [
                "model",
                "n",
                "size",
                "quality",
                "background",
                "output_format",
                "output_compression",
                "moderation",
                "response_format",
                "style",
                "partial_images",
                "stream",
                "user",
            ]
        )
    ),
}


@pytest.mark.parametrize("body", GENERATIONS.values(), ids=list(GENERATIONS))
async def test_a_generation_is_answered(client: httpx2.AsyncClient, gemini: Emulator, body: Body) -> None:
    answer = await client.post(f"/v1/images/generations{body.query}", json=body.json, headers=body.headers)

    assert answer.status_code == 200, answer.text[:500]
    images = images_of(answer.json())
    assert [image.format for image in images] == [body.format] * body.images
    assert body.size in (None, images[0].size)
    assert all("url" not in item for item in answer.json()["data"])
    assert gemini.calls[0].body["contents"][0]["parts"] == [{"text": "A lighthouse"}]


def text(name: str, value: str) -> Part:
    return name, (None, value.encode())


def file(name: str, data: bytes, filename: str, media_type: str) -> Part:
    return name, (filename, data, media_type)


PROMPT = text("prompt", "Make it night")
EDITS: dict[str, list[Part]] = {
    "Open WebUI, one image": [
        text("model", MODEL),
        PROMPT,
        text("n", "1"),
        text("response_format", "b64_json"),
        file("image", PNG, "5f4c.png", "image/png"),
    ],
    "Open WebUI, a list": [
        text("model", "gpt-image-1"),
        PROMPT,
        text("n", "1"),
        text("size", "1024x1024"),
        file("image[]", PNG, "5f4c.png", "image/png"),
        file("image[]", JPEG, "5f4d.jpeg", "image/jpeg"),
    ],
    "LibreChat": [
        text("model", "gpt-image-1"),
        PROMPT,
        text("quality", "auto"),
        text("size", "auto"),
        file("image[]", JPEG, "anna.jpg", "image/jpeg"),
    ],
    "n8n": [
        file("image[]", PNG, "data.png", "image/png"),
        file("image[]", JPEG, "data.jpg", "image/jpeg"),
        PROMPT,
        text("model", "gpt-image-1"),
        text("n", "1"),
        text("size", "1024x1024"),
        text("background", "opaque"),
        text("input_fidelity", "high"),
        text("output_format", "jpeg"),
        text("output_compression", "100"),
        text("quality", "auto"),
    ],
    "AI SDK": [
        text("model", MODEL),
        PROMPT,
        file("image", PNG, "blob", "image/png"),
        text("n", "1"),
    ],
    "AI SDK, several images": [
        text("model", MODEL),
        PROMPT,
        file("image[]", PNG, "blob", "image/png"),
        file("image[]", JPEG, "blob", "image/jpeg"),
        text("n", "1"),
    ],
    "LiteLLM as a client": [
        text("model", MODEL),
        PROMPT,
        text("n", "1"),
        file("image[]", PNG, "image.png", "image/png"),
    ],
    "openai for Python, bytes": [
        PROMPT,
        text("model", "gpt-image-2"),
        file("image", PNG, "upload", "application/octet-stream"),
    ],
    "curl, the name repeated": [
        file("image", PNG, "a.png", "image/png"),
        file("image", JPEG, "b.jpg", "image/jpeg"),
        PROMPT,
    ],
    "a form with numbered fields": [
        file("image[0]", PNG, "a.png", "image/png"),
        file("image[1]", JPEG, "b.jpg", "image/jpeg"),
        PROMPT,
    ],
}


@pytest.mark.parametrize("parts", EDITS.values(), ids=list(EDITS))
async def test_an_edit_is_answered(client: httpx2.AsyncClient, gemini: Emulator, parts: list[Part]) -> None:
    answer = await client.post("/v1/images/edits", files=parts)

    assert answer.status_code == 200, answer.text[:500]
    assert len(images_of(answer.json())) == 1
    uploaded = [content[1] for name, content in parts if name.startswith("image")]
    assert sent_images(gemini.calls[0].body) == uploaded


async def test_images_of_an_edit_can_be_data_urls_in_json(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    images = [{"image_url": f"data:image/png;base64,{base64.b64encode(image).decode()}"} for image in (PNG, JPEG)]
    body = {"model": "gpt-image-2", "prompt": "Make it night", "images": images, "size": "auto"}

    answer = await client.post("/v1/images/edits", json=body)

    assert answer.status_code == 200, answer.text[:500]
    assert images_of(answer.json())
    assert sent_images(gemini.calls[0].body) == [PNG, JPEG]


@pytest.mark.parametrize("image", [{"image_url": "https://example.com/anna.png"}, {"file_id": "file-abc"}])
async def test_an_image_that_the_service_would_have_to_fetch_is_refused(
    client: httpx2.AsyncClient, gemini: Emulator, image: dict[str, str]
) -> None:
    answer = await client.post("/v1/images/edits", json={"prompt": "Make it night", "images": [image]})

    assert answer.status_code == 400
    assert answer.json()["error"]["param"].startswith("images")
    assert "data" in answer.json()["error"]["message"]
    assert not gemini.calls


async def test_clients_of_azure_send_their_key_in_a_header_of_its_own(serve: Serve) -> None:
    """
    As `AzureOpenAI` does, also for edits.
    """
    key = "a-secret-of-16-bytes"
    query = "?api-version=2025-04-01-preview"
    async with serve(service_api_keys=f"web:{key}") as service:
        right = await service.post(
            f"/v1/images/generations{query}", json={"prompt": "A lighthouse"}, headers={"api-key": key}
        )
        edit = await service.post(f"/v1/images/edits{query}", files=EDITS["LibreChat"], headers={"api-key": key})
        wrong = await service.post(
            f"/v1/images/generations{query}", json={"prompt": "A lighthouse"}, headers={"api-key": "wrong"}
        )

    assert right.status_code == edit.status_code == 200
    assert wrong.status_code == 401
    assert wrong.json()["error"]["code"] == "invalid_api_key"


async def test_open_webui_finds_its_connection_working(client: httpx2.AsyncClient) -> None:
    """
    It lists the models to verify a connection.
    """
    answer = await client.get("/v1/models", headers={"Authorization": "Bearer any"})

    assert answer.status_code == 200
    assert answer.json()["object"] == "list"
    assert MODEL in [model["id"] for model in answer.json()["data"]]
