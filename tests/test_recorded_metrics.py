"""Metrics of recorded generations: replays and what they saved, and the queue."""

import asyncio
import json
from pathlib import Path

import httpx2
import pytest

from app.emulator import Emulator
from tests.conftest import Serve

ASK = {"prompt": "A lighthouse", "imageSize": "1K"}
ASYNC = {"Prefer": "respond-async"}


async def value(client: httpx2.AsyncClient, name: str) -> float:
    """Return a metric, or the sum over all its labels if the name has none."""
    series = [line.rpartition(" ") for line in (await client.get("/metrics")).text.splitlines()]
    full = f"gemini_images_{name}"
    return sum(float(number) for one, _, number in series if one == full or one.startswith(f"{full}{{"))


async def becomes(client: httpx2.AsyncClient, name: str, expected: float) -> bool:
    for _ in range(150):
        if await value(client, name) == pytest.approx(expected):
            return True
        await asyncio.sleep(0.1)
    return False


async def test_a_replay_counts_what_it_saved_and_is_no_spending(
    serve: Serve, gemini: Emulator, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async with serve(data_dir=tmp_path) as client:
        for _ in range(3):
            response = await client.post("/generate-image", json=ASK, headers={"Idempotency-Key": "a"})
            assert response.status_code == 200
        cost = response.json()["usage"]["estimatedCostUsd"]

        assert await value(client, 'replays_total{matched_by="key"}') == 2
        assert await value(client, "saved_dollars_total") == pytest.approx(2 * cost)
        assert await becomes(client, "cost_dollars_total", cost)
        assert await value(client, "generations_total") == 1
        replays = [json.loads(line) for line in capfd.readouterr().err.splitlines() if '"replay"' in line]
        assert [(one["matchedBy"], one["savedUsd"]) for one in replays] == [("key", cost)] * 2


async def test_a_retry_of_an_sdk_is_counted_apart(serve: Serve, gemini: Emulator, tmp_path: Path) -> None:
    async with serve(data_dir=tmp_path) as client:
        for count in range(2):
            await client.post("/generate-image", json=ASK, headers={"X-Stainless-Retry-Count": str(count)})

        assert await value(client, 'replays_total{matched_by="retry_count"}') == 1
        assert len(gemini.calls) == 1


@pytest.mark.slow
async def test_each_replica_has_the_counts_of_the_queue(serve: Serve, gemini: Emulator, tmp_path: Path) -> None:
    gemini.hold()
    async with serve(data_dir=tmp_path, max_in_flight=1, max_queued_async=7) as client:
        for _ in range(3):
            assert (await client.post("/generate-image", json=ASK, headers=ASYNC)).status_code == 202

        assert await becomes(client, "async_queued", 2)
        assert await value(client, "recorded_running") == 1
        assert await value(client, "async_queue_limit") == 7
        assert 0 < await value(client, "async_oldest_queued_seconds") < 60
        gemini.release()
        assert await becomes(client, "async_queued", 0)
        assert await becomes(client, "recorded_running", 0)
