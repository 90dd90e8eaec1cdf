"""Deliveries in the database: replicas claim each one once, and none is lost."""

import asyncio
from collections.abc import AsyncGenerator, Collection
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import insert, select, update
from sqlalchemy.engine import Connection

from app.store import Storage
from app.store.database import Database
from app.store.deliveries import Delivery, DeliveryStore
from app.store.tables import deliveries, generations
from tests.conftest import settings_for
from tests.storages import Overrides


class Rows:
    """Adds deliveries to a database, and reads them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, *ids: str, owner: str = "anna") -> None:
        """Add pending deliveries that are due, in this order, with a generation each."""
        now = self._database.now

        def transaction(connection: Connection) -> None:
            for number, id_ in enumerate(ids):
                due = now - 100 + number / 1000
                connection.execute(
                    insert(generations).values(
                        id=f"of-{id_}", owner=owner, fingerprint="", status="failed", is_async=True, created_at=now,
                        due_at=now, document="{}",
                    )
                )  # fmt: skip
                connection.execute(
                    insert(deliveries).values(
                        id=id_, generation_id=f"of-{id_}", url="https://hooks.example/", status="pending",
                        due_at=due, created_at=now,
                    )
                )  # fmt: skip

        await self._database.write(transaction)

    async def column(self, name: str) -> dict[str, object]:
        """Return the values of a column by the delivery's id."""
        statement = select(deliveries.c.id, deliveries.c[name])

        def transaction(connection: Connection) -> dict[str, object]:
            return {row.id: row[1] for row in connection.execute(statement)}

        return await self._database.read(transaction)

    async def end_leases(self) -> None:
        """Let the leases end, as time does."""
        ended = update(deliveries).values(lease_until=self._database.now - 1)

        def transaction(connection: Connection) -> None:
            connection.execute(ended)

        await self._database.write(transaction)


@asynccontextmanager
async def opened(storage: Overrides) -> AsyncGenerator[tuple[DeliveryStore, Rows]]:
    settings = settings_for("http://127.0.0.1:1", **storage)
    opened = Storage(settings)
    database = Database.from_settings(settings)
    try:
        yield await opened.deliveries(), Rows(database)
    finally:
        await database.aclose()
        await opened.aclose()


def ids(claimed: Collection[Delivery]) -> list[str]:
    return [delivery.id for delivery in claimed]


async def test_a_claim_takes_the_oldest_deliveries_and_no_more_than_it_asks_for(storage: Overrides) -> None:
    async with opened(storage) as (store, rows):
        await rows.add(*(f"{number:03}" for number in range(50)))
        first = await store.claim("one", 7)
        second = await store.claim("two", 7)

    assert ids(first) == [f"{number:03}" for number in range(7)]
    assert ids(second) == [f"{number:03}" for number in range(7, 14)]
    assert {(one.generation_id, one.owner, one.url, one.tries) for one in first[:1]} == {
        ("of-000", "anna", "https://hooks.example/", 1)
    }


async def test_concurrent_claims_never_take_the_same_delivery(storage: Overrides) -> None:
    async with opened(storage) as (store, rows):
        await rows.add(*map(str, range(100)))
        claims = await asyncio.gather(*(store.claim(f"holder {number}", 9) for number in range(20)))
        while more := await store.claim("last", 9):
            claims.append(more)

    assert all(len(claimed) <= 9 for claimed in claims)
    assert sorted(id_ for claimed in claims for id_ in ids(claimed)) == sorted(map(str, range(100)))


async def test_a_delivery_is_claimed_again_only_when_it_is_due_again(storage: Overrides) -> None:
    async with opened(storage) as (store, rows):
        await rows.add("soon", "late", "done", "given up")
        await store.claim("one", 4)
        await store.retry("soon", "one", 0)
        await store.retry("late", "one", 60)
        await store.delivered("done", "one")
        await store.failed("given up", "one")
        again = await store.claim("two", 4)
        statuses = await rows.column("status")

    assert [(one.id, one.tries) for one in again] == [("soon", 2)]
    assert statuses == {"soon": "pending", "late": "pending", "done": "delivered", "given up": "failed"}


async def test_a_lease_that_has_ended_lets_another_holder_try(storage: Overrides) -> None:
    """
    The process of the first holder may have died. What it says afterwards changes nothing.
    """
    async with opened(storage) as (store, rows):
        await rows.add("a")
        await store.claim("dead", 1)
        held = await store.claim("other", 1)
        await rows.end_leases()
        taken_over = await store.claim("other", 1)
        await store.failed("a", "dead")
        await store.release("a", "dead")
        statuses, holders = await rows.column("status"), await rows.column("lease_holder")

    assert (held, [(one.id, one.tries) for one in taken_over]) == ([], [("a", 2)])
    assert (statuses, holders) == ({"a": "pending"}, {"a": "other"})


async def test_a_try_that_was_given_back_does_not_count(storage: Overrides) -> None:
    async with opened(storage) as (store, rows):
        await rows.add("a")
        await store.claim("one", 1)
        await store.release("a", "one")
        again = await store.claim("two", 1)
        await store.delivered("a", "two")
        await store.release("a", "two")
        statuses = await rows.column("status")

    assert [one.tries for one in again] == [1]
    assert statuses == {"a": "delivered"}


async def test_deliveries_of_some_owners_can_wait(storage: Overrides) -> None:
    async with opened(storage) as (store, rows):
        await rows.add(*map(str, range(30)))
        await rows.add("of ben", owner="ben")
        claimed = await store.claim("one", 5, ["anna"])
        none = await store.claim("two", 5, ["anna", "ben"])

    assert (ids(claimed), none) == (["of ben"], [])


@pytest.mark.parametrize("status", ["delivered", "failed"])
async def test_a_delivery_that_is_over_is_never_claimed(storage: Overrides, status: str) -> None:
    async with opened(storage) as (store, rows):
        await rows.add("a")
        await store.claim("one", 1)
        await (store.delivered if status == "delivered" else store.failed)("a", "one")
        await rows.end_leases()
        claimed = await store.claim("two", 1)

    assert claimed == []
