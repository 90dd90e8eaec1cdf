"""OpenAI's libraries for Python, sync and async, and for Node, unmodified, against the real service."""

import base64
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.emulator import Emulator, Fault
from tests.clients.images import images_of, opened, sent_images
from tests.clients.libraries import Call, Library, async_python, in_node, sync_python
from tests.clients.outcome import Outcome
from tests.conftest import Serve, noise_jpeg

pytestmark = pytest.mark.clients

PROMPT = {"prompt": "A lighthouse in a storm"}
MODEL = "gemini-3-pro-image"
QUOTA = Fault(status=429, message="You exceeded your current quota", details=[{"retryDelay": "1s"}])


@pytest.fixture(params=["python", "python-async", "node"])
def library(request: pytest.FixtureRequest) -> Library:
    if request.param == "node":
        return in_node(request.getfixturevalue("node_clients"))
    return sync_python if request.param == "python" else async_python


async def generate(library: Library, client: httpx2.AsyncClient, **body: Any) -> Outcome:
    """Ask for an image without retries of the library."""
    return await library(str(client.base_url), Call("images.generate", PROMPT | body, retries=0))


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


async def test_a_failure_in_a_stream_is_an_api_error(
    library: Library, client: httpx2.AsyncClient, gemini: Emulator
) -> None:
    gemini.faults.append(Fault(finish_reason="IMAGE_SAFETY"))

    error = (await generate(library, client, stream=True)).error

    assert error is not None
    assert (error["name"], error["code"]) == ("APIError", "moderation_blocked")
    assert "IMAGE_SAFETY" in error["message"]
    assert len(gemini.calls) == 1


@pytest.mark.parametrize("fault", [Fault(finish_reason="IMAGE_SAFETY"), Fault(block_reason="PROHIBITED_CONTENT")])
async def test_a_refusal_is_a_bad_request_with_gemini_s_reason(
    library: Library, client: httpx2.AsyncClient, gemini: Emulator, fault: Fault
) -> None:
    gemini.faults.append(fault)

    outcome = await library(str(client.base_url), Call("images.generate", PROMPT))

    error = outcome.failed("BadRequestError", 400)
    assert (error["code"], error["type"]) == ("moderation_blocked", "image_generation_user_error")
    assert (fault.finish_reason or fault.block_reason or "") in error["message"]
    assert len(gemini.calls) == 1


async def test_words_without_an_image_are_a_bad_request(
    library: Library, client: httpx2.AsyncClient, gemini: Emulator
) -> None:
    gemini.faults.append(Fault(shape="text_only", text="I would rather not."))

    error = (await generate(library, client)).failed("BadRequestError", 400)

    assert error["code"] == "no_image"
    assert "I would rather not." in error["message"]


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"aspect_ration": "16:9"}, "aspect_ration", "unknown_parameter"),
        ({"n": 11}, "n", "invalid_value"),
        ({"size": "huge"}, "size", "invalid_value"),
        ({"background": "transparent"}, "background", "invalid_value"),
        ({"response_format": "url"}, "response_format", "invalid_value"),
        ({"output_format": "png", "output_compression": 50}, "output_compression", "invalid_value"),
        ({"size": "1024x1024", "aspect_ratio": "16:9"}, "aspect_ratio", "invalid_value"),
    ],
)
async def test_a_parameter_that_cannot_be_honoured_is_named(
    library: Library, client: httpx2.AsyncClient, gemini: Emulator, body: dict[str, Any], param: str, code: str
) -> None:
    error = (await generate(library, client, **body)).failed("BadRequestError", 400)

    assert (error["param"], error["code"], error["type"]) == (param, code, "invalid_request_error")
    assert not gemini.calls


async def test_a_wrong_key_is_an_authentication_error(library: Library, serve: Serve) -> None:
    async with serve(service_api_keys="web:a-secret-of-16-bytes") as service:
        wrong = await library(str(service.base_url), Call("images.generate", PROMPT, key="wrong"))
        right = await library(str(service.base_url), Call("images.generate", PROMPT, key="a-secret-of-16-bytes"))

    assert wrong.failed("AuthenticationError", 401)["code"] == "invalid_api_key"
    assert right.succeeded()["data"]


