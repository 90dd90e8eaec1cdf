"""Runs a recorded generation: prepare, fence the paid call, keep Gemini's answer, settle.

The order of durable steps: the row exists; it says that Gemini is asked; Gemini is asked; the answer is in the blob
store; the row says so. After a crash between any two of them, `GenerationStore.reap` decides by what it finds.
"""

import asyncio
import logging
from dataclasses import dataclass
from functools import partial

from app.domain.errors import (
    LeaseLost,
    OutcomeUnknown,
    Overloaded,
    ServiceError,
    StorageError,
    TurnInProgress,
)
from app.domain.generation import Generation
from app.domain.recorded import Outcome, TurnToSave
from app.service.callers.bills import RecordedBill, extend_reservation
from app.service.chats.service import ChatService, TurnRequest
from app.service.chats.turn import PendingTurn
from app.service.generation.plan import GenerationPlan
from app.service.generation.runs import GenerationRuns
from app.service.generation.service import ImageService
from app.service.leases import LeaseKeeper
from app.service.metrics import Metrics
from app.service.recorded.ordered_image import OrderedImage
from app.service.recorded.work import Answer, Work
from app.service.resilience.admission import Admission
from app.service.storage_retries import persistently
from app.store import Storage

log = logging.getLogger(__name__)

_SLOT_PAUSE_SECONDS = 1.0
"""Time after which an asynchronous generation is tried again that needs more slots than are free. A stopping service
gives it to other replicas at once."""

_TURN_PAUSE_SECONDS = 1.0
"""Time after which an asynchronous turn is tried again whose chat is making another turn."""

_STORAGE_PAUSE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class _Prepared:
    plan: GenerationPlan
    turn: PendingTurn | None


