"""One image of a recorded generation: it is generated once, and stored before anything else can go wrong."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from functools import partial
from typing import Any

from app.domain.errors import (
    CallerError,
    OutcomeUnknown,
    Overloaded,
    ServiceError,
    StorageError,
    StorageFull,
    StorageUnavailable,
)
from app.domain.generation import Generation
from app.domain.progress import CallGuard, GenerationProgress, ProgressEvent
from app.domain.recorded import Outcome, TurnToSave
from app.lib import logs
from app.service.chats.turn import PendingTurn
from app.service.generation.plan import GenerationPlan
from app.service.generation.service import ImageService
from app.service.recorded.work import Work
from app.service.resilience.admission import Admission

Keep = Callable[[Work, int, Generation, TurnToSave | None], Coroutine[Any, Any, Generation]]

_STOPPED = "The service stopped while Gemini was making the image, which may have been paid for."

_TURN_LOST = "The image is not in its chat: another turn was added meanwhile, or the chat was deleted."


class OrderedImage:
    """One image of the order."""

    def __init__(
        self,
        work: Work,
        place: int,
        plan: GenerationPlan,
        turn: PendingTurn | None,
        *,
        images: ImageService,
        guard: CallGuard,
        keep: Keep,
    ) -> None:
        """
        Args:
            work: the recorded generation.
            place: index of the image.
            plan: what to generate.
            turn: the turn of a chat that stores the image.
            images: generates the image.
            guard: makes durable that Gemini is about to be asked.
            keep: stores Gemini's answer.
        """
        self._work = work
        self._place = place
        self._plan = plan
        self._turn = turn
        self._images = images
        self._guard = guard
        self._keep = keep
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
            return await run.generate(self._plan, self._make, _never, listener, guard=self._guard)
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
        if self._turn is not None:
            return await self._make_turn(self._turn, admission, progress)
        generation = self._named(await self._images.generate(self._plan, admission, progress))
        self._original = generation
        # The response is sent meanwhile; its last bytes wait.
        self._keeping = asyncio.create_task(self._keep(self._work, self._place, generation, None))
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
        self._kept = await self._keep(self._work, self._place, generation, to_save(generation))
        return self._kept

    def _named(self, generation: Generation) -> Generation:
        """Return the generation with the id of the resource."""
        return replace(generation, id=self._work.id if not self._place else f"{self._work.id}.{self._place}")


async def _never() -> ServiceError:
    """Wait for ever: a recorded generation goes on when its caller disconnects."""
    await asyncio.Event().wait()
    raise AssertionError
