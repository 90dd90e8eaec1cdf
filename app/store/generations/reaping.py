"""Settle generations whose process died: their lease has ended and they are still running."""

import logging
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.engine import Connection

from app.domain.errors import ChatNotFound, LeaseLost, OutcomeUnknown, StorageDamaged, StorageError
from app.domain.generation import Generation
from app.domain.recorded import GenerationStatus, Outcome, TurnToSave
from app.store.chats.turns import TurnStore
from app.store.generations.answers import AnswerStore
from app.store.generations.rows import UNLEASED, GenerationRows
from app.store.generations.serialization import image_count
from app.store.generations.settlement import Ending, Settlements
from app.store.tables import generations

log = logging.getLogger(__name__)

_BATCH = 20

_INTERRUPTED = (
    "The service was interrupted while Gemini was making the image. It may have been paid for. It is not asked for "
    "again; send a new request, with a new Idempotency-Key if it has one, to make another image."
)
_TURN_LOST = "The service was interrupted, and the image could not be added to its chat."


@dataclass(frozen=True, slots=True)
class ReapResult:
    """What became of generations whose process died."""

    requeued: int = 0
    removed: int = 0
    recovered: int = 0
    """The answer had reached the store."""
    interrupted: int = 0

    def __bool__(self) -> bool:
        return bool(self.requeued or self.removed or self.recovered or self.interrupted)


class Reaper:
    def __init__(self, rows: GenerationRows, answers: AnswerStore, settlements: Settlements, turns: TurnStore) -> None:
        self._rows = rows
        self._answers = answers
        self._settlements = settlements
        self._turns = turns

    async def reap(self) -> ReapResult:
        """See `GenerationStore.reap`."""
        dead = generations.c.status == GenerationStatus.RUNNING, generations.c.lease_until < self._rows.now
        requeued, removed = await self._reap_unasked(dead)
        recovered = interrupted = 0
        last = ""
        while batch := await self._asked(dead, last):
            for row in batch:
                try:
                    status = await self._settle(row)
                except (StorageError, ValueError) as error:  # the others must not wait for it
                    cause = getattr(error, "cause", type(error).__name__)
                    log.error("a generation cannot be settled", extra={"generation": row.id, "cause": cause})
                    continue
                recovered += status is GenerationStatus.SUCCEEDED
                interrupted += status is GenerationStatus.INTERRUPTED
            last = batch[-1].id
        return ReapResult(requeued, removed, recovered, interrupted)

    async def recover(self, id_: str) -> bool:
        """See `GenerationStore.recover`."""
        columns = generations.c.id, generations.c.lease_holder, generations.c.document
        asked = generations.c.status == GenerationStatus.RUNNING, generations.c.asked_at.is_not(None)
        query = select(*columns).where(generations.c.id == id_, *asked)
        row = await self._rows.database.read(lambda connection: connection.execute(query).one_or_none())
        if row is None:
            return False
        for place in range(image_count(row.document)):
            if await self._answers.find(id_, place) is None:
                return False
        return await self._settle(row, is_complete=True) is not None

    async def _reap_unasked(self, dead: tuple[Any, ...]) -> tuple[int, int]:
        """Return how many were queued again, and how many were deleted."""
        unasked = *dead, generations.c.asked_at.is_(None)
        queued = (
            update(generations)
            .where(*unasked, generations.c.is_async)
            .values(status=GenerationStatus.QUEUED, due_at=self._rows.now, started_at=None, **UNLEASED)
            .returning(generations.c.id)
        )
        removed = delete(generations).where(*unasked, ~generations.c.is_async).returning(generations.c.id)

        def are_any(connection: Connection) -> bool:
            return connection.execute(select(generations.c.id).where(*unasked).limit(1)).first() is not None

        def transaction(connection: Connection) -> tuple[int, int]:
            return len(connection.execute(queued).all()), len(connection.execute(removed).all())

        if not await self._rows.database.read(are_any):
            return 0, 0
        return await self._rows.database.write(transaction)

    async def _asked(self, dead: tuple[Any, ...], last: str) -> list[Any]:
        """Return the next batch of rows, after the id `last`."""
        columns = generations.c.id, generations.c.lease_holder, generations.c.document
        query = select(*columns).where(*dead, generations.c.asked_at.is_not(None), generations.c.id > last)
        batch = query.order_by(generations.c.id).limit(_BATCH)
        return await self._rows.database.read(lambda connection: [*connection.execute(batch)])

    async def _settle(self, row: Any, *, is_complete: bool = False) -> GenerationStatus | None:
        """Settle one generation. Return its status, or `None` if another process has settled it.

        Args:
            row: of the generation.
            is_complete: whether all its answers are stored, so that its lease does not matter.

        Raises:
            StorageUnavailable, StorageFull: it stays as it is, because its answers may be in the store.
        """
        outcomes = [await self._outcome(row.id, place) for place in range(image_count(row.document))]
        made = [one for one in outcomes if isinstance(one, Generation)]
        attempts = max(1, sum(one.attempts for one in made))
        ending = Ending(tuple(outcomes), attempts, is_converted=False)
        if not await self._settlements.settle_dead(row.id, row.lease_holder, ending, is_complete=is_complete):
            return None
        log.warning(
            "a generation's process died",
            extra={"generation": row.id, "status": ending.status.value, "images": len(made)},
        )
        return ending.status

    async def _outcome(self, id_: str, place: int) -> Outcome:
        answer = await self._answers.find(id_, place)
        if answer is None:
            return OutcomeUnknown(_INTERRUPTED)
        return answer.generation if answer.turn is None else await self._with_turn(answer.generation, answer.turn)

    async def _with_turn(self, generation: Generation, turn: TurnToSave) -> Generation:
        """Save the turn, as its process would have done, and return the generation with its number."""
        try:
            await self._turns.recover(turn)
        except (ChatNotFound, LeaseLost, StorageDamaged):
            return replace(generation, chat_id=turn.chat_id, warnings=(*generation.warnings, _TURN_LOST))
        return replace(generation, chat_id=turn.chat_id, turn=turn.turn.number)
