"""Text to image: what a caller sends, what Gemini gets, and what the caller gets."""

import base64
import io
import json
from typing import Any

import httpx2
import pytest
from PIL import Image

from app.emulator import Emulator, Fault
from tests.conftest import Serve, image_file

POSTER = 'A poster.\n  Title: "Mañana — 明天会更好" 🎉\n\tFine print: it\'s 100% \\ done\r\nEnd '


def inline(data: bytes) -> dict[str, Any]:
    return {"inlineData": {"mimeType": "image/png", "data": base64.b64encode(data).decode()}}


def answered_with(*parts: Any) -> Fault:
    """Return a fault that makes Gemini respond with these parts."""
    return Fault(body=json.dumps({"candidates": [{"content": {"parts": list(parts)}, "finishReason": "STOP"}]}))


async def test_the_next_js_route_s_request_gets_the_next_js_route_s_response(
    client: httpx2.AsyncClient, gemini: Emulator
) -> None:
    """
    `image.data`, `image.mimeType` and `image.url` exist, and the data is Gemini's, unchanged.
    """
    sent = image_file("JPEG", (1376, 768))
    gemini.faults.append(Fault(image_base64=base64.b64encode(sent).decode()))

    response = await client.post(
        "/generate-image", json={"prompt": "A lighthouse", "aspectRatio": "16:9", "imageSize": "2K"}
    )

    assert response.status_code == 200
    image = response.json()["image"]
    assert base64.b64decode(image["data"]) == sent
    assert image["mimeType"] == "image/jpeg"
    assert image["url"] == f"data:image/jpeg;base64,{image['data']}"
    assert (image["width"], image["height"]) == (1376, 768)


async def test_the_response_has_all_documented_fields(client: httpx2.AsyncClient) -> None:
    response = await client.post("/generate-image", json={"prompt": "A lighthouse"})

    body = response.json()
    assert body.keys() == {
        "id", "image", "text", "model", "modelVersion", "finishReason", "grounding", "usage", "warnings",
    }  # fmt: skip
    assert body["id"].startswith("gen_")
    assert body["text"] == "Here it is."
    assert body["model"] == body["modelVersion"] == "gemini-3-pro-image"
    assert body["finishReason"] == "STOP"
    assert body["grounding"] is None
    assert body["warnings"] == []
    assert int(response.headers["content-length"]) == len(response.content)


