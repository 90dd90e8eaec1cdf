"""Settle a generation: its outcomes, the end of its lease, and its webhook, in one transaction."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import bindparam, delete, select, update
from sqlalchemy.engine import Connection

from app.domain.errors import LeaseLost, OutcomeUnknown, ServiceError
from app.domain.generation import Generation, Image
from app.domain.recorded import GenerationStatus, Outcome, RecordedGeneration, cost_of
from app.domain.spending import ImageCost
from app.lib.base64_json import Content
from app.store.blobs import Blob
from app.store.deliveries import enqueue
from app.store.generations.answers import AnswerStore
from app.store.generations.rows import REPETITION_SECONDS, UNLEASED, GenerationRows
from app.store.generations.serialization import dump_result, load_order
from app.store.tables import generations

_GROUNDED_SECONDS = 24 * 3600
"""Google's terms allow no longer storage of results that are grounded in its search."""


@dataclass(frozen=True, slots=True)
class Ending:
    """What a generation ends with."""

    outcomes: tuple[Outcome, ...]
    attempts: int
    is_converted: bool
    costs: tuple[ImageCost, ...] = ()
    """One for each image. If there are none, they are those of the outcomes."""

    @property
    def generations(self) -> list[Generation]:
        return [one for one in self.outcomes if isinstance(one, Generation)]

    @property
    def status(self) -> GenerationStatus:
        if self.generations:
            return GenerationStatus.SUCCEEDED
        is_unknown = any(isinstance(one, OutcomeUnknown) for one in self.outcomes)
        return GenerationStatus.INTERRUPTED if is_unknown else GenerationStatus.FAILED

    @property
    def may_have_cost(self) -> bool:
        return any(not isinstance(one, ServiceError) or one.may_have_cost for one in self.outcomes)

    @property
    def is_grounded(self) -> bool:
        return any(one.grounding is not None for one in self.generations)

    def cost(self, place: int, model: str, units: int) -> ImageCost:
        """Return the cost of an image that has reserved for so many calls of the model."""
        return self.costs[place] if self.costs else cost_of(self.outcomes[place], model, units)

    @property
    def images(self) -> Iterator[Image]:
        for one in self.generations:
            yield from (one.image, *one.drafts)


