"""OpenAI's libraries for Python, sync and async, and for Node, unmodified, against the real service."""

import base64
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.emulator import Emulator, Fault
from tests.clients.images import images_of, opened, sent_images
from tests.clients.libraries import PROMPT, Call, Library, generate
from tests.conftest import noise_jpeg

pytestmark = pytest.mark.clients

MODEL = "gemini-3-pro-image"


async def test_a_prompt_becomes_an_image(library: Library, client: httpx2.AsyncClient, gemini: Emulator) -> None:
    answer = (await generate(library, client, model="gpt-image-2")).succeeded()

    [image] = images_of(answer)
    assert image.format == "JPEG"
    assert answer["output_format"] == "jpeg"
    assert answer["size"] == f"{image.width}x{image.height}"
    assert answer["model"] == MODEL
    assert answer["created"] == pytest.approx(time.time(), abs=60)
    assert gemini.calls[0].model == MODEL


async def test_usage_has_the_members_that_the_libraries_promise(library: Library, client: httpx2.AsyncClient) -> None:
    usage = (await generate(library, client)).succeeded()["usage"]

    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert set(usage["input_tokens_details"]) >= {"text_tokens", "image_tokens"}
    assert set(usage["output_tokens_details"]) >= {"text_tokens", "image_tokens"}
    assert usage["estimated_cost_usd"] > 0


async def test_n_images_are_n_calls(library: Library, client: httpx2.AsyncClient, gemini: Emulator) -> None:
    one = (await generate(library, client)).succeeded()["usage"]
    gemini.clear()

    answer = (await generate(library, client, n=3)).succeeded()

    assert len(images_of(answer)) == 3
    assert len(gemini.calls) == 3
    assert answer["usage"]["output_tokens"] == pytest.approx(3 * one["output_tokens"], rel=0.01)


@pytest.mark.parametrize(
    ("size", "pixels"), [("1024x1024", (1024, 1024)), ("1536x1024", (1264, 848)), ("512x512", (1024, 1024))]
)
async def test_size_chooses_ratio_and_image_size(
    library: Library, client: httpx2.AsyncClient, size: str, pixels: tuple[int, int]
) -> None:
    """
    The answer says how many pixels the image really has.
    """
    answer = (await generate(library, client, size=size)).succeeded()

    assert images_of(answer)[0].size == pixels
    assert answer["size"] == f"{pixels[0]}x{pixels[1]}"


@pytest.mark.parametrize("format_", ["png", "webp", "jpeg"])
async def test_output_format_is_the_format_of_the_image(
    library: Library, client: httpx2.AsyncClient, format_: str
) -> None:
    answer = (await generate(library, client, output_format=format_, size="1024x1024")).succeeded()

    assert images_of(answer)[0].format == format_.upper()
    assert answer["output_format"] == format_


async def test_parameters_of_gemini_are_taken_from_extra_body(
    library: Library, client: httpx2.AsyncClient, gemini: Emulator
) -> None:
    """
    In Node they are written beside the others.
    """
    answer = (await generate(library, client, aspect_ratio="16:9", image_size="1K", google_search=True)).succeeded()

    assert images_of(answer)[0].size == (1376, 768)
    assert answer["grounding"]
    assert gemini.calls[0].body["tools"]


async def test_parameters_that_change_nothing_are_accepted(library: Library, client: httpx2.AsyncClient) -> None:
    body = {"background": "auto", "quality": "auto", "moderation": "low", "user": "u1", "style": "vivid", "size": None}

    assert (await generate(library, client, **body)).succeeded()["data"]


