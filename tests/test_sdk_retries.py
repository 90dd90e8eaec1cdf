"""OpenAI's clients repeat a request without a key. The service recognises the retry by its count."""

import asyncio
import base64
import re
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from app.emulator import Emulator, Fault
from tests.conftest import Serve, image_file, noise_jpeg, wait_for_calls
from tests.held_storage import until
from tests.test_idempotency import answer, image_in, is_replay

PICTURE = image_file()


@pytest.fixture
def client(client_of_either: httpx2.AsyncClient) -> httpx2.AsyncClient:
    return client_of_either


@pytest.fixture
def prompt() -> str:
    """A prompt that no other test uses."""
    return f"A lighthouse {uuid4().hex}"


async def attempt(
    client: httpx2.AsyncClient, prompt: str, count: int, *, headers: dict[str, str] | None = None
) -> httpx2.Response:
    """Send a request as OpenAI's client does after `count` earlier ones."""
    return await client.post(
        "/v1/images/generations",
        json={"prompt": prompt, "size": "1024x1024"},
        headers={"x-stainless-retry-count": str(count), **(headers or {})},
    )


async def edit(client: httpx2.AsyncClient, prompt: str, count: int) -> httpx2.Response:
    """Send a form as OpenAI's client does. Its boundary is new each time."""
    return await client.post(
        "/v1/images/edits",
        data={"prompt": prompt, "size": "1024x1024"},
        files=[("image", (f"{uuid4().hex}.png", PICTURE, "image/png"))],
        headers={"x-stainless-retry-count": str(count)},
    )


def image(response: httpx2.Response) -> bytes:
    assert response.is_success, response.text[:500]
    return base64.b64decode(response.json()["data"][0]["b64_json"], validate=True)


async def leave(task: "asyncio.Task[httpx2.Response]") -> None:
    """Let a client disconnect, and the service notice it."""
    task.cancel()
    await asyncio.sleep(0.3)


@pytest.mark.parametrize("send", [attempt, edit])
async def test_a_retry_gets_the_image_of_the_request_that_timed_out(
    client: httpx2.AsyncClient, gemini: Emulator, prompt: str, send: Any
) -> None:
    gemini.faults.append(Fault(delay_seconds=1))
    first = asyncio.create_task(send(client, prompt, 0))
    await wait_for_calls(gemini)
    await leave(first)
    second = asyncio.create_task(send(client, prompt, 1))
    await asyncio.sleep(0.2)
    await leave(second)

    third = await send(client, prompt, 2)

    assert image(third)
    assert len(gemini.calls) == 1


async def test_a_retry_gets_an_image_that_was_ready_before_it(
    client: httpx2.AsyncClient, gemini: Emulator, prompt: str
) -> None:
    gemini.faults.append(Fault(delay_seconds=0.3))
    first = asyncio.create_task(attempt(client, prompt, 0))
    await wait_for_calls(gemini)
    await leave(first)
    await asyncio.sleep(0.7)

    second = await attempt(client, prompt, 1)

    assert image(second)
    assert is_replay(second)
    assert len(gemini.calls) == 1


async def test_a_second_click_buys_a_second_image(client: httpx2.AsyncClient, gemini: Emulator, prompt: str) -> None:
    """
    Requests with count 0 never take over anything.
    """
    responses = [await attempt(client, prompt, 0) for _ in range(2)]
    responses += await asyncio.gather(*(attempt(client, prompt, 0) for _ in range(3)))

    assert all(map(image, responses))
    assert not any(map(is_replay, responses))
    assert len(gemini.calls) == 5


async def test_a_request_without_a_count_takes_over_nothing(
    client: httpx2.AsyncClient, gemini: Emulator, prompt: str
) -> None:
    first = asyncio.create_task(attempt(client, prompt, 0))
    await wait_for_calls(gemini)
    await leave(first)

    second = await client.post("/v1/images/generations", json={"prompt": prompt, "size": "1024x1024"})

    assert image(second)
    assert len(gemini.calls) == 2


async def test_each_retry_takes_over_one_generation(client: httpx2.AsyncClient, gemini: Emulator, prompt: str) -> None:
    """
    Two clients send the same request, and both time out. Each retry gets an image of its own.
    """
    pictures = [base64.b64encode(image_file("JPEG", colour=colour)).decode() for colour in ("red", "blue")]
    gemini.faults.extend(Fault(image_base64=picture, delay_seconds=0.6) for picture in pictures)
    first = [asyncio.create_task(attempt(client, prompt, 0)) for _ in range(2)]
    await wait_for_calls(gemini, 2)
    for one in first:
        one.cancel()
    await asyncio.sleep(0.2)

    responses = await asyncio.gather(*(attempt(client, prompt, 1) for _ in range(2)))

    assert len({image(response) for response in responses}) == 2
    assert len(gemini.calls) == 2


async def test_a_retry_prefers_a_generation_whose_caller_has_left(
    client: httpx2.AsyncClient, gemini: Emulator, prompt: str
) -> None:
    pictures = [base64.b64encode(image_file("JPEG", colour=colour)).decode() for colour in ("red", "blue")]
    gemini.faults.extend(Fault(image_base64=picture, delay_seconds=1) for picture in pictures)
    staying = asyncio.create_task(attempt(client, prompt, 0))
    await wait_for_calls(gemini, 1)
    leaving = asyncio.create_task(attempt(client, prompt, 0))
    await wait_for_calls(gemini, 2)
    await leave(leaving)

    retried = await attempt(client, prompt, 1)

    assert image(await staying) != image(retried)
    assert len(gemini.calls) == 2


