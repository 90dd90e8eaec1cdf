"""How many database transactions a request takes."""

import asyncio
import base64
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.emulator import Emulator, Fault
from tests.callers import add_key, bearer
from tests.conftest import STORAGES, Serve, image_file
from tests.storages import Overrides
from tests.stored_chats import fetched

ASK = {"prompt": "A lighthouse", "imageSize": "1K"}
PICTURE = base64.b64encode(image_file("JPEG")).decode()
REQUESTS = 100


def written_transactions(folder: Path) -> int:
    """Return SQLite's count of transactions that have written, from the header of the index of its log (`iChange`)."""
    return int.from_bytes((folder / "chats.db-shm").read_bytes()[8:12], "little")


async def all_transactions(storage: Overrides) -> int:
    """Return PostgreSQL's count of transactions. Its processes report theirs within a second or two."""
    await asyncio.sleep(2)
    query = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()"
    return int((await fetched(storage, query))[0][0])


async def send(client: httpx2.AsyncClient, gemini: Emulator, secret: str, times: int = REQUESTS) -> None:
    gemini.faults.append(Fault(image_base64=PICTURE, times=times))
    for _ in range(times):
        assert (await client.post("/generate-image", json=ASK, headers=bearer(secret))).is_success


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, 0),
        ({"max_size": "2K", "models": ("nano-banana-pro",)}, 0),
        ({"budget": "99/day"}, 2),
        ({"rate": "999/s"}, 2),
    ],
    ids=["no limits", "size and models", "budget", "rate"],
)
async def test_a_request_writes_twice_if_it_has_to_be_counted_and_never_otherwise(
    serve_alone: Serve, gemini: Emulator, tmp_path: Path, limits: dict[str, Any], expected: int
) -> None:
    """
    The usage of a caller without limits is written every five seconds, whatever the number of requests.
    """
    secret = await add_key({"data_dir": tmp_path}, **limits)
    async with serve_alone() as client:
        await send(client, gemini, secret, 1)
        before, began = written_transactions(tmp_path), time.monotonic()
        await send(client, gemini, secret)
        count, seconds = written_transactions(tmp_path) - before, time.monotonic() - began

    assert 0 <= count - expected * REQUESTS <= 2 + seconds


@pytest.mark.parametrize("storage", STORAGES[1:], indirect=True)
async def test_a_request_of_a_caller_without_limits_takes_no_transaction(
    serve_alone: Serve, gemini: Emulator, storage: Overrides
) -> None:
    """
    Reads count too. What the service does in the background is measured before, and subtracted.
    """
    free = await add_key(storage, "free")
    limited = await add_key(storage, "limited", budget="99/day", rate="999/s", concurrent=9)
    per_request = {}
    async with serve_alone(**storage) as client:
        for secret in (free, limited):
            await send(client, gemini, secret, 1)
        began, before = time.monotonic(), await all_transactions(storage)
        await asyncio.sleep(8)
        idle = (await all_transactions(storage) - before) / (time.monotonic() - began)
        for name, secret in (("free", free), ("limited", limited)):
            began, before = time.monotonic(), await all_transactions(storage)
            await send(client, gemini, secret, 3 * REQUESTS)
            count = await all_transactions(storage) - before - idle * (time.monotonic() - began)
            per_request[name] = count / (3 * REQUESTS)

    print(f"\n{idle:.1f} transactions a second in the background; for each request {per_request}")
    assert per_request == {"free": pytest.approx(0, abs=0.1), "limited": pytest.approx(2, abs=0.1)}
