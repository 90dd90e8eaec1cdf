"""Submit a generation, unless the request repeats an earlier one: by its key, or by the claim chain of retry counts.

The claim chain: each generation expects the retry count of the request that may take it over. OpenAI's clients send
1 with the first repetition, 2 with the second. So each repetition gets a generation of its own, and two requests of the
same person that are not repetitions stay two generations.
"""

from dataclasses import replace
from typing import Any

from sqlalchemy import and_, case, delete, func, or_, select, update
from sqlalchemy.engine import Connection

from app.domain.errors import IdempotencyKeyReused, Overloaded, StorageUnavailable
from app.domain.recorded import GenerationStatus, NewGeneration, RecordedGeneration, Submission
from app.store.blobs import BlobIndex
from app.store.generations.rows import REPETITION_SECONDS, GenerationRows
from app.store.generations.serialization import dump_order
from app.store.serialization import NameBlob
from app.store.tables import generations

_TRIES = 5
"""A generation may disappear between the insert that meets it and the query that reads it, a few times at most."""

_RETRY_AFTER_SECONDS = 10

_FAILED_FREE = and_(generations.c.status == GenerationStatus.FAILED, ~generations.c.may_have_cost)
_ENDED_FREE = or_(_FAILED_FREE, generations.c.status == GenerationStatus.CANCELLED)
_TIMES = (generations.c.created_at, generations.c.started_at, generations.c.asked_at)
_IN_PROGRESS = generations.c.status.in_([GenerationStatus.QUEUED, GenerationStatus.RUNNING])


