"""The queue of asynchronous generations, and the steps of a running one."""

import heapq
import logging
from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import case, delete, exists, func, or_, select, tuple_, update
from sqlalchemy.engine import Connection

from app.domain.errors import AlreadyAsked, GenerationNotFound, LeaseLost, StorageDamaged
from app.domain.recorded import GenerationStatus, RecordedGeneration
from app.store.deliveries import enqueue
from app.store.generations.answers import AnswerStore
from app.store.generations.rows import UNLEASED, GenerationRows
from app.store.generations.serialization import image_count, without_references
from app.store.tables import generations

log = logging.getLogger(__name__)

_earlier = generations.alias("earlier")

_IS_NEXT_IN_CHAT = or_(
    generations.c.chat_id.is_(None),
    ~exists().where(
        _earlier.c.chat_id == generations.c.chat_id,
        _earlier.c.status.in_([GenerationStatus.QUEUED, GenerationStatus.RUNNING]),
        tuple_(_earlier.c.created_at, _earlier.c.id) < tuple_(generations.c.created_at, generations.c.id),
    ),
)
"""Condition: no earlier generation of the same chat waits or runs, because each turn builds on the one before."""

_QUEUED = generations.c.status == GenerationStatus.QUEUED
_RUNNING = generations.c.status == GenerationStatus.RUNNING


class GenerationQueue:
    def __init__(self, rows: GenerationRows, answers: AnswerStore) -> None:
        self._rows = rows
        self._answers = answers

    async def due(self, limit: int) -> int:
        """See `GenerationStore.due`."""
        due = _QUEUED, generations.c.due_at <= self._rows.now, _IS_NEXT_IN_CHAT
        found = select(generations.c.id).where(*due).limit(limit)
        return await self._rows.database.read(lambda connection: len(connection.execute(found).all()))

    async def claim(self, holders: Sequence[str]) -> list[tuple[str, RecordedGeneration]]:
        """See `GenerationStore.claim`."""
        due = _QUEUED, generations.c.due_at <= self._rows.now, _IS_NEXT_IN_CHAT

        def transaction(connection: Connection) -> list[Any]:
            ids: list[str] = []
            for owner, places in self._places(connection, len(holders), due).items():
                # Ids are selected first. With the limit in a subquery of the update, PostgreSQL may claim more.
                oldest = (
                    select(generations.c.id)
                    .where(*due, generations.c.owner == owner)
                    .order_by(generations.c.due_at, generations.c.id)
                    .limit(places)
                    .with_for_update(skip_locked=True)
                )
                ids += connection.execute(oldest).scalars()
            if not ids:
                return []
            by_id = dict(zip(ids, holders, strict=False))
            claimed = (
                update(generations)
                .where(generations.c.id.in_(ids), _QUEUED)
                .values(status=GenerationStatus.RUNNING, started_at=self._rows.now, **self._rows.leased_by(None))
                .values(lease_holder=case(by_id, value=generations.c.id))
                .returning(*generations.c)
            )
            return [*connection.execute(claimed)]

        if not holders:
            return []
        rows = await self._rows.database.write(transaction)
        rows.sort(key=lambda row: (row.due_at, row.id))
        return [*self._loaded(rows)]

    def _loaded(self, rows: Sequence[Any]) -> Iterator[tuple[str, RecordedGeneration]]:
        for row in rows:
            try:
                yield row.lease_holder, self._rows.load(row)
            except StorageDamaged as error:  # the others must not wait for it
                log.error("a queued generation cannot be read", extra={"generation": row.id, "cause": error.cause})

    def _places(self, connection: Connection, count: int, due: tuple[Any, ...]) -> dict[str, int]:
        """Distribute places to owners: each goes to the owner with the fewest running generations.

        Returns:
            The number of places by owner.
        """
        per_owner = select(generations.c.owner, func.count(), func.min(generations.c.due_at)).group_by(
            generations.c.owner
        )
        running = {owner: number for owner, number, _ in connection.execute(per_owner.where(_RUNNING))}
        waiting = [
            (running.get(owner, 0), oldest, owner, number)
            for owner, number, oldest in connection.execute(per_owner.where(*due))
        ]
        heapq.heapify(waiting)
        places: dict[str, int] = {}
        for _ in range(count):
            if not waiting:
                break
            active, oldest, owner, left = waiting[0]
            places[owner] = places.get(owner, 0) + 1
            if left > 1:
                heapq.heapreplace(waiting, (active + 1, oldest, owner, left - 1))
            else:
                heapq.heappop(waiting)
        return places

    async def mark_asked(self, id_: str, holder: str) -> None:
        """See `GenerationStore.mark_asked`."""
        asked = (
            update(generations)
            .where(generations.c.id == id_, generations.c.lease_holder == holder, _RUNNING)
            .values(asked_at=func.coalesce(generations.c.asked_at, self._rows.now), **self._rows.leased_by(holder))
            .returning(generations.c.id)
        )
        if not await self._rows.database.write(lambda connection: connection.execute(asked).one_or_none()):
            raise LeaseLost("Another process has this generation, or it was cancelled.")

    async def requeue(self, id_: str, holder: str, delay_seconds: float) -> None:
        """See `GenerationStore.requeue`."""
        queued = (
            update(generations)
            .where(
                generations.c.id == id_,
                generations.c.lease_holder == holder,
                _RUNNING,
                generations.c.asked_at.is_(None),
                generations.c.is_async,
            )
            .values(status=GenerationStatus.QUEUED, due_at=self._rows.now + delay_seconds, started_at=None, **UNLEASED)
        )
        await self._rows.database.write(lambda connection: connection.execute(queued).close())

    async def mark_caller_left(self, id_: str, next_count: int) -> None:
        """See `GenerationStore.mark_caller_left`."""
        is_next = generations.c.next_count == next_count
        left = update(generations).where(generations.c.id == id_, is_next).values(caller_left=True)
        await self._rows.database.write(lambda connection: connection.execute(left).close())

    async def delete(self, id_: str, owner: str) -> None:
        """See `GenerationStore.delete`."""
        this = generations.c.id == id_

        def transaction(connection: Connection) -> int:
            """Return the number of answers to delete."""
            row = connection.execute(
                select(*generations.c).where(this, generations.c.owner == owner, self._rows.alive).with_for_update()
            ).one_or_none()
            if row is None:
                raise GenerationNotFound("There is no such generation, or it has expired.")
            if GenerationStatus(row.status).is_final:
                connection.execute(delete(generations).where(this))
                return image_count(row.document)
            if row.asked_at is not None:
                raise AlreadyAsked("Gemini is making the image. It will be paid for and kept.")
            self._cancel(connection, row)
            return 0

        count = await self._rows.database.write(transaction)
        if count:
            self._answers.forget(id_, count)

    def _cancel(self, connection: Connection, row: Any) -> None:
        now = self._rows.now
        connection.execute(
            update(generations)
            .where(generations.c.id == row.id)
            .values(
                status=GenerationStatus.CANCELLED,
                idempotency_key=None,
                next_count=None,
                finished_at=now,
                expires_at=now + self._rows.lifetimes.generation,
                document=without_references(row.document),
                **UNLEASED,
            )
        )
        self._rows.reservations.release_generation(connection, row.id)
        self._rows.set_blobs(connection, row.id, set())
        if row.webhook_url is not None:
            enqueue(connection, self._rows.database, row.id, row.webhook_url)
