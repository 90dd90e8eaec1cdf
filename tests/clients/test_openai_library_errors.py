"""What OpenAI's libraries make of failures: exceptions with code and parameter, and retries that never pay twice."""

import time
from typing import Any

import httpx2
import pytest

from app.emulator import Emulator, Fault
from tests.clients.libraries import PROMPT, Call, Library, generate
from tests.conftest import Serve

pytestmark = pytest.mark.clients

MODEL = "gemini-3-pro-image"
QUOTA = Fault(status=429, message="You exceeded your current quota", details=[{"retryDelay": "1s"}])


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
        ({"response_format": "link"}, "response_format", "invalid_value"),
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
