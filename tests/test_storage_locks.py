"""A locked database is reported after one wait, however many requests wait for it."""

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import psycopg
import pytest

from app.emulator import Emulator, Fault
from tests.conftest import Serve, wait_for_calls
from tests.storages import Overrides
from tests.stored_chats import storage_problem
from tests.test_chats import begin

LOCK_WAIT_SECONDS = 0.5


@pytest.fixture
def storage_with_short_lock_wait(storage: Overrides) -> Overrides:
    """A storage whose database waits 0.5 s for a lock instead of 10 s."""
    if "database_url" in storage:
        wait = f"?options=-c%20lock_timeout%3D{LOCK_WAIT_SECONDS * 1000:.0f}ms"
        return {**storage, "database_url": storage["database_url"] + wait}
    file = Path(storage["data_dir"]) / "chats.db"
    return {**storage, "database_url": f"sqlite:///{file}?timeout={LOCK_WAIT_SECONDS}"}


@contextmanager
def locked(storage: Overrides) -> Iterator[None]:
    """Lock the database from another connection. SQLite still allows reads."""
    other: sqlite3.Connection | psycopg.Connection[Any]
    if storage["database_url"].startswith("sqlite"):
        other = sqlite3.connect(Path(storage["data_dir"]) / "chats.db", isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
    else:
        other = psycopg.connect(storage["database_url"])
        other.execute("LOCK TABLE chats IN ACCESS EXCLUSIVE MODE")
    with closing(other):
        yield
        other.rollback()


async def timed(asking: Awaitable[httpx2.Response]) -> tuple[httpx2.Response, float]:
    began = time.monotonic()
    return await asking, time.monotonic() - began


async def test_a_locked_database_is_reported_after_one_wait(
    serve: Serve, gemini: Emulator, storage_with_short_lock_wait: Overrides
) -> None:
    """
    No response waits for the release of its lease. When the lock is gone, turns work again.
    """
    async with serve(**storage_with_short_lock_wait, chat_lease_seconds=600) as client:
        chat = await begin(client, prompt="A cat")
        requests: dict[str, Callable[[], Awaitable[httpx2.Response]]] = {
            "turn": lambda: chat.say("Blue, please"),
            "create": lambda: client.post("/chats", json={}),
            "create with a turn": lambda: client.post("/chats", json={"prompt": "A cat"}),
            "fork": lambda: client.post(f"{chat.url}/fork"),
            "delete": lambda: client.delete(chat.url),
            "list": lambda: client.get("/chats"),
            "get": lambda: client.get(chat.url),
            "image": lambda: client.get(f"{chat.url}/turns/1/image"),
        }
        with locked(storage_with_short_lock_wait):
            answers = {name: await timed(ask()) for name, ask in requests.items()}
        after = await chat.say("Blue, please")

    if storage_with_short_lock_wait["database_url"].startswith("sqlite"):
        assert [answers.pop(name)[0].status_code for name in ("list", "get", "image")] == [200] * 3
    assert {storage_problem(answer) for answer, _ in answers.values()} == {(503, "storage_unavailable", "database")}
    # Another transaction of this process may wait for the lock first.
    slow = {name: seconds for name, (_, seconds) in answers.items() if seconds > 5 * LOCK_WAIT_SECONDS}
    assert slow == {}
    assert after.json()["turn"] == 2
    assert len(gemini.calls) == 2


async def test_a_failed_turn_is_reported_before_its_lease_is_released(
    serve: Serve, gemini: Emulator, storage_with_short_lock_wait: Overrides
) -> None:
    """
    The database is locked during the generation. The response does not wait until the lease is released.
    """
    async with serve(**storage_with_short_lock_wait, chat_lease_seconds=600, upstream_attempts=1) as client:
        chat = await begin(client)
        gemini.faults.append(Fault(status=400, delay_seconds=0.3))
        asking = asyncio.create_task(timed(chat.say("A cat")))
        await wait_for_calls(gemini)
        with locked(storage_with_short_lock_wait):
            failed, seconds = await asking
        after = await chat.say("A cat")
        while after.status_code == 409:
            await asyncio.sleep(0.1)
            after = await chat.say("A cat")

    assert failed.status_code != 503
    assert seconds < 0.3 + LOCK_WAIT_SECONDS + 2
    assert after.json()["turn"] == 1


async def test_many_requests_wait_for_a_lock_at_the_same_time(
    serve: Serve, gemini: Emulator, storage_with_short_lock_wait: Overrides
) -> None:
    """
    Eight writers together take less than half of eight waits, although their leases must be released too.
    """
    async with serve(**storage_with_short_lock_wait) as client:
        chat = await begin(client)
        # Open eight connections first, so that only the waits in the database are measured.
        await asyncio.gather(*(client.get(chat.url) for _ in range(8)))
        with locked(storage_with_short_lock_wait):
            started = time.monotonic()
            found = await asyncio.gather(
                *(client.post(f"{chat.url}/turns", json={"prompt": "A cat"}) for _ in range(8))
            )
            seconds = time.monotonic() - started

    assert {one.status_code for one in found} == {503}
    assert seconds < 4 * LOCK_WAIT_SECONDS
    assert not gemini.calls


async def test_a_new_service_reports_a_locked_database_after_one_wait(serve: Serve, tmp_path: Path) -> None:
    """
    A locked SQLite database in rollback-journal mode allows no reads either.
    """
    file = tmp_path / "chats.db"
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("CREATE TABLE other (x)")
        other.execute("BEGIN EXCLUSIVE")
        async with serve(data_dir=tmp_path, database_url=f"sqlite:///{file}?timeout=1") as client:
            response, seconds = await timed(client.get("/chats"))
            other.execute("ROLLBACK")
            after = await client.get("/chats")

    assert storage_problem(response) == (503, "storage_unavailable", "database")
    assert seconds < 2, "the time of two waits"
    assert after.status_code == 200
