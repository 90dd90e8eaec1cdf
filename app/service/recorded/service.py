"""Recorded generations, as requests see them: submit, wait, read, delete."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Self

from app.domain.caller import Caller
from app.domain.errors import Internal, ServiceError
from app.domain.recorded import GenerationStatus, NewGeneration, RecordedGeneration, Submission
from app.service.generation.runs import GenerationRuns
from app.service.leases import LeaseKeeper
from app.service.metrics import Metrics
from app.service.recorded.attachment import Attachment
from app.service.recorded.dispatcher import Dispatcher
from app.service.recorded.executor import Executor
from app.service.recorded.watcher import StatusWatcher
from app.service.recorded.work import Work
from app.service.resilience.admission import Admission
from app.store import Storage

log = logging.getLogger(__name__)

_SHUTDOWN_SECONDS = 30.0
"""How long a stopping service waits for answers that are being stored."""


class RecordedGenerations:
    """Each method sees the caller's own generations only. Another caller's is `GenerationNotFound`.

    All methods raise `StorageUnavailable` or `StorageFull` if the storage fails.
    """

    def __init__(
        self,
        executor: Executor,
        runs: GenerationRuns,
        storage: Storage,
        leases: LeaseKeeper,
        metrics: Metrics,
        *,
        lease_seconds: float,
        on_webhook: Callable[[], None],
    ) -> None:
        """
        Args:
            executor: runs generations in this process.
            runs: have the slots.
            storage: where generations are stored.
            leases: of this process.
            metrics: counts replays and interruptions.
            lease_seconds: duration of a lease.
            on_webhook: called when a webhook is due.
        """
        self._runs = runs
        self._storage = storage
        self._leases = leases
        self._metrics = metrics
        self._on_webhook = on_webhook
        self._watcher = StatusWatcher(storage)
        runs.controller.on_drain.append(self._watcher.stop)
        self._executor = executor
        self._dispatcher = Dispatcher(
            runs.controller,
            storage,
            leases,
            metrics,
            lease_seconds,
            self._start_claimed,
            lambda: sum(work.is_async for work in self._works.values()),
            on_webhook,
        )
        self._works: dict[str, Work] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def submit(self, new: NewGeneration, *, streams: bool = False) -> Attachment:
        """Record what a request asks for and start it, unless the request repeats an earlier one.

        Args:
            new: with everything but the holder.
            streams: whether to ask Gemini for a stream, so that there are progress events.

        Raises:
            IdempotencyKeyReused: another request had the same key.
            LimitReached: the request is over a limit of its caller. Nothing is recorded.
            Overloaded: the queue is full, or the service stops. Nothing is recorded.
            ServiceError: the generation cannot begin. Nothing is recorded.
        """
        store = await self._storage.generations()
        if new.is_async:
            await store.blobs.require_writable()
            submission = await store.submit(new)
            self._dispatcher.notify()
            return self._attach(submission)
        controller, order = self._runs.controller, new.order
        admissions: list[Admission] = []
        if controller.free_slots >= order.count:
            admissions = [controller.admit(order.caller.name) for _ in range(order.count)]
        # With a slot and without a chat to lease, Gemini is asked at once: one transaction less.
        new = replace(new, holder=self._leases.name(), asked=bool(admissions) and order.turn is None)
        assert new.holder is not None
        try:
            submission = await store.submit(new)
            if submission.is_new:
                self._leases.hold(new.holder)
                work = Work(new.id, new.holder, order, is_async=False, streams=streams, asked=new.asked)
                attachment = self._attach(submission, work)
                try:
                    await self._begin(work, admissions)
                except BaseException:
                    attachment.close()
                    raise
                admissions = []
                return attachment
        finally:
            for admission in admissions:
                admission.release()
        return self._attach(submission)

    def _attach(self, submission: Submission, work: Work | None = None) -> Attachment:
        return Attachment(
            submission,
            work or self._works.get(submission.generation.id),
            storage=self._storage,
            watcher=self._watcher,
            metrics=self._metrics,
        )

    async def _begin(self, work: Work, admissions: list[Admission]) -> None:
        """Prepare the generation, and run it in the background.

        Raises:
            ServiceError: it cannot begin; it is settled.
        """
        self._works[work.id] = work
        try:
            prepared = await self._executor.prepare(work, admissions)
        except Exception as error:
            failure = error if isinstance(error, ServiceError) else Internal()
            await self._executor.abandon(work, failure)
            self._ended(work)
            raise
        except BaseException:
            self._executor.finish(work)
            self._ended(work)
            raise
        task = asyncio.create_task(self._executor.execute(work, prepared))
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._finished(work, done))

    def _finished(self, work: Work, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._ended(work)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a generation ended unexpectedly", exc_info=error)

    def _ended(self, work: Work) -> None:
        self._works.pop(work.id, None)
        self._watcher.notify(work.id)
        self._dispatcher.notify_free_slot()
        if work.is_async:
            self._on_webhook()

    def _start_claimed(self, holder: str, generation: RecordedGeneration, admission: Admission) -> None:
        assert generation.order is not None
        self._leases.hold(holder)
        work = Work(generation.id, holder, generation.order, is_async=True, streams=False, asked=False)
        self._works[work.id] = work
        task = asyncio.create_task(self._run_claimed(work, admission))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run_claimed(self, work: Work, admission: Admission) -> None:
        try:
            await self._begin(work, [admission])
        except ServiceError as error:
            log.info("a queued generation could not begin", extra={"generation": work.id, "code": error.code})
        except Exception:
            log.exception("a queued generation could not begin")

    async def get(self, id_: str, caller: Caller) -> RecordedGeneration:
        """Return a generation with its order and outcomes."""
        await self._await_settling(id_)
        return await (await self._storage.generations()).get(id_, caller.owner)

    async def get_linked(self, id_: str) -> RecordedGeneration:
        """Return any caller's generation. The signature of the link must have been checked."""
        await self._await_settling(id_)
        return await (await self._storage.generations()).get(id_, None)

    async def has_key(self, caller: Caller, key: str | None) -> bool:
        """Return whether an earlier request of the caller had this idempotency key; false for `None`."""
        return key is not None and await (await self._storage.generations()).has_key(caller.owner, key)

    async def page(self, caller: Caller, limit: int, after: tuple[float, str] | None) -> list[RecordedGeneration]:
        """Return generations, newest first.

        Args:
            caller: their owner.
            limit: number of generations at most.
            after: creation time and id of the last generation of the page before.
        """
        for id_, work in list(self._works.items()):
            if work.order.caller.owner == caller.owner:
                await self._await_settling(id_)
        return await (await self._storage.generations()).page(caller.owner, limit, after)

    async def delete(self, id_: str, caller: Caller) -> None:
        """Cancel a generation that was not asked, or forget one that is over.

        Raises:
            AlreadyAsked: Gemini is making the image.
        """
        await self._await_settling(id_)
        await (await self._storage.generations()).delete(id_, caller.owner)
        self._watcher.notify(id_)

    async def _await_settling(self, id_: str) -> None:
        """Wait for the row of a generation whose response may have been sent already."""
        work = self._works.get(id_)
        if work is not None and work.answered.done():
            await asyncio.shield(work.settled)

    async def changed(self, id_: str, status: GenerationStatus, seconds: float) -> None:
        """Return when the status differs, the generation is gone, the service stops, or after `seconds`."""
        await self._watcher.changed(id_, status, seconds, until_stop=True)

    async def signing_key(self) -> bytes:
        """Return the key that signs links."""
        return await (await self._storage.generations()).signing_key()

    async def __aenter__(self) -> Self:
        await self._dispatcher.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._dispatcher.aclose()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_SHUTDOWN_SECONDS)
        await self._watcher.aclose()
