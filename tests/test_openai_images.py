"""OpenAI's Images API: every parameter is honoured, or refused by name."""

import asyncio
import base64
import io
import json
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image

from app.api.openai.request import ImageOptions
from app.emulator import Emulator, Fault
from tests import openai_page
from tests.conftest import Serve, image_file, soon, wait_for_calls
from tests.test_openai_errors import ASK, EDITS, GENERATIONS, error

ROOT = Path(__file__).parent.parent

HONOURED: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("prompt", {"prompt": "x" * 32_001}, {}),
    ("prompt", {"prompt": ' "quoted"\\n\u2028 🐈 '}, {}),
    ("model", {"model": "nano-banana-2.1"}, {}),
    ("model", {"model": "gpt-image-1"}, {}),
    ("model", {"model": "chatgpt-image-latest"}, {}),
    ("model", {"model": "dall-e-3"}, {}),
    ("model", {"model": ""}, {}),
    ("n", {"n": 2}, {}),
    ("n", {"n": "2"}, {}),
    ("size", {"size": "auto"}, {"aspectRatio": "1:1", "imageSize": "2K"}),
    ("size", {"size": "1376x768"}, {"aspectRatio": "16:9", "imageSize": "1K"}),
    ("size", {"size": "2752x1536"}, {"aspectRatio": "16:9", "imageSize": "2K"}),
    ("size", {"size": "6336x2688"}, {"aspectRatio": "21:9", "imageSize": "4K"}),
    ("size", {"size": "256x256"}, {"aspectRatio": "1:1", "imageSize": "1K"}),
    ("size", {"size": "512x512"}, {"aspectRatio": "1:1", "imageSize": "1K"}),
    ("size", {"size": "1024x1024"}, {"aspectRatio": "1:1", "imageSize": "1K"}),
    ("size", {"size": "1536x1024"}, {"aspectRatio": "3:2", "imageSize": "1K"}),
    ("size", {"size": "1024x1536"}, {"aspectRatio": "2:3", "imageSize": "1K"}),
    ("size", {"size": "1792x1024"}, {"aspectRatio": "16:9", "imageSize": "1K"}),
    ("size", {"size": "1024x1792"}, {"aspectRatio": "9:16", "imageSize": "1K"}),
    ("size", {"size": "3840x2160"}, {"aspectRatio": "16:9", "imageSize": "2K"}),
    ("size", {"size": "2000x700", "model": "nano-banana-2.1"}, {"aspectRatio": "21:9"}),
    ("size", {"size": "4096x512", "model": "nano-banana-2.1"}, {"aspectRatio": "8:1"}),
    ("size", {"size": "2048x2048", "model": "nano-banana-2-lite"}, {"aspectRatio": "1:1"}),
    ("quality", {"quality": "low"}, {"imageSize": "1K"}),
    ("quality", {"quality": "medium"}, {"imageSize": "2K"}),
    ("quality", {"quality": "high"}, {"imageSize": "4K"}),
    ("quality", {"quality": "max"}, {"imageSize": "4K"}),
    ("quality", {"quality": "auto"}, {"imageSize": "2K"}),
    ("quality", {"quality": "standard"}, {"imageSize": "2K"}),
    ("quality", {"quality": "hd"}, {"imageSize": "2K"}),
    ("quality", {"quality": "high", "size": "1024x1024"}, {"imageSize": "1K"}),
    ("quality", {"quality": "low", "image_size": "4K"}, {"imageSize": "4K"}),
    ("output_format", {"output_format": "jpeg"}, {}),
    ("output_format", {"output_format": "png"}, {}),
    ("output_format", {"output_format": "webp"}, {}),
    ("output_compression", {"output_compression": 100}, {}),
    ("output_compression", {"output_compression": 100, "output_format": "png"}, {}),
    ("output_compression", {"output_compression": 0, "output_format": "webp"}, {}),
    ("background", {"background": "opaque"}, {}),
    ("background", {"background": "auto"}, {}),
    ("response_format", {"response_format": "b64_json"}, {}),
    ("stream", {"stream": False}, {}),
    ("partial_images", {"partial_images": 0}, {}),
    ("input_fidelity", {"input_fidelity": "high"}, {}),
    ("style", {"style": "vivid"}, {}),
    ("moderation", {"moderation": "low"}, {}),
    ("user", {"user": "someone"}, {}),
    ("safety_identifier", {"safety_identifier": "someone"}, {}),
    ("complexity", {"complexity": "high"}, {}),
    ("watermark", {"watermark": False}, {}),
    ("aspect_ratio", {"aspect_ratio": "16:9"}, {"aspectRatio": "16:9"}),
    ("aspect_ratio", {"aspect_ratio": "16:9", "size": "1792x1024"}, {"aspectRatio": "16:9"}),
    ("image_size", {"image_size": "4k"}, {"imageSize": "4K"}),
    ("seed", {"seed": 7}, {}),
    ("aspect_ratio", {"extra_body": {"aspect_ratio": "16:9"}}, {"aspectRatio": "16:9"}),
    ("fallback_model", {"fallback_model": "nano-banana-2.1"}, {}),
    ("thinking_level", {"thinking_level": "high", "model": "nano-banana-2.1"}, {}),
    ("system_instruction", {"system_instruction": "Draw in flat colours."}, {}),
    ("google_search", {"google_search": True}, {}),
    ("image_search", {"image_search": True, "model": "nano-banana-2.1"}, {}),
]
"""A parameter, a body, and what Gemini gets as `imageConfig`."""

REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("prompt", {"prompt": ""}, "invalid_value"),
    ("prompt", {"prompt": " "}, "invalid_value"),
    ("model", {"model": "a/b"}, "invalid_value"),
    ("n", {"n": 0}, "invalid_value"),
    ("n", {"n": 11}, "invalid_value"),
    ("n", {"n": "many"}, "invalid_value"),
    ("size", {"size": "large"}, "invalid_value"),
    ("size", {"size": "0x1024"}, "invalid_value"),
    ("size", {"size": "4096x512"}, "invalid_value"),
    ("quality", {"quality": "ultra"}, "invalid_value"),
    ("background", {"background": "transparent"}, "invalid_value"),
    ("response_format", {"response_format": "link"}, "invalid_value"),
    ("webhook_url", {"webhook_url": "https://example.com/hook"}, "invalid_value"),  # needs Prefer: respond-async
    ("stream", {"stream": 1}, "invalid_value"),
    ("partial_images", {"partial_images": 4, "stream": True}, "invalid_value"),
    ("partial_images", {"partial_images": 1}, "invalid_value"),
    ("mask", {"mask": {"image_url": "data:image/png;base64,AAAA"}}, "unsupported_parameter"),
    ("input_fidelity", {"input_fidelity": "medium"}, "invalid_value"),
    ("style", {"style": "loud"}, "invalid_value"),
    ("moderation", {"moderation": "high"}, "invalid_value"),
    ("user", {"user": 7}, "invalid_value"),
    ("safety_identifier", {"safety_identifier": 7}, "invalid_value"),
    ("complexity", {"complexity": "huge"}, "invalid_value"),
    ("watermark", {"watermark": "never"}, "invalid_value"),
    ("aspect_ratio", {"aspect_ratio": "16:9", "size": "1024x1024"}, "invalid_value"),
    ("aspect_ratio", {"aspect_ratio": "8:1"}, "invalid_value"),
    ("image_size", {"image_size": "4K", "size": "1024x1024"}, "invalid_value"),
    ("image_size", {"image_size": "8K"}, "invalid_value"),
    ("output_format", {"output_format": "gif"}, "invalid_value"),
    ("output_compression", {"output_compression": 101}, "invalid_value"),
    ("output_compression", {"output_compression": 50, "output_format": "png"}, "invalid_value"),
    ("seed", {"seed": 1.5}, "invalid_value"),
    ("fallback_model", {"fallback_model": "a/b"}, "invalid_value"),
    ("thinking_level", {"thinking_level": "deep"}, "invalid_value"),
    ("thinking_level", {"thinking_level": "xhigh", "model": "nano-banana-2.1"}, "invalid_value"),
    ("system_instruction", {"system_instruction": ""}, "invalid_value"),
    ("google_search", {"google_search": "perhaps"}, "invalid_value"),
    ("google_search", {"google_search": True, "model": "nano-banana"}, "invalid_value"),
    ("image_search", {"image_search": True}, "invalid_value"),
    ("logprobs", {"logprobs": 1}, "unknown_parameter"),
    ("logprobs", {"extra_body": {"logprobs": 1}}, "unknown_parameter"),
    ("extra_body", {"extra_body": "seed"}, "unknown_parameter"),
    ("images", {"images": ["https://example.com/cat.png"]}, "unknown_parameter"),
]


def drawn(item: dict[str, Any]) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(item["b64_json"], validate=True)))