@pytest.mark.parametrize("images_as", ["file", "bytes"])
@pytest.mark.parametrize("count", [1, 3])
async def test_edits_send_the_images_unchanged(
    library: Library, client: httpx2.AsyncClient, gemini: Emulator, pictures: list[Path], count: int, images_as: Any
) -> None:
    """
    Open files (Node: a stream in chunks, without a length) and bytes, alone and in a list.
    """
    call = Call("images.edit", PROMPT | {"model": "gpt-image-2"}, images=pictures[:count], images_as=images_as)

    answer = (await library(str(client.base_url), call)).succeeded()

    assert images_of(answer)
    assert sent_images(gemini.calls[0].body) == [path.read_bytes() for path in pictures[:count]]
    assert answer["usage"]["input_tokens_details"]["image_tokens"] > 0


async def test_an_edit_with_a_mask_is_refused_by_name(
    library: Library, client: httpx2.AsyncClient, gemini: Emulator, pictures: list[Path]
) -> None:
    call = Call("images.edit", PROMPT, images=pictures[:1], mask=pictures[0], retries=0)

    error = (await library(str(client.base_url), call)).failed("BadRequestError", 400)

    assert (error["param"], error["code"]) == ("mask", "unsupported_parameter")
    assert not gemini.calls


async def test_an_image_of_8_mb_arrives_byte_for_byte(
    library: Library, client: httpx2.AsyncClient, gemini: Emulator
) -> None:
    image = noise_jpeg(8, 8_000_000)
    gemini.faults.append(Fault(image_base64=base64.b64encode(image).decode()))

    answer = (await generate(library, client)).succeeded()

    assert base64.b64decode(answer["data"][0]["b64_json"]) == image


async def test_a_stream_ends_with_the_image(library: Library, client: httpx2.AsyncClient) -> None:
    """
    Heartbeats are no events, and there are no partial images that Gemini did not send.
    """
    [event] = (await generate(library, client, stream=True)).succeeded()

    assert event["type"] == "image_generation.completed"
    assert opened(event["b64_json"]).format == "JPEG"
    assert {"created_at", "size", "quality", "background", "output_format"} <= set(event)
    assert {"total_tokens", "input_tokens", "output_tokens", "input_tokens_details"} <= set(event["usage"])


async def test_partial_images_are_gemini_s_drafts(
    library: Library, client: httpx2.AsyncClient, gemini: Emulator
) -> None:
    gemini.faults.append(Fault(shape="unflagged_drafts"))

    *partial, completed = (await generate(library, client, stream=True, partial_images=2)).succeeded()

    assert [event["type"] for event in partial] == ["image_generation.partial_image"] * len(partial)
    assert [event["partial_image_index"] for event in partial] == list(range(len(partial)))
    assert all(opened(event["b64_json"]) for event in partial)
    assert 1 <= len(partial) <= 2
    assert completed["type"] == "image_generation.completed"


async def test_a_stream_of_n_images_has_n_completed_events(library: Library, client: httpx2.AsyncClient) -> None:
    events = (await generate(library, client, stream=True, n=2)).succeeded()

    assert [event["type"] for event in events] == ["image_generation.completed"] * 2


async def test_edits_can_be_streamed(library: Library, client: httpx2.AsyncClient, pictures: list[Path]) -> None:
    call = Call("images.edit", PROMPT | {"stream": True, "partial_images": 1}, images=pictures[:1])

    events = (await library(str(client.base_url), call)).succeeded()

    assert events[-1]["type"] == "image_edit.completed"
    assert {event["type"] for event in events[:-1]} <= {"image_edit.partial_image"}


async def test_models_are_listed_and_retrieved(library: Library, client: httpx2.AsyncClient) -> None:
    url = str(client.base_url)

    listed = (await library(url, Call("models.list"))).succeeded()["data"]
    one = (await library(url, Call("models.retrieve", {"model": MODEL}))).succeeded()
    missing = await library(url, Call("models.retrieve", {"model": "no-such-model"}))

    assert MODEL in [model["id"] for model in listed]
    assert all(model["object"] == "model" and model["owned_by"] and model["created"] > 0 for model in listed)
    assert one["id"] == MODEL
    assert missing.failed("NotFoundError", 404)["code"] == "model_not_found"
