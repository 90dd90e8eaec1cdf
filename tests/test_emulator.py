"""The emulator behaves as Gemini does: Google's own client works with it, in all the ways it can call Gemini."""

import base64
import io
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import anyio.to_thread
import httpx2
import pytest
from google import genai
from google.genai import errors, types
from PIL import Image, ImageFont

from app.emulator import Emulator, Fault, served
from app.emulator.drawing import drawable_text
from tests.conftest import image_file

PRO = "gemini-3-pro-image"
KEY = {"x-goog-api-key": "k"}


@pytest.fixture(params=["v1beta"])
async def official(gemini: Emulator, gemini_url: str, request: pytest.FixtureRequest) -> AsyncGenerator[genai.Client]:
    options = types.HttpOptions(base_url=gemini_url, api_version=request.param)
    client = genai.Client(vertexai=False, api_key="k", http_options=options)
    yield client
    await client.aio.aclose()
    client.close()


def image_of(response: types.GenerateContentResponse) -> Image.Image:
    (blob,) = [part.inline_data for part in response.parts or [] if part.inline_data and not part.thought]
    assert blob.data
    return Image.open(io.BytesIO(blob.data))


def config(**overrides: Any) -> types.GenerateContentConfig:
    disabled = types.AutomaticFunctionCallingConfig(disable=True)
    return types.GenerateContentConfig(automatic_function_calling=disabled, **overrides)


@pytest.mark.parametrize("official", ["v1", "v1beta"], indirect=True)
async def test_google_s_client_gets_an_image(official: genai.Client) -> None:
    response = await official.aio.models.generate_content(
        model=PRO,
        contents=types.Content(
            role="user",
            parts=[types.Part(text="A cat"), types.Part.from_bytes(data=image_file(), mime_type="image/png")],
        ),
        config=config(image_config=types.ImageConfig(aspect_ratio="16:9", image_size="1K")),
    )

    assert image_of(response).size == (1376, 768)
    assert image_of(response).format == "JPEG"
    usage = response.usage_metadata
    assert usage
    assert usage.total_token_count == (
        (usage.prompt_token_count or 0) + (usage.candidates_token_count or 0) + (usage.thoughts_token_count or 0)
    )


async def test_google_s_synchronous_client_gets_an_image(official: genai.Client) -> None:
    def ask() -> types.GenerateContentResponse:
        return official.models.generate_content(model="gemini-2.5-flash-image", contents="A cat", config=config())

    assert image_of(await anyio.to_thread.run_sync(ask)).format == "PNG"


async def test_google_s_stream_ends_with_the_image(official: genai.Client) -> None:
    thinking = types.ThinkingConfig(include_thoughts=True)

    chunks = [
        chunk
        async for chunk in await official.aio.models.generate_content_stream(
            model=PRO, contents="A cat", config=config(thinking_config=thinking)
        )
    ]

    assert chunks[0].parts
    assert chunks[0].parts[0].thought
    assert image_of(chunks[-1]).size == (1024, 1024)
    assert chunks[-1].usage_metadata


async def test_signatures_from_google_s_chat_are_accepted(official: genai.Client, gemini: Emulator) -> None:
    chat = official.aio.chats.create(model=PRO, config=config())

    first = await chat.send_message("A cat")
    second = await chat.send_message("Make it blue")

    assert image_of(first).tobytes() != image_of(second).tobytes()
    model_turn = gemini.calls[-1].body["contents"][1]
    assert model_turn["role"] == "model"
    assert all(part["thoughtSignature"] for part in model_turn["parts"])


@pytest.mark.parametrize("spoil", ["missing", "exchanged"])
async def test_a_missing_or_exchanged_signature_is_google_s_400(
    official: genai.Client, gemini: Emulator, spoil: str
) -> None:
    chat = official.aio.chats.create(model=PRO, config=config())
    await chat.send_message("A cat")
    parts = chat.get_history()[1].parts or []
    parts[1].thought_signature = None if spoil == "missing" else parts[0].thought_signature

    with pytest.raises(errors.ClientError) as refused:
        await chat.send_message("Make it blue")

    assert refused.value.code == 400
    expected = {
        "missing": "Image part is missing a thought_signature in content position 2, part position 2.",
        "exchanged": "Thought signature is not valid in content position 2, part position 2.",
    }
    assert refused.value.message == expected[spoil]