def events(text: str) -> list[dict[str, Any]]:
    """Return the data of the events of a stream, whose names must agree with their types."""
    found = []
    for block in text.split("\n\n"):
        name, _, data = block.partition("\n")
        if name.startswith("event: "):
            found.append(json.loads(data.removeprefix("data: ")))
            assert found[-1]["type"] == name.removeprefix("event: ")
    return found


@pytest.mark.parametrize(("parameter", "body", "config"), HONOURED)
async def test_a_parameter_is_honoured(
    client: httpx2.AsyncClient, gemini: Emulator, parameter: str, body: dict[str, Any], config: dict[str, Any]
) -> None:
    response = await client.post(GENERATIONS, json=ASK | body)

    assert response.status_code == 200, response.text
    answer = response.json()
    assert len(answer["data"]) == int(body.get("n", 1))
    image = drawn(answer["data"][0])
    assert answer["size"] == f"{image.width}x{image.height}"
    assert answer["output_format"] == (image.format or "").lower() == body.get("output_format", "jpeg")
    sent = gemini.calls[0].body
    assert config.items() <= sent["generationConfig"].get("imageConfig", {}).items()
    assert sent["contents"][-1]["parts"][-1]["text"].endswith((ASK | body)["prompt"])


@pytest.mark.parametrize(("parameter", "body", "code"), REFUSED)
async def test_a_parameter_is_refused_by_name_before_anything_is_paid(
    client: httpx2.AsyncClient, gemini: Emulator, parameter: str, body: dict[str, Any], code: str
) -> None:
    response = await client.post(GENERATIONS, json=ASK | body)

    assert response.status_code == 400, response.text
    assert (error(response)["param"], error(response)["code"]) == (parameter, code)
    assert not gemini.calls


