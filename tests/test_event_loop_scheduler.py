"""CPU work of many simultaneous requests is spread over iterations of the event loop."""

import asyncio
import base64
import time

import httpx2
import pytest

from app.emulator import Emulator
from app.emulator.faults import Fault
from app.lib.event_loop_scheduler import WORK_PER_ITERATION, FairScheduler
from tests.conftest import image_of
from tests.test_image_transport import JPEG


async def _iterations(order: list[int], scheduler: FairScheduler, number: int, work: int) -> None:
    await scheduler.slot(work)
    order.append(number)


async def test_work_per_iteration_is_limited_and_tasks_run_in_fifo_order() -> None:
    scheduler, order = FairScheduler(), []  # type: ignore[var-annotated]
    tasks = [asyncio.create_task(_iterations(order, scheduler, number, 1)) for number in range(20)]

    done = []
    while len(order) < 20:
        await asyncio.sleep(0)
        done.append(len(order))

    assert order == list(range(20))
    assert max(now - before for before, now in zip([0, *done], done, strict=False)) <= WORK_PER_ITERATION
    await asyncio.gather(*tasks)


async def test_a_cancelled_task_does_not_block_the_queue() -> None:
    scheduler, order = FairScheduler(), []  # type: ignore[var-annotated]
    tasks = [asyncio.create_task(_iterations(order, scheduler, number, WORK_PER_ITERATION)) for number in range(6)]
    await asyncio.sleep(0)

    for number in (1, 2, 4):
        tasks[number].cancel()
    await asyncio.wait(tasks, timeout=1)

    assert order == [0, 3, 5]


@pytest.mark.parametrize("count", [12, pytest.param(30, marks=pytest.mark.slow)])
async def test_simultaneous_images_are_unchanged_and_the_health_check_responds(
    client: httpx2.AsyncClient, gemini: Emulator, count: int
) -> None:
    """
    Each caller gets the exact bytes of its image, and the health check responds in the meantime.
    """
    gemini.faults.append(Fault(times=count, image_base64=base64.b64encode(JPEG).decode()))
    answered = []

    async def ask() -> bytes:
        return image_of(await client.post("/generate-image", json={"prompt": "A lighthouse"}))

    async def look() -> None:
        while True:
            assert (await client.get("/healthz")).status_code == 200
            answered.append(time.monotonic())
            await asyncio.sleep(0.002)

    looking = asyncio.create_task(look())
    images = await asyncio.gather(*(ask() for _ in range(count)))
    looking.cancel()

    assert images == [JPEG] * count
    assert len(answered) > 4


@pytest.mark.parametrize(
    "leave_after", [pytest.param(0.0, marks=pytest.mark.slow), 0.05, pytest.param(0.2, marks=pytest.mark.slow)]
)
async def test_callers_that_disconnect_do_not_affect_other_callers(
    client: httpx2.AsyncClient, gemini: Emulator, leave_after: float
) -> None:
    gemini.faults.append(Fault(times=12, image_base64=base64.b64encode(JPEG).decode()))
    asking = [asyncio.create_task(client.post("/generate-image", json={"prompt": "A lighthouse"})) for _ in range(12)]

    await asyncio.sleep(leave_after)
    for task in asking[::2]:
        task.cancel()
    done = await asyncio.gather(*asking, return_exceptions=True)

    assert all(isinstance(one, httpx2.Response) and image_of(one) == JPEG for one in done[1::2])
