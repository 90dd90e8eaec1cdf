"""One request's hold on a recorded generation: wait for it, and get its answer."""

import asyncio
import logging
from collections.abc import Callable

from app.domain.errors import GenerationCancelled, GenerationRefused
from app.domain.generation import Generation
from app.domain.progress import ProgressEvent
from app.domain.recorded import GenerationStatus, Outcome, RecordedGeneration, Submission
from app.service.metrics import Metrics
from app.service.recorded.watcher import StatusWatcher
from app.service.recorded.work import Answer, Listener, Work
from app.store import Storage

_LOOK_SECONDS = 5.0
"""Time after which a waiting request looks for the answer itself: the process that made it may be dead."""

_SETTLING_SECONDS = 1.0
"""How long a response waits until what it has reserved is booked. A working database takes milliseconds."""

log = logging.getLogger(__name__)


class Attachment:
    """Must be closed when the response has been sent."""

    def __init__(
        self,
        submission: Submission,
        work: Work | None,
        *,
        storage: Storage,
        watcher: StatusWatcher,
        metrics: Metrics,
    ) -> None:
        """
        Args:
            submission: the generation, as the request found it.
            work: the generation if this process runs it.
            storage: where generations are stored.
            watcher: waits for other processes.
            metrics: counts replays.
        """
        self.id = submission.generation.id
        self.is_replay = not submission.is_new
        self.allowance = submission.allowance
        """What is left of the caller's limits, if the request has reserved."""
        self._generation = submission.generation
        self._work = work
        self._taken_over = submission.taken_over
        self._storage = storage
        self._watcher = watcher
        self._metrics = metrics
        self._listeners: list[Listener] = []
        self._counted = False
        if work is not None:
            work.retain()

    @property
    def chat_id(self) -> str | None:
        """The chat that stores the image, if it is known."""
        if self._work is not None and self._work.chat_id:
            return self._work.chat_id
        order = self._generation.order
        return order.turn.chat_id if order and order.turn else None

    def listen(self, place: int, listener: Callable[[ProgressEvent], None]) -> None:
        """Receive the progress events of the image with this index, if this process runs the generation."""
        if self._work is None:
            return

        def notify(of: int, event: ProgressEvent) -> None:
            if of == place:
                listener(event)

        self._work.listeners.add(notify)
        self._listeners.append(notify)

    def on_end(self, callback: Callable[[], None]) -> None:
        """Call `callback` when this process needs the request's files no more."""
        if self._work is None or self.is_replay:
            callback()
        else:
            self._work.settled.add_done_callback(lambda _: callback())

    async def answer(self) -> Answer:
        """Wait until the generation is over.

        Raises:
            GenerationNotFound: it failed without cost, or was deleted, and another process ran it.
            GenerationCancelled: it was cancelled.
            StorageError: the answer cannot be read.
        """
        answer = await asyncio.shield(self._work.answered) if self._work is not None else None
        if answer is None:
            answer = await self._from_database()
        self.count_replay(answer.outcomes)
        return answer

    def count_replay(self, outcomes: tuple[Outcome, ...]) -> None:
        """Count once that the caller gets the result of an earlier request.

        Args:
            outcomes: what it need not buy again; empty if the earlier request is not over.
        """
        if self._counted or not self.is_replay:
            return
        self._counted = True
        dollars = _dollars(outcomes)
        self._metrics.record_replay(dollars, taken_over=self._taken_over)
        matched_by = "retry_count" if self._taken_over else "key"
        log.info("replay", extra={"generation": self.id, "matchedBy": matched_by, "savedUsd": round(dollars, 6)})

    @property
    def created_at(self) -> float:
        """Unix time in seconds by the database's clock."""
        return self._generation.created_at

    async def kept(self) -> None:
        """Wait until the images survive the end of this process, and until what they have reserved is free for the
        caller's next request. If booking takes longer than a second, the response ends first."""
        if self._work is None:
            return
        await asyncio.shield(self._work.kept)
        if self._work.order.charge is not None:
            await asyncio.wait({self._work.settled}, timeout=_SETTLING_SECONDS)

    async def settled(self) -> None:
        """Wait until the answer is stored, or storing it has failed for good."""
        if self._work is not None:
            await asyncio.shield(self._work.settled)

    async def recorded(self) -> RecordedGeneration:
        """Wait until the answer is stored, and return the row.

        Raises:
            GenerationNotFound: nothing is stored: it failed without cost, or was deleted.
        """
        await self.settled()
        return await (await self._storage.generations()).get(self.id, self._generation.owner)

    async def _from_database(self) -> Answer:
        store = await self._storage.generations()
        generation = self._generation
        while not generation.is_final:
            if generation.asked_at is None or not await store.recover(self.id):
                await self._watcher.changed(self.id, generation.status, _LOOK_SECONDS)
            generation = await store.get(self.id, generation.owner)
        if generation.status is GenerationStatus.CANCELLED:
            raise GenerationCancelled("This generation was cancelled before Gemini was asked. Nothing was paid.")
        return Answer(generation.outcomes, generation.is_converted)

    async def mark_caller_left(self, retry_count: int) -> None:
        """Note that this caller is gone, so that the next retry of its client finds this generation first."""
        store = await self._storage.generations()
        await store.mark_caller_left(self.id, retry_count + 1)

    def close(self) -> None:
        if self._work is not None:
            self._work.listeners.difference_update(self._listeners)
            self._work.release()


def _dollars(outcomes: tuple[Outcome, ...]) -> float:
    """Return what the outcomes have cost, as far as it is known."""
    usages = [outcome.usage if isinstance(outcome, Generation | GenerationRefused) else None for outcome in outcomes]
    return sum((usage and usage.estimated_cost_usd) or 0.0 for usage in usages)