class Submissions:
    def __init__(self, rows: GenerationRows, index: BlobIndex, max_queued: int) -> None:
        self._rows = rows
        self._index = index
        self._max_queued = max_queued
        now = rows.now
        new = rows.dialect.insert(generations).values(created_at=now, due_at=now)
        running = new.values(started_at=now, lease_until=now + rows.lifetimes.lease)
        # Built once: SQLAlchemy takes longer to build the statement than the database to run it.
        self._inserts = {
            one: statement.on_conflict_do_nothing(index_elements=["owner", "idempotency_key"]).returning(*_TIMES)
            for one, statement in {
                (True, False): new,
                (False, False): running,
                (False, True): running.values(asked_at=now),
            }.items()
        }

    async def submit(self, new: NewGeneration) -> Submission:
        """See `GenerationStore.submit`."""
        references = [one.image.content for one in new.order.request.references] if new.is_async else []
        stored = await self._index.store(references)
        document = dump_order(new, _names(stored), _keep_seconds(new))
        digests = {blob.digest for blob in stored.values()}

        def transaction(connection: Connection) -> Submission:
            taken_over = self._taken_over(connection, new)
            if taken_over is not None:
                return taken_over
            for _ in range(_TRIES):
                inserted = self._insert(connection, new, document)
                if inserted is not None:
                    if digests:
                        self._rows.set_blobs(connection, new.id, digests)
                    return self._reserved(connection, new, inserted)
                repeated = self._repeated(connection, new)
                if repeated is not None:
                    return repeated
            detail = "The generation with this key changes all the time."
            raise StorageUnavailable(detail, part="database", cause="no row", retry_after=1)

        return await self._rows.database.write(transaction)

    def _reserved(self, connection: Connection, new: NewGeneration, inserted: Submission) -> Submission:
        """Reserve what the new generation may cost. A refusal undoes the transaction."""
        order = new.order
        if order.charge is None:
            return inserted
        allowance = self._rows.reservations.reserve(
            connection, order.caller, order.charge, new.id, generation_id=new.id, asked=new.asked
        )
        return replace(inserted, allowance=allowance)

    def _repeated(self, connection: Connection, new: NewGeneration) -> Submission | None:
        """Return the generation that has the key. Take the key from one that is kept no longer."""
        same = generations.c.owner == new.order.caller.owner, generations.c.idempotency_key == new.idempotency_key
        kept = and_(self._rows.alive, self._has_key).label("kept")
        row = connection.execute(select(*generations.c, kept).where(*same).with_for_update()).one_or_none()
        if row is None:
            return None
        if not row.kept:
            connection.execute(update(generations).where(generations.c.id == row.id).values(idempotency_key=None))
            return None
        if row.fingerprint != new.fingerprint:
            detail = "This Idempotency-Key was sent with another request. Send a new key with a new request."
            raise IdempotencyKeyReused(detail)
        # If the connection breaks during a commit, the same generation is submitted again.
        return Submission(self._rows.load(row), is_new=row.id == new.id)

    @property
    def _has_key(self) -> Any:
        return or_(generations.c.key_expires_at.is_(None), generations.c.key_expires_at > self._rows.now)

    def _taken_over(self, connection: Connection, new: NewGeneration) -> Submission | None:
        """Return the generation that the request takes over by its retry count."""
        if new.idempotency_key is not None or not new.retry_count:
            return None
        owner = new.order.caller.owner
        if not self._rows.database.is_sqlite:
            # Repetitions choose one after the other. Otherwise two would choose the same generation.
            connection.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(owner + new.fingerprint, 0))))
        recent = or_(
            generations.c.finished_at.is_(None), generations.c.finished_at > self._rows.now - REPETITION_SECONDS
        )
        expecting = (
            generations.c.owner == owner,
            generations.c.fingerprint == new.fingerprint,
            # A smaller number: the retries in between have not reached any replica.
            generations.c.next_count <= new.retry_count,
            self._rows.alive,
            recent,
        )
        order = case((or_(generations.c.caller_left, _ENDED_FREE), 0), (_IN_PROGRESS, 1), else_=2)
        row = connection.execute(
            select(*generations.c, _ENDED_FREE.label("ended_free"))
            .where(*expecting)
            .order_by(generations.c.next_count.desc(), order, generations.c.created_at, generations.c.id)
            .limit(1)
            .with_for_update()
        ).one_or_none()
        if row is None:
            return None
        this = generations.c.id == row.id
        if row.ended_free:
            # The new generation takes its place. An asynchronous one can still be read under its id.
            if row.is_async:
                connection.execute(update(generations).where(this).values(next_count=None))
            else:
                connection.execute(delete(generations).where(this))
            return None
        connection.execute(update(generations).where(this).values(next_count=new.retry_count + 1, caller_left=False))
        return Submission(self._rows.load(row), is_new=False, taken_over=True)

    def _insert(self, connection: Connection, new: NewGeneration, document: str) -> Submission | None:
        """Insert the row. Return `None` if a concurrent request has inserted one with the same key."""
        counted = new.idempotency_key is None and new.retry_count is not None
        status = GenerationStatus.QUEUED if new.is_async else GenerationStatus.RUNNING
        values = {
            "id": new.id,
            "owner": new.order.caller.owner,
            "idempotency_key": new.idempotency_key,
            "fingerprint": new.fingerprint,
            "next_count": (new.retry_count or 0) + 1 if counted else None,
            "chat_id": new.order.turn.chat_id if new.order.turn else None,
            "is_async": new.is_async,
            "status": status,
            "lease_holder": None if new.is_async else new.holder,
            "webhook_url": new.webhook_url,
            "document": document,
        }
        asked = new.asked and not new.is_async
        times = connection.execute(self._inserts[new.is_async, asked], values).one_or_none()
        if times is None:
            return None
        if new.is_async:
            self._require_place(connection)
        generation = RecordedGeneration(
            id=new.id,
            owner=new.order.caller.owner,
            status=status,
            is_async=new.is_async,
            order=new.order,
            base_url=new.base_url,
            webhook_url=new.webhook_url,
            **times._mapping,
        )
        return Submission(generation, is_new=True)

    def _require_place(self, connection: Connection) -> None:
        """Check that the new generation, which is inserted, may wait.

        Raises:
            Overloaded: too many asynchronous generations wait.
        """
        queued = select(func.count()).where(generations.c.status == GenerationStatus.QUEUED)
        if connection.execute(queued).scalar_one() > self._max_queued:
            raise Overloaded("Too many asynchronous generations are waiting.", retry_after=_RETRY_AFTER_SECONDS)


def _keep_seconds(new: NewGeneration) -> float | None:
    """Return how long the generation is kept after its end. Nobody can name one without a key or a link for long."""
    can_be_named = new.idempotency_key is not None or new.is_async or new.order.view.get("url")
    return REPETITION_SECONDS if new.retry_count is not None and not can_be_named else None


def _names(stored: dict[int, Any]) -> NameBlob:
    return lambda content: (stored[id(content)].name, len(content))
