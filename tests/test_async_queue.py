"""A long queue of asynchronous generations over two replicas: all are done, callers take turns, memory stays."""

import asyncio
import base64
import os
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.emulator import Emulator, Fault, served
from tests.conftest import STORAGES, image_file
from tests.held_storage import ConcurrentCalls, HeldDatabase, until
from tests.processes import process
from tests.storages import S3_ENVIRONMENT, Overrides

pytestmark = pytest.mark.slow

QUEUED = int(os.environ.get("QUEUED_GENERATIONS", "1500"))
MODEST = QUEUED // 100
"""Generations of the caller with few. The other one has all others, and sends them first."""
SLOTS = 8
"""MAX_IN_FLIGHT of each replica."""
PROCESS_GROWTH_BYTES = 40_000_000


def memory(service: asyncio.subprocess.Process) -> int:
    """Return the resident memory of a process in bytes."""
    pages = int(Path(f"/proc/{service.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("storage", STORAGES[1:], indirect=True)
async def test_a_long_queue_is_worked_off_fairly(storage: Overrides) -> None:
    """
    `make test-slow` queues 1,500 generations; `QUEUED_GENERATIONS=10000` queues as many as the service accepts.
    """
    emulator = Emulator(delay_seconds=0.02, keep_calls=100_000)
    picture = base64.b64encode(image_file("JPEG")).decode()
    emulator.faults.append(Fault(times=10 * QUEUED, image_base64=picture))
    gemini = ConcurrentCalls(emulator)
    gemini.open.clear()
    database = HeldDatabase(storage)
    overrides: dict[str, Any] = {
        **storage,
        **{name.lower(): value for name, value in S3_ENVIRONMENT.items()},
        "aws_endpoint_url": os.environ.get("AWS_ENDPOINT_URL", ""),
        "service_api_keys": "greedy:secret-of-greedy,modest:secret-of-modest",
        "max_in_flight": SLOTS,
    }
    async with (
        served(gemini) as gemini_url,
        process(gemini_url, **overrides) as (one, one_url),
        process(gemini_url, **overrides) as (two, two_url),
        httpx2.AsyncClient(timeout=60, trust_env=False) as client,
    ):
        sending = asyncio.Semaphore(16)

        async def queue(owner: str, number: int) -> str:
            headers = {"Authorization": f"Bearer secret-of-{owner}", "Prefer": "respond-async"}
            body = {"prompt": f"{owner} {number}", "imageSize": "1K"}
            async with sending:
                url = (one_url, two_url)[number % 2]
                response = await client.post(f"{url}/generate-image", json=body, headers=headers)
            assert response.status_code == 202, response.text
            location: str = response.headers["location"]
            return location

        async def count(condition: str) -> int:
            [(found,)] = await database.fetch(f"SELECT count(*) FROM generations WHERE {condition}")
            return int(found)

        await asyncio.gather(*(queue("greedy", number) for number in range(100)))
        before = [memory(service) for service in (one, two)]
        began = time.monotonic()
        await asyncio.gather(*(queue("greedy", number) for number in range(100, QUEUED - MODEST)))
        await asyncio.gather(*(queue("modest", number) for number in range(MODEST)))
        queued_in = time.monotonic() - began
        queued = [memory(service) for service in (one, two)]
        assert await count("status IN ('queued', 'running')") == QUEUED
        await until(lambda: gemini.now == 2 * SLOTS)

        gemini.open.set()
        began = time.monotonic()
        most_running = done_before_modest = 0
        worked: list[int] = []
        async with asyncio.timeout(60 + QUEUED / 10):
            while (left := await count("status IN ('queued', 'running')")) > 0:
                most_running = max(most_running, await count("status = 'running'"))
                worked = [max(pair) for pair in zip(worked or [0, 0], map(memory, (one, two)), strict=True)]
                if await count("status IN ('queued', 'running') AND owner = 'key:modest'"):
                    done_before_modest = QUEUED - left
                await asyncio.sleep(0.05)
        seconds = time.monotonic() - began
        succeeded = await count("status = 'succeeded'")

    print(
        f"\n{QUEUED} queued in {queued_in:.1f} s, done in {seconds:.1f} s; at most {gemini.most} calls at a time; "
        f"{done_before_modest} were done before the last of the {MODEST} of the other caller; "
        f"MB: {[size // 2**20 for size in (*before, *queued, *worked)]}"
    )
    assert succeeded == QUEUED
    assert len(emulator.calls) == QUEUED
    assert gemini.most == 2 * SLOTS
    assert most_running <= 2 * SLOTS
    assert done_before_modest <= 3 * MODEST + 6 * SLOTS
    for now, then in zip((*queued, *worked), before * 2, strict=True):
        assert now - then < PROCESS_GROWTH_BYTES