@pytest.mark.parametrize(
    ("model", "overrides", "code", "text"),
    [
        ("gemini-3-pro-image-preview", {}, 404, "is not found for API version v1beta"),
        (PRO, {"imageConfig": {"aspectRatio": "16x9"}}, 400, 'aspect_ratio\' (TYPE_STRING), "16x9"'),
        (PRO, {"image_config": {"image_size": "512"}}, 400, "image_size"),
        (PRO, {"imageConfig": {"imageOutputOptions": {}}}, 400, 'Unknown name "image_output_options"'),
        (
            "gemini-3.1-flash-image",
            {"thinkingConfig": {"thinkingLevel": "medium"}},
            400,
            "Thinking level MEDIUM is not",
        ),
        (PRO, {"candidateCount": 2}, 400, "Multiple candidates is not enabled for this model"),
    ],
)
async def test_invalid_requests_get_google_s_error_texts(
    gemini_url: str, model: str, overrides: dict[str, Any], code: int, text: str
) -> None:
    body = {"contents": [{"parts": [{"text": "x"}]}], "generationConfig": overrides}
    async with httpx2.AsyncClient(base_url=gemini_url) as client:
        response = await client.post(f"/v1beta/models/{model}:generateContent", json=body, headers=KEY)

    assert response.status_code == code
    assert text in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ([{}], "contents[1].parts[0].data: required oneof field 'data' must have one initialized field"),
        ([{"text": "A"}, {"text": ""}], "contents[1].parts[1].data: required oneof field 'data'"),
        ([{"thoughtSignature": "c2lnbmVk"}], "contents[1].parts[0].data: required oneof field 'data'"),
        ([], "contents[1].parts: contents.parts must not be empty."),
        ([{"text": "", "thoughtSignature": "c2lnbmVk"}], None),
    ],
    ids=str,
)
async def test_parts_without_data_are_refused(gemini_url: str, parts: list[dict[str, Any]], text: str | None) -> None:
    turns = [("user", [{"text": "x"}]), ("model", parts), ("user", [{"text": "y"}])]
    body = {"contents": [{"role": role, "parts": parts} for role, parts in turns]}
    async with httpx2.AsyncClient(base_url=gemini_url) as client:
        response = await client.post("/v1beta/models/gemini-2.5-flash-image:generateContent", json=body, headers=KEY)

    if text is None:
        assert response.status_code == 200
    else:
        assert (response.status_code, response.json()["error"]["status"]) == (400, "INVALID_ARGUMENT")
        assert text in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("mime_type", "data", "text"),
    [
        (
            "image/gif",
            image_file("GIF"),
            "MIME type must be image/png, image/jpeg, image/webp, image/heic, or image/heif.",
        ),
        ("image/jpg", image_file("JPEG"), "MIME type must be"),
        ("image/png", b"rubbish", "Unable to process input image"),
    ],
)
async def test_input_images_are_checked(gemini_url: str, mime_type: str, data: bytes, text: str) -> None:
    inline = {"mime_type": mime_type, "data": base64.urlsafe_b64encode(data).decode()}
    body = {"contents": [{"parts": [{"text": "x"}, {"inline_data": inline}]}]}
    async with httpx2.AsyncClient(base_url=gemini_url) as client:
        response = await client.post(f"/v1beta/models/{PRO}:generateContent", json=body, headers=KEY)

    assert response.status_code == 400
    assert text in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("headers", "code", "status"),
    [({}, 403, "PERMISSION_DENIED"), ({"x-goog-api-key": "invalid"}, 400, "INVALID_ARGUMENT")],
)
async def test_an_api_key_is_required(gemini_url: str, headers: dict[str, str], code: int, status: str) -> None:
    async with httpx2.AsyncClient(base_url=gemini_url) as client:
        response = await client.get("/v1beta/models", headers=headers)

    assert (response.status_code, response.json()["error"]["status"]) == (code, status)


@pytest.mark.parametrize(
    "body",
    [
        [],
        {},
        {"contents": "x"},
        {"contents": {"parts": "x"}},
        {"contents": [{"parts": ["x"]}]},
        {"contents": [{"parts": [{"inlineData": "x"}]}]},
        {"contents": [{"parts": [{"text": "x"}]}], "tools": {"googleSearch": 1}},
        {"contents": [{"parts": [{"text": "x"}]}], "generationConfig": {"thinkingConfig": {"thinkingLevel": 3}}},
    ],
)
async def test_invalid_bodies_are_google_s_400(gemini_url: str, body: Any) -> None:
    async with httpx2.AsyncClient(base_url=gemini_url) as client:
        response = await client.post("/v1beta/models/gemini-nano-banana-2.1:generateContent", json=body, headers=KEY)

    assert (response.status_code, response.json()["error"]["status"]) == (400, "INVALID_ARGUMENT")


