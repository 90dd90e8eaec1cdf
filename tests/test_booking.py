"""What is reserved and booked when something goes wrong, and when requests follow each other closely."""

import asyncio
import sqlite3
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from app.domain.caller import Caller
from app.domain.limits import Budget, Limits
from app.domain.spending import Charge, ImageCost
from app.emulator import Emulator, Fault
from app.service.callers.spending import CallerSpending
from app.service.leases import LeaseKeeper
from app.store import Storage
from tests.callers import add_key, bearer, until, usage_of
from tests.conftest import Serve, metric, wait_for_calls
from tests.stored_chats import fetched, open_storage
from tests.test_limits import ASK, ESTIMATE, quiet, usage

OTHER = "gemini-nano-banana-2.1"
WEB = Caller("web", keyed=True)


async def test_an_answer_for_which_there_is_no_memory_is_booked(
    serve_alone: Serve, gemini: Emulator, tmp_path: Path
) -> None:
    first, second = [await add_key({"data_dir": tmp_path}, name, budget="5/day") for name in ("first", "second")]
    gemini.faults.append(Fault(stall_seconds=3))
    async with serve_alone(max_buffered_bytes=200_000, queue_timeout_seconds=0.3) as client:
        slow = asyncio.create_task(client.post("/generate-image", json=ASK, headers=bearer(first)))

        async def has_memory() -> bool:
            return await metric(client, 'gemini_images_buffered_bytes{kind="responses"}') > 0

        await until(has_memory)
        refused = await client.post("/generate-image", json=ASK, headers=bearer(second))
        used = await usage(client, second)
        await slow

    assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
    assert refused.headers["x-should-retry"] == "false"
    assert len(gemini.calls) == 2
    assert used["spentUsd"] == pytest.approx(ESTIMATE, abs=1e-5)


@pytest.mark.parametrize(("budget", "calls"), [("0.40/day", 2), ("0.60/day", 3)])
async def test_the_fallback_model_needs_budget_too_after_calls_that_may_have_been_billed(
    serve_alone: Serve, gemini: Emulator, tmp_path: Path, budget: str, calls: int
) -> None:
    secret = await add_key({"data_dir": tmp_path}, budget=budget)
    gemini.faults.append(Fault(status=503, after_chunks=1, times=2))
    headers = bearer(secret) | {"Accept": "text/event-stream"}
    async with serve_alone() as client:
        await client.post("/generate-image", json=ASK | {"fallbackModel": OTHER}, headers=headers)
        used = await quiet(client, secret)

    assert [call.model for call in gemini.calls] == ["gemini-3-pro-image", "gemini-3-pro-image", OTHER][:calls]
    assert used["spentUsd"] <= float(budget.removesuffix("/day"))
    assert used["spentUsd"] > 2 * ESTIMATE - 1e-5


@pytest.mark.parametrize("prefer", ["", "respond-async, wait=20"])
async def test_under_a_budget_no_fallback_model_without_known_prices_is_asked(
    serve_alone: Serve, gemini: Emulator, tmp_path: Path, prefer: str
) -> None:
    secret = await add_key({"data_dir": tmp_path}, budget="5/day")
    gemini.faults.append(Fault(status=503, times=3))
    headers = bearer(secret) | ({"Prefer": prefer} if prefer else {})
    async with serve_alone(fallback_model="gemini-9-image") as client:
        failed = await client.post("/generate-image", json=ASK, headers=headers)
        used = await quiet(client, secret)

    assert failed.status_code == 503
    assert {call.model for call in gemini.calls} == {"gemini-3-pro-image"}
    assert used["spentUsd"] == 0


@pytest.mark.parametrize("recorded_by", ["Idempotency-Key", "X-Stainless-Retry-Count", "Prefer"])
async def test_one_generation_at_once_allows_one_request_after_the_other(
    serve_alone: Serve, gemini: Emulator, tmp_path: Path, recorded_by: str
) -> None:
    secret = await add_key({"data_dir": tmp_path}, concurrent=1)
    values = {"Idempotency-Key": None, "X-Stainless-Retry-Count": "0", "Prefer": "respond-async, wait=20"}
    async with serve_alone() as client:
        statuses = []
        for _ in range(6):
            headers = bearer(secret) | {recorded_by: values[recorded_by] or uuid4().hex}
            statuses.append((await client.post("/generate-image", json=ASK, headers=headers)).status_code)

    assert statuses == [200] * 6


