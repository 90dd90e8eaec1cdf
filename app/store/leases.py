"""Leases on chats, generations and reservations: only the holder of a lease may work on the row, until the lease ends.

Each kind of row has its own statement that takes a lease. All are renewed together.
"""

from collections.abc import Collection

from sqlalchemy import update
from sqlalchemy.engine import Connection

from app.store.database import Database
from app.store.tables import chats, generations, reservations

_LEASED = (chats, generations, reservations)


class Leases:
    def __init__(self, database: Database, lease_seconds: float) -> None:
        """
        Args:
            database: of the rows.
            lease_seconds: duration of a lease that is not renewed.
        """
        self._database = database
        self._lease_seconds = lease_seconds

    async def renew(self, holders: Collection[str]) -> None:
        """Extend the leases of these holders. A lease that another holder has taken over does not change."""

        def transaction(connection: Connection) -> None:
            for table in _LEASED:
                connection.execute(
                    update(table)
                    .where(table.c.lease_holder.in_(holders))
                    .values(lease_until=self._database.now + self._lease_seconds)
                )

        await self._database.write(transaction)

    async def release(self, holder: str) -> None:
        """End the lease of a chat. The lease of a generation ends with a change of its status, and that of a
        reservation with its row."""

        def transaction(connection: Connection) -> None:
            connection.execute(
                update(chats).where(chats.c.lease_holder == holder).values(lease_holder=None, lease_until=None)
            )

        await self._database.write(transaction)