async def test_models_are_listed_and_tokens_are_counted(official: genai.Client) -> None:
    models = [model.name async for model in await official.aio.models.list()]
    counted = await official.aio.models.count_tokens(model=PRO, contents="A cat on a mat")

    assert f"models/{PRO}" in models
    assert (counted.total_tokens or 0) > 0


async def test_faults_can_be_scripted_over_http(gemini: Emulator, gemini_url: str) -> None:
    body = {"contents": [{"parts": [{"text": "x"}]}]}
    url = f"/v1beta/models/{PRO}:generateContent"
    async with httpx2.AsyncClient(base_url=gemini_url) as client:
        await client.post("/emulator/faults", json={"status": 503, "times": 2})
        codes = [(await client.post(url, json=body, headers=KEY)).status_code for _ in range(3)]
        wrong = await client.post("/emulator/faults", json={"statsu": 503})
        calls = (await client.get("/emulator/calls")).json()

    assert codes == [503, 503, 200]
    assert wrong.status_code == 422
    assert len(calls) == 3


@pytest.mark.parametrize(
    ("headers", "served"),
    [
        ({}, True),
        ({"Host": "localhost:9000"}, True),
        ({"Origin": "http://localhost:5173", "Sec-Fetch-Site": "same-site"}, True),
        ({"Origin": "https://evil.example", "Content-Type": "text/plain"}, False),
        ({"Origin": "https://127.0.0.1.evil.example"}, False),
        ({"Origin": "null"}, False),
        ({"Host": "evil.example:9000"}, False),
        ({"Host": "evil.example:9000", "Origin": "http://evil.example:9000", "Sec-Fetch-Site": "same-origin"}, False),
        ({"Sec-Fetch-Site": "cross-site"}, False),
    ],
)
async def test_web_pages_of_other_sites_cannot_script_faults(
    gemini: Emulator, gemini_url: str, headers: dict[str, str], served: bool
) -> None:
    async with httpx2.AsyncClient(base_url=gemini_url, headers=headers) as client:
        answers = [
            await client.post("/emulator/faults", content='{"status": 503}'),
            await client.get("/emulator/calls"),
            await client.delete("/emulator/calls"),
        ]

    assert [one.status_code for one in answers] == ([201, 200, 204] if served else [403, 403, 403])
    assert len(gemini.faults) == served


async def test_equal_prompts_give_equal_images(official: genai.Client) -> None:
    images = [
        image_of(await official.aio.models.generate_content(model=PRO, contents=prompt, config=config())).tobytes()
        for prompt in ("A cat", "A cat", "A dog")
    ]

    assert images[0] == images[1] != images[2]


async def test_answers_are_compressed_if_the_client_accepts_it(gemini_url: str) -> None:
    body = {"contents": [{"parts": [{"text": "x"}]}]}
    url = f"/v1beta/models/{PRO}:generateContent"
    async with httpx2.AsyncClient(base_url=gemini_url) as client:
        packed = await client.post(url, json=body, headers=KEY | {"Accept-Encoding": "gzip"})
        plain = await client.post(url, json=body, headers=KEY | {"Accept-Encoding": "identity"})

    assert packed.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers


async def test_a_recording_is_replayed_for_its_prompt(tmp_path: Path) -> None:
    body = {"candidates": [{"finishReason": "STOP"}]}
    request = {"path": "/", "body": {"contents": [{"parts": [{"text": "Tell me"}]}]}}
    response = {"status": 200, "headers": {"server-timing": "gfet4t7; dur=6038"}, "body": body}
    (tmp_path / "one.json").write_text(json.dumps({"request": request, "response": response}))
    async with served(Emulator(recordings_dir=tmp_path)) as url, httpx2.AsyncClient(base_url=url) as client:
        replayed = await client.post(f"/v1beta/models/{PRO}:generateContent", json=request["body"], headers=KEY)

    assert replayed.json() == body
    assert replayed.headers["server-timing"] == "gfet4t7; dur=6038"


@pytest.mark.parametrize("reset", ["before_headers", "in_body"])
async def test_a_fault_can_reset_the_connection(gemini: Emulator, gemini_url: str, reset: Any) -> None:
    gemini.faults.append(Fault(reset=reset))
    body = {"contents": [{"parts": [{"text": "x"}]}]}
    async with httpx2.AsyncClient(base_url=gemini_url) as client:
        with pytest.raises(httpx2.TransportError):
            await client.post(f"/v1beta/models/{PRO}:generateContent", json=body, headers=KEY)


def test_characters_without_a_glyph_are_counted_not_drawn() -> None:
    """
    The emulator's font has only Latin characters. The image says how many characters are missing.
    """
    drawn = drawable_text("Say 明天会更好, please", ImageFont.load_default(20))

    assert drawn == "Say , please [5 characters that this font does not have]"
