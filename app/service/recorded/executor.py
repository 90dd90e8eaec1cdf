"""Runs a recorded generation: prepare, fence the paid call, keep Gemini's answer, settle.

The order of durable steps: the row exists; it says that Gemini is asked; Gemini is asked; the answer is in the blob
store; the row says so. After a crash between any two of them, `GenerationStore.reap` decides by what it finds.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from app.domain.errors import (
    CallerError,
    LeaseLost,
    OutcomeUnknown,
    Overloaded,
    ServiceError,
    StorageError,
    StorageFull,
    StorageUnavailable,
    TurnInProgress,
)
from app.domain.generation import Generation
from app.domain.progress import GenerationProgress, ProgressEvent
from app.domain.recorded import Outcome, TurnToSave
from app.lib import logs
from app.service.chats.service import ChatService, TurnRequest
from app.service.chats.turn import PendingTurn
from app.service.generation.plan import GenerationPlan
from app.service.generation.runs import GenerationRuns
from app.service.generation.service import ImageService
from app.service.leases import LeaseKeeper
from app.service.metrics import Metrics
from app.service.recorded.work import Answer, Work
from app.service.resilience.admission import Admission
from app.service.storage_retries import persistently
from app.store import Storage

log = logging.getLogger(__name__)

_STOPPED = "The service stopped while Gemini was making the image, which may have been paid for."

_TURN_LOST = "The image is not in its chat: another turn was added meanwhile, or the chat was deleted."

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
        self.images = images
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
            run.admit()
        if order.turn is None:
            return _Prepared(self.images.plan(order.request), None)
        chat_id = order.turn.chat_id
        if chat_id is None:
            defaults = order.turn.defaults
            assert defaults is not None
            self.images.plan(order.request)
            chat_id = (await self._chats.create(order.caller, defaults, order.request)).id
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
        places = [_Place(self, work, prepared, place) for place in range(work.order.count)]
        outcomes = tuple(await asyncio.gather(*(place.outcome() for place in places)))
        if work.is_lost:
            return  # `finish` tells those who wait to look into the database
        if await self._goes_back(work, outcomes):
            return
        work.answered.set_result(Answer(outcomes, is_converted=True))
        if any(place.waits_for_storage for place in places):
            return  # `reap` saves the turn and settles, when the lease has ended
        stored = tuple([await place.stored(outcome) for place, outcome in zip(places, outcomes, strict=True)])
        is_converted = not any(place.has_original_only for place in places)
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

        async def settle() -> None:
            store = await self._storage.generations()
            await store.settle(work.id, work.holder, outcomes, attempts=attempts, is_converted=is_converted)

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

    async def keep(self, work: Work, place: int, generation: Generation, turn: TurnToSave | None) -> Generation:
        """Store an answer of Gemini, also if the storage is away for a moment.

        Raises:
            StorageError: the storage is away for longer.
        """

        async def keep() -> Generation:
            store = await self._storage.generations()
            return await store.keep_answer(work.id, place, generation, turn, partial(work.note_kept, place))

        return await persistently(keep)


class _Place:
    """One image of the order."""

    def __init__(self, executor: Executor, work: Work, prepared: _Prepared, place: int) -> None:
        self._executor = executor
        self._work = work
        self._prepared = prepared
        self._place = place
        self._original: Generation | None = None
        self._keeping: asyncio.Task[Generation] | None = None
        self._kept: Generation | None = None
        """Of a turn: the stored answer, before the turn is saved."""
        self._turn_error: ServiceError | None = None
        """Why the turn of a stored answer is not saved."""
        self._conversion_failed = False

    @property
    def waits_for_storage(self) -> bool:
        """Whether the answer is stored, and the turn of its chat could not be, because the storage is away."""
        return isinstance(self._turn_error, StorageUnavailable | StorageFull)

    @property
    def has_original_only(self) -> bool:
        """Whether the image could not be converted, so that Gemini's file is stored."""
        return self._conversion_failed

    async def outcome(self) -> Outcome:
        """Generate the image. The answer is being stored when this returns."""
        listener: Callable[[ProgressEvent], None] | None = None
        if self._work.streams:
            listener = partial(self._work.notify, self._place)
        run = self._work.runs[self._place]
        try:
            return await run.generate(
                self._prepared.plan, self._make, _never, listener, before_call=partial(self._executor.ask, self._work)
            )
        except ServiceError as error:
            if self._kept is not None and isinstance(self._turn_error, CallerError):
                warnings = (*self._kept.warnings, _TURN_LOST)
                return replace(self._kept, request_parts=(), response_parts=(), chat_context=None, warnings=warnings)
            stopped = isinstance(error, Overloaded) and error.may_have_cost
            outcome = OutcomeUnknown(_STOPPED) if stopped else error.copied()
            outcome.request_id = logs.request_id.get()
            return outcome

    async def stored(self, outcome: Outcome) -> Outcome:
        """Return what to store: the outcome with its images in the store, and a paid image rather than an error."""
        if self._keeping is None:
            return outcome
        try:
            kept = await self._keeping
        except StorageError as error:
            error.may_have_cost = True
            return error
        if isinstance(outcome, Generation):
            return kept if outcome is self._original else outcome
        self._conversion_failed = True
        return kept

    async def _make(self, admission: Admission, progress: GenerationProgress) -> Generation:
        turn = self._prepared.turn
        if turn is not None:
            return await self._make_turn(turn, admission, progress)
        generation = self._named(await self._executor.images.generate(self._prepared.plan, admission, progress))
        self._original = generation
        # The response is sent meanwhile; its last bytes wait.
        self._keeping = asyncio.create_task(self._executor.keep(self._work, self._place, generation, None))
        return generation

    async def _make_turn(self, turn: PendingTurn, admission: Admission, progress: GenerationProgress) -> Generation:
        try:
            return await turn.generate(admission, progress, keep=self._keep_with_turn)
        except ServiceError as error:
            if self._kept is not None:
                self._turn_error = error
            raise

    async def _keep_with_turn(self, generation: Generation, to_save: Callable[[Generation], TurnToSave]) -> Generation:
        generation = self._named(generation)
        self._kept = await self._executor.keep(self._work, self._place, generation, to_save(generation))
        return self._kept

    def _named(self, generation: Generation) -> Generation:
        """Return the generation with the id of the resource."""
        return replace(generation, id=self._work.id if not self._place else f"{self._work.id}.{self._place}")


async def _never() -> ServiceError:
    """Nobody's disconnect ends a recorded generation."""
    await asyncio.Event().wait()
    raise AssertionError