async def test_gemini_gets_the_prompt_unchanged(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    """
    Posters with exact text depend on quotes, line breaks, emoji, Chinese and trailing spaces.
    """
    response = await client.post("/generate-image", json={"prompt": POSTER})

    assert response.status_code == 200
    assert gemini.calls[0].body["contents"] == [{"role": "user", "parts": [{"text": POSTER}]}]


async def test_the_default_is_a_square_2k_image_from_nano_banana_pro(
    client: httpx2.AsyncClient, gemini: Emulator
) -> None:
    await client.post("/generate-image", json={"prompt": "A lighthouse"})

    call = gemini.calls[0]
    assert call.path == "/v1beta/models/gemini-3-pro-image:generateContent"
    assert call.body["generationConfig"] == {
        "imageConfig": {"aspectRatio": "1:1", "imageSize": "2K"},
        "responseModalities": ["TEXT", "IMAGE"],
    }
    assert call.headers["accept-encoding"] == "identity"
    assert "tools" not in call.body


async def test_gemini_gets_every_option(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    response = await client.post(
        "/generate-image",
        json={
            "prompt": "A lighthouse",
            "model": "gemini-nano-banana-2.1",
            "aspectRatio": "8:1",
            "imageSize": "1K",
            "googleSearch": True,
            "imageSearch": True,
            "systemInstruction": "Paint like Hokusai.",
            "thinkingLevel": "high",
            "includeThoughts": True,
            "seed": 7,
            "safetySettings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_ONLY_HIGH"}],
        },
    )

    assert response.status_code == 200
    call = gemini.calls[0]
    assert call.body["generationConfig"] == {
        "imageConfig": {"aspectRatio": "8:1", "imageSize": "1K"},
        "responseModalities": ["TEXT", "IMAGE"],
        "seed": 7,
        "thinkingConfig": {"includeThoughts": True, "thinkingLevel": "HIGH"},
    }
    assert call.body["tools"] == [{"googleSearch": {"searchTypes": {"imageSearch": {}, "webSearch": {}}}}]
    assert call.body["systemInstruction"]["parts"] == [{"text": "Paint like Hokusai."}]
    assert call.body["safetySettings"] == [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_ONLY_HIGH"}]


async def test_snake_case_and_nulls_are_accepted(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    response = await client.post(
        "/generate-image",
        json={"prompt": "A lighthouse", "aspect_ratio": "3:2", "image_size": "1k", "model": None, "seed": None},
    )

    assert response.status_code == 200
    assert gemini.calls[0].body["generationConfig"]["imageConfig"] == {"aspectRatio": "3:2", "imageSize": "1K"}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": " \n\t"}, "prompt"),
        ({"prompt": 7}, "prompt"),
        ({"prompt": "x", "aspect": "16:9"}, "aspect"),
        ({"prompt": "x", "seed": 2**31}, "seed"),
        ({"prompt": "x", "model": "../../secrets"}, "model"),
        ({"prompt": "x", "model": "a/b"}, "model"),
        ({"prompt": "x", "model": "a..b"}, "model"),
        ({"prompt": "x", "model": "a:generateContent?x"}, "model"),
        ({"prompt": "x", "responseFormat": "link"}, "responseFormat"),
        ({"prompt": "x", "safetySettings": [{"category": "HARM", "threshold": "OFF"}]}, "safetySettings[0].category"),
        ({"prompt": "x", "referenceImages": [{"role": "character"}]}, "referenceImages[0]"),
        ({"prompt": "x", "referenceImages": [{"data": "%%%"}]}, "referenceImages[0]"),
        ({"prompt": "x", "referenceImages": [{"url": "https://example.com/a.png"}]}, "referenceImages[0]"),
        ({"prompt": "x", "referenceImages": [{"url": "data:image/svg+xml,<svg/>"}]}, "referenceImages[0]"),
        ([1, 2], "body"),
    ],
)
async def test_an_invalid_field_is_rejected_with_its_name(
    client: httpx2.AsyncClient, gemini: Emulator, body: Any, field: str
) -> None:
    response = await client.post("/generate-image", json=body)

    assert response.status_code == 422
    problem = response.json()
    assert problem["code"] == "invalid_request"
    assert [error["field"] for error in problem["errors"]] == [field]
    assert not gemini.calls


@pytest.mark.parametrize(
    ("body", "type_", "status", "code"),
    [
        (b"{not json", "application/json", 400, "invalid_json"),
        (b"", "application/json", 400, "invalid_json"),
        (b'{"prompt": "\xff"}', "application/json", 400, "invalid_json"),
        (b"[" * 100_000, "application/json", 400, "invalid_json"),
        (b'{"prompt": "x"}', "text/plain", 415, "unsupported_media_type"),
        (b'{"prompt": "x"}', "application/x-www-form-urlencoded", 415, "unsupported_media_type"),
        (b'{"prompt": "\\ud800"}', "application/json", 422, "invalid_request"),
    ],
)
async def test_a_body_that_is_not_json_is_a_problem(
    client: httpx2.AsyncClient, body: bytes, type_: str, status: int, code: str
) -> None:
    response = await client.post("/generate-image", content=body, headers={"Content-Type": type_})

    assert (response.status_code, response.json()["code"]) == (status, code)


async def test_the_b64_format_returns_base64_without_a_data_url(client: httpx2.AsyncClient) -> None:
    response = await client.post("/generate-image", json={"prompt": "x", "responseFormat": "b64"})

    assert response.json()["image"].keys() == {"data", "mimeType", "width", "height"}