class Executor:
    def __init__(
        self,
        images: ImageService,
        chats: ChatService,
        runs: GenerationRuns,
        storage: Storage,
        leases: LeaseKeeper,
        metrics: Metrics,
        seconds: float,
    ) -> None:
        """
        Args:
            images: makes images.
            chats: makes turns.
            runs: begins the runs.
            storage: where generations are stored.
            leases: of this process.
            metrics: counts interrupted generations.
            seconds: time limit of a generation.
        """
        self._images = images
        self._chats = chats
        self._runs = runs
        self._storage = storage
        self._leases = leases
        self._metrics = metrics
        self._seconds = seconds

    async def prepare(self, work: Work, admissions: list[Admission]) -> _Prepared:
        """Plan the generation, take the chat's lease, and take slots or positions in the queue.

        Args:
            work: whose row exists.
            admissions: slots that were taken for it already.

        Raises:
            Overloaded: the queue is full, or the service stops.
            ServiceError: as `ImageService.plan` and `ChatService.begin`.
        """
        order = work.order
        for place in range(order.count):
            work.runs.append(
                self._runs.begin(order.caller, self._seconds, admissions[place] if place < len(admissions) else None)
            )
        for run in work.runs:
            if order.charge is not None:
                run.bill = RecordedBill()
            run.admit(patient=work.is_async)
        await (await self._storage.generations()).blobs.require_writable()
        if order.turn is None:
            return _Prepared(self._images.plan(order.request, order.caller.limits), None)
        chat_id = order.turn.chat_id
        if chat_id is None:
            defaults = order.turn.defaults
            assert defaults is not None
            self._images.plan(order.request, order.caller.limits)
            # A generation that is queued again must not create another chat.
            chat_id = work.id.replace("gen_", "chat_", 1)
            await self._chats.create(order.caller, defaults, order.request, chat_id)
        work.chat_id = chat_id
        turn = TurnRequest(order.request, order.turn.given, order.turn.expected_last_turns, order.turn.replace_turn)
        pending = await self._chats.begin(chat_id, order.caller, turn)
        return _Prepared(pending.plan, pending)

    async def execute(self, work: Work, prepared: _Prepared) -> None:
        """Generate and store all images of the order, and settle the row."""
        try:
            with self._runs.controller.delivering():
                await self._generate_and_settle(work, prepared)
        finally:
            if prepared.turn is not None:
                await prepared.turn.aclose()
            self.finish(work)

    async def abandon(self, work: Work, error: ServiceError) -> None:
        """Settle a generation whose preparation has failed."""
        try:
            if not await self._goes_back(work, (error,)):
                await self._settle(work, (error,))
        finally:
            if not work.answered.done():
                work.answered.set_result(Answer((error,), is_converted=True))
            self.finish(work)

    def finish(self, work: Work) -> None:
        self._leases.forget(work.holder)
        for future in (work.answered, work.kept, work.settled):
            if not future.done():
                future.set_result(None)
        work.release()

    async def _generate_and_settle(self, work: Work, prepared: _Prepared) -> None:
        images = [
            OrderedImage(
                work,
                place,
                prepared.plan,
                prepared.turn,
                images=self._images,
                guard=_Guard(self, work, place),
                keep=self.keep,
            )
            for place in range(work.order.count)
        ]
        outcomes = tuple(await asyncio.gather(*(image.outcome() for image in images)))
        if work.is_lost:
            return  # `finish` tells those who wait to look into the database
        if await self._goes_back(work, outcomes):
            return
        work.answered.set_result(Answer(outcomes, is_converted=True))
        if any(image.waits_for_storage for image in images):
            return  # `reap` saves the turn and settles, when the lease has ended
        stored = tuple([await image.stored(outcome) for image, outcome in zip(images, outcomes, strict=True)])
        is_converted = not any(image.has_original_only for image in images)
        await self._settle(work, stored, is_converted=is_converted)

    async def _goes_back(self, work: Work, outcomes: tuple[Outcome, ...]) -> bool:
        """Give an asynchronous generation back to the queue if nothing was asked and another time is better."""
        pauses = {
            Overloaded: 0.0 if self._runs.controller.draining else _SLOT_PAUSE_SECONDS,
            TurnInProgress: _TURN_PAUSE_SECONDS,
            StorageError: _STORAGE_PAUSE_SECONDS,
        }
        error = outcomes[0]
        pause = next((seconds for kind, seconds in pauses.items() if isinstance(error, kind)), None)
        attempts = sum(run.attempts for run in work.runs)
        if not work.is_async or pause is None or work.asked or attempts:
            return False
        try:
            await (await self._storage.generations()).requeue(work.id, work.holder, pause)
        except (StorageError, LeaseLost) as failure:  # `reap` does it when the lease has ended
            log.warning("a generation could not be queued again", extra={"cause": failure.cause})
        return True

    async def _settle(self, work: Work, outcomes: tuple[Outcome, ...], *, is_converted: bool = True) -> None:
        attempts = sum(run.attempts for run in work.runs)
        costs = [run.cost for run in work.runs]

        async def settle() -> None:
            store = await self._storage.generations()
            await store.settle(
                work.id, work.holder, outcomes, attempts=attempts, is_converted=is_converted, costs=costs
            )

        try:
            await persistently(settle)
            if all(isinstance(outcome, OutcomeUnknown) for outcome in outcomes):
                self._metrics.record_interrupted(1)
        except LeaseLost:
            log.warning("a generation was settled by another process", extra={"generation": work.id})
        except StorageError as error:  # `reap` finds the answer in the blob store
            log.error("a generation could not be settled", extra={"generation": work.id, "cause": error.cause})

    async def ask(self, work: Work) -> None:
        """Make durable that Gemini is about to be asked.

        Raises:
            LeaseLost: another process has the generation, or it was deleted.
            StorageUnavailable: nothing may be asked.
        """
        async with work.asking:
            if not work.asked:
                store = await self._storage.generations()
                try:
                    await store.mark_asked(work.id, work.holder)
                except LeaseLost:
                    work.is_lost = True
                    raise
                work.asked = True

    async def allows_repetition(self, work: Work, place: int) -> bool:
        """Reserve one more call for an image. Return whether the caller's budget allows it."""
        return work.order.charge is None or await extend_reservation(self._storage, f"{work.id}.{place}")

    async def keep(self, work: Work, place: int, generation: Generation, turn: TurnToSave | None) -> Generation:
        """Store an answer of Gemini, also if the storage is away for a moment.

        Raises:
            StorageError: the storage is away for longer.
        """

        async def keep() -> Generation:
            store = await self._storage.generations()
            return await store.keep_answer(work.id, place, generation, turn, partial(work.note_kept, place))

        return await persistently(keep)


class _Guard:
    """Decides on the calls to Gemini for one image."""

    def __init__(self, executor: Executor, work: Work, place: int) -> None:
        self._executor = executor
        self._work = work
        self._place = place

    async def before_call(self) -> None:
        await self._executor.ask(self._work)

    async def allows_repetition(self) -> bool:
        return await self._executor.allows_repetition(self._work, self._place)