async def test_what_gemini_does_not_have_is_a_not_found_error(library: Library, client: httpx2.AsyncClient) -> None:
    chat = Call("chat.completions.create", {"model": "gpt-5", "messages": [{"role": "user", "content": "Hello"}]})

    error = (await library(str(client.base_url), chat)).failed("NotFoundError", 404)

    assert error["code"] == "unknown_url"


async def test_models_are_listed_and_retrieved(library: Library, client: httpx2.AsyncClient) -> None:
    url = str(client.base_url)

    listed = (await library(url, Call("models.list"))).succeeded()["data"]
    one = (await library(url, Call("models.retrieve", {"model": MODEL}))).succeeded()
    missing = await library(url, Call("models.retrieve", {"model": "no-such-model"}))

    assert MODEL in [model["id"] for model in listed]
    assert all(model["object"] == "model" and model["owned_by"] and model["created"] > 0 for model in listed)
    assert one["id"] == MODEL
    assert missing.failed("NotFoundError", 404)["code"] == "model_not_found"


async def test_responses_and_errors_have_the_request_id(library: Library, client: httpx2.AsyncClient) -> None:
    url = str(client.base_url)

    answer = (await library(url, Call("images.generate", PROMPT, with_headers=True))).succeeded()
    mine = Call("images.generate", PROMPT | {"n": 0}, headers={"X-Request-Id": "req-of-mine"}, retries=0)
    error = (await library(url, mine)).failed("BadRequestError", 400)

    assert answer["headers"]["x-request-id"]
    assert answer["headers"]["x-model"] == MODEL
    assert float(answer["headers"]["x-cost-usd"]) > 0
    assert error["request_id"] == "req-of-mine"


async def test_an_exhausted_quota_is_a_rate_limit_error_that_says_when_to_come_back(
    library: Library, serve: Serve, gemini: Emulator
) -> None:
    gemini.faults.append(
        Fault(status=429, message="You exceeded your current quota", details=[{"retryDelay": "34s"}], times=9)
    )
    async with serve(upstream_attempts=1) as service:
        error = (await generate(library, service)).failed("RateLimitError", 429)

    assert error["code"] == "rate_limit_exceeded"
    assert error["headers"]["retry-after"] == "34"


async def test_the_library_retries_after_the_time_that_the_service_names(
    library: Library, serve: Serve, gemini: Emulator
) -> None:
    gemini.faults.append(QUOTA)
    async with serve(upstream_attempts=1) as service:
        began = time.monotonic()
        outcome = await library(str(service.base_url), Call("images.generate", PROMPT))

    assert outcome.succeeded()["data"]
    assert time.monotonic() - began >= 1
    assert len(gemini.calls) == 2


async def test_used_up_credit_is_not_retried(library: Library, client: httpx2.AsyncClient, gemini: Emulator) -> None:
    message = "Your prepayment credits are depleted. Please go to AI Studio to manage your project and billing."
    gemini.faults.append(Fault(status=429, message=message, times=9))

    outcome = await library(str(client.base_url), Call("images.generate", PROMPT))

    error = outcome.failed("RateLimitError", 429)
    assert error["code"] == "insufficient_quota"
    assert error["headers"]["x-should-retry"] == "false"
    assert len(gemini.calls) == 1


async def test_gemini_out_of_capacity_is_an_internal_server_error_with_its_code(
    library: Library, serve: Serve, gemini: Emulator
) -> None:
    gemini.faults.append(Fault(status=503, message="The model is overloaded. Please try again later.", times=9))
    async with serve(upstream_attempts=1) as service:
        error = (await generate(library, service)).failed("InternalServerError", 503)

    assert error["code"] == "upstream_busy"
    assert int(error["headers"]["retry-after"]) > 0


@pytest.mark.parametrize(
    "fault", [Fault(status=504), Fault(truncate=True), Fault(reset="in_body")], ids=["504", "truncated", "reset"]
)
async def test_what_may_have_been_paid_is_not_asked_again_by_the_library(
    library: Library, serve: Serve, gemini: Emulator, fault: Fault
) -> None:
    """
    The library has its default retries. The status is none that it repeats.
    """
    gemini.faults.extend([fault] * 9)
    async with serve(upstream_attempts=1) as service:
        outcome = await library(str(service.base_url), Call("images.generate", PROMPT))

    assert outcome.error is not None
    assert outcome.error["status"] == 424
    assert outcome.error["headers"]["x-should-retry"] == "false"
    assert len(gemini.calls) == 1