async def test_images_that_have_the_format_already_are_untouched(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    original = image_file("JPEG")
    gemini.faults.append(Fault(image_base64=base64.b64encode(original).decode(), times=9))

    untouched = [
        (await client.post(GENERATIONS, json=ASK | body)).json()["data"][0]["b64_json"]
        for body in ({}, {"output_format": "jpeg"}, {"output_format": "jpeg", "output_compression": 100})
    ]
    smaller = (await client.post(GENERATIONS, json=ASK | {"output_compression": 10})).json()

    assert [base64.b64decode(one) for one in untouched] == [original] * 3
    assert base64.b64decode(smaller["data"][0]["b64_json"]) != original
    assert any("C2PA" in warning for warning in smaller["warnings"])


async def test_every_parameter_may_be_null(client: httpx2.AsyncClient) -> None:
    response = await client.post(GENERATIONS, json=ASK | dict.fromkeys(ImageOptions.model_fields.keys() - {"prompt"}))

    assert response.status_code == 200


async def test_a_missing_prompt_is_named(client: httpx2.AsyncClient) -> None:
    response = await client.post(GENERATIONS, json={"model": "gpt-image-1"})

    assert (error(response)["param"], error(response)["code"]) == ("prompt", "missing_required_parameter")


async def test_the_response_names_the_model_its_cost_and_its_tokens(client: httpx2.AsyncClient) -> None:
    response = await client.post(GENERATIONS, json=ASK | {"model": "gpt-image-1"})

    answer = response.json()
    usage = answer["usage"]
    assert answer["model"] == response.headers["x-model"] == "gemini-3-pro-image"
    assert float(response.headers["x-cost-usd"]) == usage["estimated_cost_usd"] > 0.13
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert usage["output_tokens"] == sum(usage["output_tokens_details"].values())
    assert usage["input_tokens"] == sum(usage["input_tokens_details"].values())


async def test_a_setting_maps_names_of_models(serve: Serve, gemini: Emulator) -> None:
    aliases = '{"dall-e-*": "nano-banana-2.1", "gpt-image-1-mini": "nano-banana-2-lite"}'
    async with serve(openai_model_aliases=aliases) as client:
        models = [
            (await client.post(GENERATIONS, json=ASK | {"model": name})).json()["model"]
            for name in ("dall-e-3", "gpt-image-1-mini", "gpt-image-1")
        ]

    assert models == ["gemini-nano-banana-2.1", "gemini-3.1-flash-lite-image", "gemini-3-pro-image"]


async def test_several_images_are_several_calls_whose_tokens_are_summed(
    client: httpx2.AsyncClient, gemini: Emulator
) -> None:
    one = (await client.post(GENERATIONS, json=ASK)).json()
    response = await client.post(GENERATIONS, json=ASK | {"n": 4})

    answer = response.json()
    assert len(answer["data"]) == 4
    assert len(gemini.calls) == 5
    assert answer["usage"]["total_tokens"] == 4 * one["usage"]["total_tokens"]
    assert answer["usage"]["estimated_cost_usd"] == pytest.approx(4 * one["usage"]["estimated_cost_usd"])
    assert response.headers["x-upstream-attempts"] == "4"


async def test_images_that_fail_are_warnings_beside_the_others(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    gemini.faults.append(Fault(finish_reason="IMAGE_SAFETY"))

    answer = (await client.post(GENERATIONS, json=ASK | {"n": 3})).json()

    assert len(answer["data"]) == 2
    assert len([one for one in answer["warnings"] if "moderation_blocked" in one and "IMAGE_SAFETY" in one]) == 1


async def test_if_all_images_fail_the_response_is_the_error(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    gemini.faults.append(Fault(finish_reason="IMAGE_SAFETY", times=2))

    response = await client.post(GENERATIONS, json=ASK | {"n": 2})

    assert (response.status_code, error(response)["code"]) == (400, "moderation_blocked")
    assert response.headers["x-upstream-attempts"] == "2"


async def test_each_image_needs_a_slot_of_its_own(serve: Serve, gemini: Emulator) -> None:
    gemini.hold()
    async with serve(max_in_flight=2, max_queued=2) as client:
        request = asyncio.create_task(client.post(GENERATIONS, json=ASK | {"n": 4}))
        await wait_for_calls(gemini, 2)
        refused = await client.post(GENERATIONS, json=ASK | {"n": 2})
        running = len(gemini.calls)
        gemini.release()
        response = await request

    assert running == 2
    assert (refused.status_code, error(refused)["code"]) == (503, "overloaded")
    assert len(response.json()["data"]) == 4


async def test_a_search_returns_its_sources(client: httpx2.AsyncClient) -> None:
    answer = (await client.post(GENERATIONS, json=ASK | {"google_search": True})).json()

    assert answer["grounding"]["sources"][0]["uri"]


async def test_a_disconnect_cancels_all_images(serve: Serve, gemini: Emulator) -> None:
    gemini.hold()
    async with serve() as client:
        leaving = asyncio.create_task(client.post(GENERATIONS, json=ASK | {"n": 3}))
        await wait_for_calls(gemini, 3)
        leaving.cancel()
        assert await soon(client, "gemini_images_in_flight", 0, seconds=10)

    assert len(gemini.calls) == 3


# Edits


@pytest.mark.parametrize("field", ["image", "image[]", "image[0]"])
async def test_an_edit_takes_files_under_the_names_of_all_clients(
    client: httpx2.AsyncClient, gemini: Emulator, field: str
) -> None:
    files = [(field, ("upload", image_file("PNG"), "application/octet-stream"))] * 2

    response = await client.post(EDITS, data={"prompt": "Make it night", "n": "1"}, files=files)

    assert response.status_code == 200, response.text
    images = [part for part in gemini.calls[0].body["contents"][-1]["parts"] if "inlineData" in part]
    assert [part["inlineData"]["mimeType"] for part in images] == ["image/png"] * 2


async def test_an_edit_takes_json_with_data_urls(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    url = "data:image/png;base64," + base64.b64encode(image_file("PNG")).decode()

    response = await client.post(
        EDITS, json={"prompt": "Make it night", "images": [{"image_url": url}, {"image_url": {"url": url}}]}
    )

    assert response.status_code == 200, response.text
    assert len([part for part in gemini.calls[0].body["contents"][-1]["parts"] if "inlineData" in part]) == 2


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ({"image_url": "https://example.com/cat.png"}, "data URL"),
        ({"file_id": "file-123"}, "image_url"),
        ({}, "image_url"),
    ],
)
async def test_an_edit_says_what_to_send_instead_of_a_link(
    client: httpx2.AsyncClient, gemini: Emulator, image: dict[str, Any], words: str
) -> None:
    response = await client.post(EDITS, json={"prompt": "Make it night", "images": [image]})

    assert response.status_code == 400
    assert error(response)["param"].startswith("images[0]")
    assert words in error(response)["message"]
    assert not gemini.calls


async def test_an_edit_refuses_masks_other_files_and_too_many_images(
    client: httpx2.AsyncClient, gemini: Emulator
) -> None:
    image = ("image", ("a.png", image_file("PNG"), "image/png"))
    ask = {"prompt": "Make it night"}

    mask = await client.post(EDITS, data=ask, files=[image, ("mask", ("m.png", image_file("PNG"), "image/png"))])
    text = await client.post(EDITS, data=ask, files={"image": ("a.png", b"hello", "image/png")})
    many = await client.post(EDITS, data=ask, files=[image] * 15)
    none = await client.post(EDITS, files={"prompt": (None, "Make it night")})

    assert [(one.status_code, error(one)["param"], error(one)["code"]) for one in (mask, text, many, none)] == [
        (400, "mask", "unsupported_parameter"),
        (400, "image", "unsupported_image"),
        (400, "image", "invalid_value"),
        (400, "image", "missing_required_parameter"),
    ]
    assert not gemini.calls


# Streams


async def test_a_stream_has_one_completed_event_and_no_drafts_unless_asked_for(
    client: httpx2.AsyncClient, gemini: Emulator
) -> None:
    response = await client.post(GENERATIONS, json=ASK | {"stream": True}, headers={"Accept": "application/json"})

    (completed,) = events(response.text)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.text.startswith(": ")
    assert completed["type"] == "image_generation.completed"
    assert drawn(completed).size == tuple(map(int, completed["size"].split("x")))
    assert completed["usage"]["total_tokens"] > 0


async def test_a_stream_has_as_many_drafts_as_asked_for(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    body = ASK | {"stream": True, "partial_images": 1, "output_format": "png"}
    response = await client.post(GENERATIONS, json=body)

    partial, completed = events(response.text)
    assert (partial["type"], partial["partial_image_index"]) == ("image_generation.partial_image", 0)
    assert (drawn(partial).format, partial["output_format"]) == ("PNG", "png")
    assert (drawn(completed).format, completed["output_format"]) == ("PNG", "png")
    assert completed["type"] == "image_generation.completed"


async def test_an_edit_streams_events_of_its_own(client: httpx2.AsyncClient) -> None:
    response = await client.post(
        EDITS, data={"prompt": "Make it night", "stream": "true", "n": "2"}, files={"image": image_file("PNG")}
    )

    assert [event["type"] for event in events(response.text)] == ["image_edit.completed"] * 2


async def test_a_failure_in_a_stream_does_not_cost_the_other_images(
    client: httpx2.AsyncClient, gemini: Emulator
) -> None:
    gemini.faults.append(Fault(finish_reason="IMAGE_SAFETY"))

    response = await client.post(GENERATIONS, json=ASK | {"stream": True, "n": 3})

    assert [event["type"] for event in events(response.text)] == ["image_generation.completed"] * 2
    assert "IMAGE_SAFETY" in response.text


async def test_a_stream_sends_comments_while_gemini_draws(serve: Serve, gemini: Emulator) -> None:
    gemini.faults.append(Fault(delay_seconds=1))
    async with serve(heartbeat_seconds=0.1) as client:
        response = await client.post(GENERATIONS, json=ASK | {"stream": True})

    assert response.text.count("\n\n: ") >= 3


async def test_models_are_listed_in_openais_format(client: httpx2.AsyncClient) -> None:
    listed = (await client.get("/v1/models")).json()
    one = (await client.get("/v1/models/gpt-image-1")).json()

    assert listed["object"] == "list"
    assert {"gemini-3-pro-image", "gemini-nano-banana-2.1"} <= {model["id"] for model in listed["data"]}
    assert {"id", "object", "created", "owned_by"} == listed["data"][0].keys()
    assert one["id"] == "gpt-image-1"


def test_the_page_has_the_table_of_the_parameters() -> None:
    """
    `python -m tests.openai_page` writes it.
    """
    assert openai_page.PAGE.read_text() == openai_page.page()


def test_the_tables_of_tests_name_every_parameter() -> None:
    named = {parameter for parameter, *_ in HONOURED} & {parameter for parameter, *_ in REFUSED}

    assert ImageOptions.model_fields.keys() - named == {"mask", "webhook_url"}  # test_webhooks.py has the latter


async def test_a_link_in_place_of_base64_works_without_a_key(serve: Serve, gemini: Emulator) -> None:
    async with serve(service_api_keys="web:0123456789abcdef") as client:
        key = {"Authorization": "Bearer 0123456789abcdef"}
        made = await client.post(GENERATIONS, json=ASK | {"response_format": "url", "n": 2}, headers=key)
        files = [await client.get(item["url"]) for item in made.json()["data"]]

    assert [file.status_code for file in files] == [200, 200]
    assert all(file.content.startswith(b"\xff\xd8") for file in files)
    assert len(gemini.calls) == 2