@pytest.mark.parametrize("limits", [{}, {"budget": "5/day"}], ids=["unlimited", "limited"])
async def test_a_turn_whose_caller_has_left_is_booked_while_the_service_stops(
    serve_alone: Serve, gemini: Emulator, tmp_path: Path, limits: dict[str, Any]
) -> None:
    storage = {"data_dir": tmp_path}
    secret = await add_key(storage, **limits)
    async with serve_alone() as client:
        created = await client.post("/chats", json={}, headers=bearer(secret))
        gemini.faults.append(Fault(delay_seconds=1.5))
        turns = f"/chats/{created.json()['id']}/turns"
        leaving = asyncio.create_task(client.post(turns, json=ASK, headers=bearer(secret)))
        await wait_for_calls(gemini)
        leaving.cancel()
        await asyncio.sleep(0.3)  # for the service to notice
    async with open_storage(storage) as opened:
        used = await usage_of(await opened.callers(), WEB.owner)

    assert (used.images, used.reserved) == (1, 0)
    assert used.spent > 0


@asynccontextmanager
async def spending_on(storage: Storage) -> AsyncGenerator[CallerSpending]:
    await storage.callers()  # open it before a test locks the database
    async with aclosing(LeaseKeeper(storage, 60)) as leases, CallerSpending(storage, leases) as spending:
        await asyncio.sleep(0.05)  # for its first flush, of nothing
        yield spending


async def test_usage_is_written_once_although_its_writing_is_cancelled(tmp_path: Path) -> None:
    storage = {"data_dir": tmp_path}
    await add_key(storage)
    async with open_storage(storage) as opened:
        async with spending_on(opened) as spending:
            await spending.unreserved(WEB).settle(ImageCost("a-model", 1, 10, 100))
            with closing(sqlite3.connect(tmp_path / "chats.db", isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                flushing = asyncio.create_task(spending.flush())
                await asyncio.sleep(0.3)
                flushing.cancel()
                await asyncio.sleep(0.1)
                other.execute("COMMIT")
            await spending.flush()
            await asyncio.sleep(0.5)  # for a transaction that goes on
        used = await usage_of(await opened.callers(), WEB.owner)

    assert [(row.images, row.tokens, row.micro_usd) for row in used.rows] == [(1, 10, 100)]
    assert used.rows[0].date == datetime.now(UTC).date()


async def test_a_reservation_that_is_cancelled_while_it_is_made_is_given_back(tmp_path: Path) -> None:
    storage = {"data_dir": tmp_path}
    await add_key(storage, budget="5/day")
    limits = Limits(budget=Budget.parse("5/day"))
    caller = Caller("web", keyed=True, limits=limits)

    async with open_storage(storage) as opened, spending_on(opened) as spending:
        with closing(sqlite3.connect(tmp_path / "chats.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            reserving = asyncio.create_task(spending.reserve(caller, Charge(2, 1000, "a-model"), has_slot=True))
            await asyncio.sleep(0.3)
            reserving.cancel()
            await asyncio.sleep(0.1)
            other.execute("COMMIT")
        await asyncio.sleep(0.5)
        rows = await fetched(storage, "SELECT id FROM reservations")
        used = await usage_of(await opened.callers(), WEB.owner, limits)

    assert rows == []
    assert used.spent == 0


@pytest.mark.parametrize(
    ("fault", "calls"), [(Fault(status=400), 0), (Fault(reset="in_body", times=2), 2)], ids=["free", "unknown"]
)
async def test_a_failure_says_what_it_has_left_of_the_budget(
    serve_alone: Serve, gemini: Emulator, tmp_path: Path, fault: Fault, calls: int
) -> None:
    secret = await add_key({"data_dir": tmp_path}, budget="5/day")
    gemini.faults.append(fault)
    async with serve_alone() as client:
        failed = await client.post("/generate-image", json=ASK, headers=bearer(secret))

    assert failed.status_code in (422, 502)
    assert float(failed.headers["x-budget-remaining-usd"]) == pytest.approx(5 - calls * ESTIMATE, abs=1e-4)