async def test_the_mime_type_is_read_from_the_bytes(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    """
    Gemini has called JPEGs PNG.
    """
    gemini.faults.append(Fault(mime_type="image/png"))

    response = await client.post("/generate-image", json={"prompt": "x"})

    assert response.json()["image"]["mimeType"] == "image/jpeg"


async def test_both_base64_alphabets_are_decoded(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    candidates = (image_file("PNG", (64 + n, 64)) for n in range(999))
    sent = next(data for data in candidates if b"-" in base64.urlsafe_b64encode(data))
    gemini.faults.append(Fault(image_base64=base64.urlsafe_b64encode(sent).decode().rstrip("=")))

    response = await client.post("/generate-image", json={"prompt": "x"})

    assert base64.b64decode(response.json()["image"]["data"]) == sent


async def test_the_last_image_that_is_not_a_thought_is_returned(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    """
    Drafts are always 1K. The other images are returned only on request.
    """
    gemini.faults.append(Fault(shape="unflagged_drafts"))

    response = await client.post("/generate-image", json={"prompt": "x", "includeThoughts": True})

    body = response.json()
    assert body["image"]["width"] == 2048
    assert "drafts" not in body
    assert body["thoughts"].startswith("**Planning")
    assert any("includeDrafts" in warning for warning in body["warnings"])


async def test_drafts_are_returned_on_request(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    gemini.faults.append(Fault(shape="unflagged_drafts"))

    response = await client.post("/generate-image", json={"prompt": "x", "includeDrafts": True})

    drafts = response.json()["drafts"]
    assert [draft["width"] for draft in drafts] == [1024, 1024, 1024]  # one thought, two unflagged
    for draft in drafts:
        assert Image.open(io.BytesIO(base64.b64decode(draft["data"]))).size == (1024, 1024)
    assert len({draft["data"] for draft in drafts} | {response.json()["image"]["data"]}) == 4


@pytest.mark.parametrize("shape", ["image_in_thought", "image_first"])
async def test_an_image_in_an_unusual_part_is_found(client: httpx2.AsyncClient, gemini: Emulator, shape: Any) -> None:
    gemini.faults.append(Fault(shape=shape))

    response = await client.post("/generate-image", json={"prompt": "x"})

    assert response.status_code == 200
    assert response.json()["image"]["width"] == 2048


async def test_a_different_image_size_is_a_warning(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    gemini.faults.append(Fault(image_base64=base64.b64encode(image_file("JPEG", (1024, 1024))).decode()))

    response = await client.post("/generate-image", json={"prompt": "x", "aspectRatio": "16:9", "imageSize": "4K"})

    assert response.json()["warnings"] == [
        "Asked for 16:9, Gemini drew 1024×1024.",
        "Asked for 4K, Gemini drew 1024×1024.",
    ]


async def test_a_response_of_another_model_is_a_warning(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    gemini.faults.append(Fault(patch={"modelVersion": "gemini-nano-banana-3"}))

    response = await client.post("/generate-image", json={"prompt": "x"})

    body = response.json()
    assert (body["model"], body["modelVersion"]) == ("gemini-3-pro-image", "gemini-nano-banana-3")
    assert "gemini-nano-banana-3" in body["warnings"][0]


async def test_an_unknown_well_formed_model_is_sent_to_gemini_unchecked(
    client: httpx2.AsyncClient, gemini: Emulator
) -> None:
    """
    A new model works without a release of the service. The request contains only options that the caller set.
    """
    gemini.faults.append(Fault(status=404, message="models/gemini-9-image is not found"))

    response = await client.post(
        "/generate-image",
        json={"prompt": "x", "model": "gemini-9-image", "aspectRatio": "5:7", "thinkingLevel": "xhigh"},
    )

    assert gemini.calls[0].path == "/v1beta/models/gemini-9-image:generateContent"
    config = gemini.calls[0].body["generationConfig"]
    assert config["imageConfig"] == {"aspectRatio": "5:7"}
    assert config["thinkingConfig"] == {"thinkingLevel": "XHIGH"}
    assert response.status_code == 422
    assert response.json()["errors"][0]["field"] == "model"


@pytest.mark.parametrize("ratio", ["wide", "16x9", "0:0", "16:9:1", "5:7"])
async def test_an_image_is_delivered_although_its_aspect_ratio_is_unknown(
    client: httpx2.AsyncClient, gemini: Emulator, ratio: str
) -> None:
    """
    The service cannot check the aspect ratios of an unlisted model.
    """
    gemini.faults.append(answered_with(inline(image_file("JPEG"))))

    response = await client.post(
        "/generate-image", json={"prompt": "x", "model": "gemini-9-image", "aspectRatio": ratio}
    )

    assert response.status_code == 200, response.text


@pytest.mark.parametrize(
    "parts",
    [
        [None, "good"],
        [{"text": "\ud83d"}, "good"],
        [{"text": 7}, "good"],
        ["good", {"inlineData": {"mimeType": "image/png", "data": "aGVsbG8="}}],
        [{"inlineData": {"mimeType": "image/png", "data": "%%"}}, "good"],
    ],
)
@pytest.mark.parametrize("accept", ["application/json", "image/*"])
async def test_an_image_is_delivered_although_other_parts_are_invalid(
    client: httpx2.AsyncClient, gemini: Emulator, parts: list[Any], accept: str
) -> None:
    sent = image_file("JPEG")
    gemini.faults.append(answered_with(*(inline(sent) if part == "good" else part for part in parts)))

    response = await client.post(
        "/generate-image", json={"prompt": "x", "includeDrafts": True}, headers={"Accept": accept}
    )

    assert response.status_code == 200, response.text
    data = response.content if accept == "image/*" else base64.b64decode(response.json()["image"]["data"])
    assert data == sent


@pytest.mark.parametrize("width", [76, 100_000])
async def test_base64_in_a_text_beside_an_image_is_left_out(
    client: httpx2.AsyncClient, gemini: Emulator, width: int
) -> None:
    letters = base64.b64encode(image_file("JPEG")).decode()
    wrapped = "\n".join(letters[n : n + width] for n in range(0, len(letters), width))
    text = f"Look: data:image/jpeg;base64,{wrapped}"
    gemini.faults.append(answered_with({"text": text}, inline(image_file("JPEG"))))

    response = await client.post("/generate-image", json={"prompt": "x"})

    assert response.json()["text"] == "Look: [base64 left out]"


async def test_a_model_without_thoughts_is_not_asked_for_drafts(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    body = {"prompt": "x", "model": "gemini-2.5-flash-image", "includeDrafts": True}

    response = await client.post("/generate-image", json=body)

    assert response.status_code == 200
    assert "thinkingConfig" not in gemini.calls[0].body["generationConfig"]


async def test_a_compressed_response_is_decoded(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    gemini.faults.append(Fault(gzip=True))

    response = await client.post("/generate-image", json={"prompt": "x"})

    assert response.status_code == 200


async def test_very_large_signatures_are_accepted(serve: Serve, gemini: Emulator) -> None:
    gemini.signature_bytes = 1_500_000
    try:
        async with serve() as client:
            response = await client.post("/generate-image", json={"prompt": "x"})
    finally:
        gemini.signature_bytes = 256

    assert response.status_code == 200
    assert b"thoughtSignature" not in response.content


async def test_a_demo_identifies_itself(serve: Serve) -> None:
    """
    Every response has a header, and `/readyz` has a field. The images have the sizes of Gemini's.
    """
    async with serve(demo=True, demo_delay_seconds=0, gemini_api_key=None) as client:
        ready = await client.get("/readyz")
        response = await client.post("/generate-image", json={"prompt": "x", "aspectRatio": "21:9", "imageSize": "4K"})

    assert ready.json() == {"status": "ready", "demo": True}
    assert response.headers["x-demo"] == "true"
    image = Image.open(io.BytesIO(base64.b64decode(response.json()["image"]["data"])))
    assert image.size == (6336, 2688)
    assert image.format == "JPEG"
