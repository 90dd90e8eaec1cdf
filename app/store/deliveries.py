"""Deliveries of webhooks: rows that any replica claims, tries and marks. `GenerationStore.settle` adds them."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, or_, select, update
from sqlalchemy.engine import Connection

from app.store.database import Database
from app.store.tables import deliveries

LEASE_SECONDS = 45
"""Duration of a lease: longer than a try of 15 s, together with the transactions before and after it."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """The webhook of one generation."""

    id: str
    """The `webhook-id`, the same for all tries."""
    generation_id: str
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

    async def claim(self, holder: str, limit: int) -> list[Delivery]:
        """Lease pending deliveries that are due, the oldest first, and count one more try of each.

        Args:
            holder: name of the leases, unique to this call.
            limit: the most deliveries to claim.
        """
        due = self._due()

        def is_any_due(connection: Connection) -> bool:
            return connection.execute(select(deliveries.c.id).where(due).limit(1)).first() is not None

        if not await self._database.read(is_any_due):  # without SQLite's write lock, because this is called often
            return []
        # A subquery in `IN` can be run once for each row by PostgreSQL, and then locks more rows than the limit.
        chosen = (
            select(deliveries.c.id)
            .where(due)
            .order_by(deliveries.c.due_at)
            .limit(limit)
            .with_for_update(skip_locked=True)
            .cte("chosen")
        )
        statement = (
            update(deliveries)
            .where(deliveries.c.id == chosen.c.id)
            .values(
                lease_holder=holder,
                lease_until=self._database.now + self._lease_seconds,
                tries=deliveries.c.tries + 1,
            )
            .returning(
                deliveries.c.id,
                deliveries.c.generation_id,
                deliveries.c.url,
                deliveries.c.tries,
                deliveries.c.created_at,
            )
        )

        def transaction(connection: Connection) -> list[Delivery]:
            return [Delivery(*row) for row in connection.execute(statement)]

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

    def _due(self) -> ColumnElement[bool]:
        now = self._database.now
        is_free = or_(deliveries.c.lease_until.is_(None), deliveries.c.lease_until <= now)
        return and_(deliveries.c.status == "pending", deliveries.c.due_at <= now, is_free)

    def _leased(self, id_: str, holder: str) -> ColumnElement[bool]:
        return and_(deliveries.c.id == id_, deliveries.c.lease_holder == holder)

    async def _change(self, condition: ColumnElement[bool], **values: Any) -> None:
        """Write the values, and end the lease."""
        statement = update(deliveries).where(condition).values(lease_holder=None, lease_until=None, **values)

        def transaction(connection: Connection) -> None:
            connection.execute(statement)

        await self._database.write(transaction)