async def test_forty_identical_requests_of_which_half_are_cut_off_get_forty_images(
    client: httpx2.AsyncClient, gemini: Emulator, prompt: str
) -> None:
    pictures = [base64.b64encode(noise_jpeg(number, 100)).decode() for number in range(41)]
    gemini.faults.extend(Fault(image_base64=picture) for picture in pictures)
    gemini.hold()
    first = [asyncio.create_task(attempt(client, prompt, 0)) for _ in range(40)]
    await until(lambda: len(gemini.faults) == 1)
    for leaving in first[::2]:
        leaving.cancel()
    await asyncio.sleep(0.3)
    retries = [asyncio.create_task(attempt(client, prompt, 1)) for _ in range(20)]
    await asyncio.sleep(0.3)
    gemini.release()

    responses = await asyncio.gather(*first[1::2], *retries)

    assert len({image(response) for response in responses}) == 40
    assert len(gemini.faults) == 1  # there was no forty-first call


async def test_a_retry_of_a_request_that_failed_for_free_asks_again(
    client: httpx2.AsyncClient, gemini: Emulator, prompt: str
) -> None:
    gemini.faults.append(Fault(times=100, status=503))
    first = await attempt(client, prompt, 0)
    gemini.clear()

    second = await attempt(client, prompt, 1)

    assert first.status_code == 503
    assert image(second)
    assert not is_replay(second)
    assert len(gemini.calls) == 1


async def test_a_retry_without_a_predecessor_is_a_new_request(
    client: httpx2.AsyncClient, gemini: Emulator, prompt: str
) -> None:
    """
    Its predecessor did not reach the service. The next retry takes it over.
    """
    gemini.faults.append(Fault(delay_seconds=0.5))
    second = asyncio.create_task(attempt(client, prompt, 1))
    await wait_for_calls(gemini)
    await leave(second)

    third = await attempt(client, prompt, 2)

    assert image(third)
    assert len(gemini.calls) == 1


async def test_a_retry_of_another_request_takes_over_nothing(
    client: httpx2.AsyncClient, gemini: Emulator, prompt: str
) -> None:
    first = asyncio.create_task(attempt(client, prompt, 0))
    await wait_for_calls(gemini)
    await leave(first)

    other = await attempt(client, f"{prompt} at night", 1)

    assert image(other)
    assert not is_replay(other)
    assert len(gemini.calls) == 2


async def test_a_retry_of_another_caller_takes_over_nothing(
    serve: Serve, gemini: Emulator, tmp_path: Path, prompt: str
) -> None:
    async with serve(service_api_keys="anna:secret-of-anna,ben:secret-of-ben", data_dir=tmp_path) as client:
        anna = asyncio.create_task(attempt(client, prompt, 0, headers={"Authorization": "Bearer secret-of-anna"}))
        await wait_for_calls(gemini)
        await leave(anna)
        ben = await attempt(client, prompt, 1, headers={"Authorization": "Bearer secret-of-ben"})

    assert image(ben)
    assert not is_replay(ben)
    assert len(gemini.calls) == 2


async def test_a_key_counts_more_than_a_retry_count(client: httpx2.AsyncClient, gemini: Emulator, prompt: str) -> None:
    key = uuid4().hex

    first, second = [await attempt(client, prompt, count, headers={"Idempotency-Key": key}) for count in (0, 0)]
    third = await attempt(client, prompt, 1, headers={"Idempotency-Key": uuid4().hex})

    assert answer(first) == answer(second)
    assert image(third)
    assert len(gemini.calls) == 2


@pytest.mark.parametrize("count", ["", "-1", "one", "1.5", "9" * 30])
async def test_a_strange_count_is_ignored(
    client: httpx2.AsyncClient, gemini: Emulator, prompt: str, count: str
) -> None:
    body = {"prompt": prompt, "size": "1024x1024"}

    response = await client.post("/v1/images/generations", json=body, headers={"x-stainless-retry-count": count})

    assert image(response)


async def test_the_native_route_recognises_retries_too(
    client: httpx2.AsyncClient, gemini: Emulator, prompt: str
) -> None:
    async def send(count: int) -> httpx2.Response:
        headers = {"x-stainless-retry-count": str(count)}
        return await client.post("/generate-image", json={"prompt": prompt, "imageSize": "1K"}, headers=headers)

    gemini.faults.append(Fault(delay_seconds=0.6))
    first = asyncio.create_task(send(0))
    await wait_for_calls(gemini)
    await leave(first)

    assert image_in(await send(1))
    assert len(gemini.calls) == 1


async def test_metrics_count_requests_that_were_taken_over(
    client: httpx2.AsyncClient, gemini: Emulator, prompt: str
) -> None:
    async def count() -> float:
        text = (await client.get("/metrics")).text
        found = re.search(r'^gemini_images_replays_total\{\w+="retry_count"\} (\S+)$', text, re.MULTILINE)
        return float(found[1]) if found else 0

    before = await count()
    first = asyncio.create_task(attempt(client, prompt, 0))
    await wait_for_calls(gemini)
    await leave(first)
    await attempt(client, prompt, 1)

    assert await count() == before + 1
