"""No image stays in memory after a conversion that succeeds, fails or is cancelled."""

import asyncio
from collections.abc import Callable

import httpx2
import pytest

from app.emulator import Emulator, Fault
from tests.conftest import wait_for_calls
from tests.test_image_transport import left
from tests.test_openai_errors import ASK, GENERATIONS
from tests.test_output_formats import gradient, grain, will_draw

__all__ = ["left"]

CUT_OFF = gradient()[:2000]


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
@pytest.mark.parametrize("file", [gradient(), CUT_OFF], ids=["good", "cut off"])
async def test_no_image_stays_in_memory_after_a_conversion(
    client: httpx2.AsyncClient, gemini: Emulator, left: Callable[[], list[str]], accept: str, file: bytes
) -> None:
    will_draw(gemini, file)
    body = {"prompt": "x", "outputFormat": "png", "includeDrafts": True}

    await client.post("/generate-image", json=body, headers={"Accept": accept})
    await asyncio.sleep(0.05)

    assert left() == []


@pytest.mark.parametrize("accept", [pytest.param("application/json", marks=pytest.mark.slow), "text/event-stream"])
async def test_no_image_stays_in_memory_if_the_caller_leaves_during_a_conversion(
    client: httpx2.AsyncClient, gemini: Emulator, left: Callable[[], list[str]], accept: str
) -> None:
    will_draw(gemini, grain(4096))
    body = {"prompt": "x", "outputFormat": "webp"}
    asking = asyncio.create_task(client.post("/generate-image", json=body, headers={"Accept": accept}))
    await wait_for_calls(gemini)
    await asyncio.sleep(0.6)

    asking.cancel()
    async with asyncio.timeout(20):  # the conversion's thread has a low priority
        while left():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("failures", [1, 3])
async def test_no_image_stays_in_memory_after_several_of_which_some_fail(
    client: httpx2.AsyncClient, gemini: Emulator, left: Callable[[], list[str]], failures: int, stream: bool
) -> None:
    gemini.faults.append(Fault(finish_reason="IMAGE_SAFETY", times=failures))
    body = ASK | {"n": 3, "stream": stream, "output_format": "png", "partial_images": int(stream)}

    await client.post(GENERATIONS, json=body)
    await asyncio.sleep(0.05)

    assert left() == []


async def test_each_failure_of_several_images_is_logged(
    client: httpx2.AsyncClient, gemini: Emulator, caplog: pytest.LogCaptureFixture
) -> None:
    gemini.faults.append(Fault(finish_reason="IMAGE_SAFETY", times=2))

    with caplog.at_level("INFO", logger="app.api.http.problems"):
        await client.post(GENERATIONS, json=ASK | {"n": 3})
        gemini.faults.append(Fault(finish_reason="IMAGE_SAFETY", times=2))
        await client.post(GENERATIONS, json=ASK | {"n": 2})

    assert [record.message for record in caplog.records].count("problem content_blocked") == 4