class Settlements:
    def __init__(self, rows: GenerationRows, answers: AnswerStore) -> None:
        self._rows = rows
        self._answers = answers
        lease_ended = (generations.c.lease_until < rows.now).label("lease_ended")
        this = generations.c.id == bindparam("this")
        # Built once: SQLAlchemy takes longer to build a statement than the database to run it.
        self._lock = select(*generations.c, lease_ended).where(this).with_for_update()
        self._update = (
            update(generations)
            .where(this)
            .values(
                finished_at=rows.now,
                expires_at=rows.now + bindparam("seconds"),
                key_expires_at=rows.now + rows.lifetimes.idempotency_key,
                **UNLEASED,
            )
            .returning(generations.c.finished_at, generations.c.expires_at)
        )

    async def settle(self, id_: str, holder: str, ending: Ending) -> RecordedGeneration:
        """See `GenerationStore.settle`."""
        ending = await self._stored(id_, ending)
        result = dump_result(ending.outcomes, _name, is_converted=ending.is_converted)

        def transaction(connection: Connection) -> RecordedGeneration:
            row = connection.execute(self._lock, {"this": id_}).one_or_none()
            if row is None:
                raise LeaseLost("This generation is gone.")
            # Gemini is asked by one process only. Its late answer is better than the end that another one has noted.
            is_late = row.status == GenerationStatus.INTERRUPTED and ending.generations
            if is_late or (row.lease_holder == holder and row.status == GenerationStatus.RUNNING):
                return self._end(connection, row, ending, result)
            if row.result == result:
                return self._rows.load(row)  # an earlier call has settled it
            raise LeaseLost("Another process has settled this generation.")

        settled = await self._rows.database.write(transaction)
        self._forget_answers(id_, ending)
        return settled

    async def settle_dead(self, id_: str, holder: str, ending: Ending, *, is_complete: bool = False) -> bool:
        """Settle a generation whose process has died. Return whether nobody else has settled it or renewed the lease.

        Args:
            id_: of the generation.
            holder: of its lease.
            ending: what to write.
            is_complete: whether all answers are stored. Then the lease may still be valid.
        """
        ending = await self._stored(id_, ending)
        result = dump_result(ending.outcomes, _name, is_converted=ending.is_converted)

        def transaction(connection: Connection) -> bool:
            row = connection.execute(self._lock, {"this": id_}).one_or_none()
            if row is None or row.status != GenerationStatus.RUNNING or row.lease_holder != holder:
                return False
            is_over = bool(row.lease_ended) or is_complete
            if is_over:
                self._end(connection, row, ending, result)
            return is_over

        settled = await self._rows.database.write(transaction)
        if settled:
            self._forget_answers(id_, ending)
        return settled

    async def _stored(self, id_: str, ending: Ending) -> Ending:
        """Return the ending with all images in the store, and with rows of their blobs."""
        stored = await self._answers.adopt(id_, (image.content for image in ending.images))
        if not stored:
            return ending

        def image(one: Image) -> Image:
            return replace(one, content=stored.get(id(one.content), one.content))

        outcomes = (
            replace(one, image=image(one.image), drafts=tuple(map(image, one.drafts)))
            if isinstance(one, Generation)
            else one
            for one in ending.outcomes
        )
        return replace(ending, outcomes=tuple(outcomes))

    def _end(self, connection: Connection, row: Any, ending: Ending, result: str) -> RecordedGeneration:
        """Write the ending to a locked row."""
        document = load_order(row.document, self._rows.blobs.blob)
        is_free = not ending.may_have_cost
        values = {
            "this": row.id,
            "status": ending.status,
            "result": result,
            "attempts": ending.attempts,
            "may_have_cost": ending.may_have_cost,
            "idempotency_key": None if is_free else row.idempotency_key,
            "seconds": self._lifetime(row, ending, document.keep_seconds),
        }
        times = connection.execute(self._update, values).one()
        if (charge := document.order.charge) is not None:
            # Nothing is reserved any more if the generation was settled as interrupted before.
            self._rows.reservations.settle_generation(
                connection, row.id, lambda place, units: ending.cost(place, charge.model, units)
            )
        if is_free and not row.is_async and row.next_count is None:
            connection.execute(delete(generations).where(generations.c.id == row.id))
        else:
            references = [one.image.content for one in document.order.request.references]
            contents = [*references, *(image.content for image in ending.images)]
            self._rows.set_blobs(connection, row.id, {one.digest for one in contents if isinstance(one, Blob)})
            if row.webhook_url is not None:
                enqueue(connection, self._rows.database, row.id, row.webhook_url)
        return replace(
            self._rows.load(row, document),
            status=ending.status,
            outcomes=ending.outcomes,
            is_converted=ending.is_converted,
            attempts=ending.attempts,
            may_have_cost=ending.may_have_cost,
            **times._mapping,
        )

    def _lifetime(self, row: Any, ending: Ending, keep_seconds: float | None) -> float:
        """Return for how many seconds the generation is kept."""
        lifetimes = self._rows.lifetimes
        seconds = lifetimes.generation if keep_seconds is None else keep_seconds
        if row.idempotency_key is not None:
            seconds = max(seconds, lifetimes.idempotency_key)  # otherwise the key would be forgotten with it
        if not ending.may_have_cost and not row.is_async:
            seconds = REPETITION_SECONDS
        return min(seconds, _GROUNDED_SECONDS) if ending.is_grounded else seconds

    def _forget_answers(self, id_: str, ending: Ending) -> None:
        if ending.generations:
            self._answers.forget(id_, len(ending.outcomes))


def _name(content: Content) -> tuple[str, int]:
    assert isinstance(content, Blob)
    return content.name, len(content)
