"""Read generations."""

import logging
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, func, or_, select, true
from sqlalchemy.engine import Connection

from app.domain.errors import GenerationNotFound, StorageDamaged
from app.domain.recorded import GenerationStatus, RecordedGeneration
from app.store.generations.rows import GenerationRows
from app.store.tables import generations

log = logging.getLogger(__name__)

_IN_PROGRESS = generations.c.status.in_([GenerationStatus.QUEUED, GenerationStatus.RUNNING])


@dataclass(frozen=True, slots=True)
class GenerationCounts:
    """How many recorded generations are in progress, over all replicas."""

    queued: int = 0
    running: int = 0
    oldest_queued_seconds: float = 0
    """Age of the oldest queued one."""


class GenerationQueries:
    def __init__(self, rows: GenerationRows) -> None:
        self._rows = rows

    async def get(self, id_: str, owner: str | None) -> RecordedGeneration:
        """See `GenerationStore.get`."""
        owned = true() if owner is None else generations.c.owner == owner
        query = select(*generations.c).where(generations.c.id == id_, owned, self._rows.alive)
        row = await self._rows.database.read(lambda connection: connection.execute(query).one_or_none())
        if row is None:
            raise GenerationNotFound("There is no such generation, or it has expired.")
        return self._rows.load(row)

    async def has_key(self, owner: str, key: str) -> bool:
        """See `GenerationStore.has_key`."""
        query = select(generations.c.id).where(
            generations.c.owner == owner, generations.c.idempotency_key == key, self._rows.alive
        )
        return await self._rows.database.read(lambda connection: connection.execute(query).first() is not None)

    async def statuses(self, ids: Collection[str]) -> dict[str, str]:
        """See `GenerationStore.statuses`."""
        query = select(generations.c.id, generations.c.status).where(generations.c.id.in_(ids), self._rows.alive)
        rows = await self._rows.database.read(lambda connection: connection.execute(query).all())
        return {row.id: row.status for row in rows}

    async def page(self, owner: str, limit: int, after: tuple[float, str] | None) -> list[RecordedGeneration]:
        """See `GenerationStore.page`."""
        condition: ColumnElement[bool] = true()
        if after is not None:
            created_at, id_ = after
            same_time = and_(generations.c.created_at == created_at, generations.c.id < id_)
            condition = or_(generations.c.created_at < created_at, same_time)
        query = (
            select(*generations.c)
            .where(generations.c.owner == owner, self._rows.alive, condition)
            .order_by(generations.c.created_at.desc(), generations.c.id.desc())
            .limit(limit)
        )
        rows = await self._rows.database.read(lambda connection: connection.execute(query).all())
        return [*self._loaded(rows)]

    def _loaded(self, rows: Sequence[Any]) -> Iterator[RecordedGeneration]:
        for row in rows:
            try:
                yield self._rows.load(row)
            except StorageDamaged as error:  # the list has the others
                log.error("a generation cannot be read", extra={"generation": row.id, "cause": error.cause})

    async def counts(self) -> GenerationCounts:
        """See `GenerationStore.counts`."""

        def transaction(connection: Connection) -> GenerationCounts:
            age = self._rows.now - func.min(generations.c.created_at)
            query = select(generations.c.status, func.count(), age).where(_IN_PROGRESS)
            found = {row[0]: row[1:] for row in connection.execute(query.group_by(generations.c.status))}
            queued, seconds = found.get(GenerationStatus.QUEUED, (0, 0.0))
            running, _ = found.get(GenerationStatus.RUNNING, (0, 0.0))
            return GenerationCounts(queued, running, max(0.0, seconds))

        return await self._rows.database.read(transaction)
