"""Deliveries of webhooks: rows that any replica claims, tries and marks. The end of a generation adds them."""

import secrets
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, insert, or_, select, update
from sqlalchemy.engine import Connection

from app.store.database import Database
from app.store.tables import deliveries, generations

LEASE_SECONDS = 45
"""Duration of a lease: longer than a try of 15 s, together with the transactions before and after it."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """The webhook of one generation."""

    id: str
    """The `webhook-id`, the same for all tries."""
    generation_id: str
    owner: str
    """Owner of the generation."""
    url: str
    tries: int
    """Number of tries, including the one for which the delivery was claimed."""
    created_at: float


class DeliveryStore:
    """Verbs for deliveries. Each is one transaction. A lease that has ended lets other holders try again."""

    def __init__(self, database: Database, lease_seconds: float) -> None:
        """
        Args:
            database: of the rows.
            lease_seconds: duration of a lease. It is not renewed, so it must be longer than a try.
        """
        self._database = database
        self._lease_seconds = lease_seconds

    async def claim(self, holder: str, limit: int, except_owners: Collection[str] = ()) -> list[Delivery]:
        """Lease pending deliveries that are due, the oldest first, and count one more try of each.

        Args:
            holder: name of the leases, unique to this call.
            limit: the most deliveries to claim.
            except_owners: whose deliveries are not claimed.
        """
        due = self._due(except_owners)

        def is_any_due(connection: Connection) -> bool:
            return connection.execute(due.limit(1)).first() is not None

        if not await self._database.read(is_any_due):  # without SQLite's write lock, because this is called often
            return []
        # PostgreSQL can run a subquery in `IN` once for each row, and then locks more rows than the limit.
        chosen = due.limit(limit).with_for_update(of=deliveries, skip_locked=True).cte("chosen")
        lease = (
            update(deliveries)
            .where(deliveries.c.id == chosen.c.id)
            .values(
                lease_holder=holder,
                lease_until=self._database.now + self._lease_seconds,
                tries=deliveries.c.tries + 1,
            )
        )

        def transaction(connection: Connection) -> list[Delivery]:
            connection.execute(lease)
            return [Delivery(*row) for row in connection.execute(_claimed(holder))]

        return await self._database.write(transaction)

    async def delivered(self, id_: str, holder: str) -> None:
        """End the delivery: the receiver has it."""
        await self._change(self._leased(id_, holder), status="delivered")

    async def failed(self, id_: str, holder: str) -> None:
        """End the delivery: it is not tried again."""
        await self._change(self._leased(id_, holder), status="failed")

    async def retry(self, id_: str, holder: str, delay_seconds: float) -> None:
        """Let any replica try again after the delay."""
        await self._change(self._leased(id_, holder), due_at=self._database.now + delay_seconds)

    async def release(self, id_: str, holder: str, delay_seconds: float = 0) -> None:
        """Let any replica try again after the delay. The present try does not count. No effect on an ended delivery."""
        leased = and_(self._leased(id_, holder), deliveries.c.status == "pending")
        await self._change(leased, due_at=self._database.now + delay_seconds, tries=deliveries.c.tries - 1)

    def _due(self, except_owners: Collection[str]) -> Select[tuple[str]]:
        """Select the ids of deliveries that may be tried now, the oldest first."""
        now = self._database.now
        return (
            select(deliveries.c.id)
            .join(generations)
            .where(
                deliveries.c.status == "pending",
                deliveries.c.due_at <= now,
                or_(deliveries.c.lease_until.is_(None), deliveries.c.lease_until <= now),
                generations.c.owner.not_in(except_owners),
            )
            .order_by(deliveries.c.due_at)
        )

    def _leased(self, id_: str, holder: str) -> ColumnElement[bool]:
        return and_(deliveries.c.id == id_, deliveries.c.lease_holder == holder)

    async def _change(self, condition: ColumnElement[bool], **values: Any) -> None:
        """Write the values, and end the lease."""
        statement = update(deliveries).where(condition).values(lease_holder=None, lease_until=None, **values)

        def transaction(connection: Connection) -> None:
            connection.execute(statement)

        await self._database.write(transaction)


def enqueue(connection: Connection, database: Database, generation_id: str, url: str) -> None:
    """Add the delivery of the webhook of a generation that ends in this transaction."""
    connection.execute(
        insert(deliveries).values(
            id=f"msg_{secrets.token_hex(16)}",
            generation_id=generation_id,
            url=url,
            status="pending",
            due_at=database.now,
            created_at=database.now,
        )
    )


def _claimed(holder: str) -> Select[Any]:
    return (
        select(
            deliveries.c.id,
            deliveries.c.generation_id,
            generations.c.owner,
            deliveries.c.url,
            deliveries.c.tries,
            deliveries.c.created_at,
        )
        .join(generations)
        .where(deliveries.c.lease_holder == holder)
        .order_by(deliveries.c.due_at)
    )
