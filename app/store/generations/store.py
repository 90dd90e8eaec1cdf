"""Recorded generations in the database. Each verb is one transaction."""

from collections.abc import Callable, Collection, Sequence

from app.domain.generation import Generation
from app.domain.recorded import NewGeneration, Outcome, RecordedGeneration, Submission, TurnToSave
from app.domain.spending import ImageCost
from app.store.blobs import BlobIndex, BlobStore
from app.store.callers import Reservations
from app.store.chats.turns import TurnStore
from app.store.database import Database
from app.store.generations.answers import AnswerStore
from app.store.generations.queries import GenerationCounts, GenerationQueries
from app.store.generations.queue import GenerationQueue
from app.store.generations.reaping import Reaper, ReapResult
from app.store.generations.rows import GenerationRows, Lifetimes
from app.store.generations.settlement import Ending, Settlements
from app.store.generations.submission import Submissions
from app.store.generations.sweeping import GenerationSweep


class GenerationStore:
    """Verbs for recorded generations."""

    def __init__(
        self,
        database: Database,
        blobs: BlobStore,
        index: BlobIndex,
        turns: TurnStore,
        reservations: Reservations,
        lifetimes: Lifetimes,
        max_queued: int,
    ) -> None:
        """
        Args:
            database: of the rows.
            blobs: the store of images.
            index: of the blobs.
            turns: saves turns of chats whose process died.
            reservations: in the same database.
            lifetimes: how long what is kept.
            max_queued: the most asynchronous generations that wait.
        """
        self.blobs = blobs
        rows = GenerationRows(database, blobs, lifetimes, reservations)
        self._answers = AnswerStore(blobs, index)
        self._submissions = Submissions(rows, index, max_queued)
        self._settlements = Settlements(rows, self._answers)
        self._queue = GenerationQueue(rows, self._answers)
        self._queries = GenerationQueries(rows)
        self._reaper = Reaper(rows, self._answers, self._settlements, turns)
        self._sweep = GenerationSweep(rows, self._answers)

    async def submit(self, new: NewGeneration) -> Submission:
        """Add a generation, unless the request repeats an earlier one of the same owner.

        A request with an `idempotency_key` repeats the generation with the same key, while that is kept. Without a
        key, a `retry_count` of k >= 1 repeats the oldest generation with the same fingerprint that expects k: first
        those whose caller has left or that failed without cost, then running ones, then others. A generation that
        failed without cost, was cancelled, or whose key has expired, gives its key, or its place in the chain, to a new
        one.

        An asynchronous order's references are stored first. Their blobs are referred to by the row.

        A new generation reserves what its order's `charge` says. Repetitions reserve nothing.

        Raises:
            RateLimited, TooManyAtOnce, BudgetExhausted: the new generation is over a limit of its caller. Nothing is
                recorded, and nothing reserved.
            IdempotencyKeyReused: the key belongs to a request with another fingerprint.
            Overloaded: too many asynchronous generations wait.
            StorageUnavailable, StorageFull: nothing is recorded.
        """
        return await self._submissions.submit(new)

    async def mark_asked(self, id_: str, holder: str) -> None:
        """Make durable that Gemini is about to be asked.

        Raises:
            LeaseLost: another holder has the generation, or it was cancelled. Gemini must not be asked.
        """
        await self._queue.mark_asked(id_, holder)

    async def keep_answer(
        self,
        id_: str,
        place: int,
        generation: Generation,
        turn: TurnToSave | None,
        on_published: Callable[[], None] | None = None,
    ) -> Generation:
        """Store Gemini's answer, and an object that names it, so that `reap` finds it. Does not need the database.

        Args:
            id_: of the recorded generation.
            place: index of the image.
            generation: with its images in memory.
            turn: the turn of a chat that will be saved with it.
            on_published: called when the answer survives the end of this process. It is durable when this returns.

        Returns:
            The generation with its images in the store. With a turn, its parts are in the store too, so that a turn
            made of it can be saved without storing them again.

        Raises:
            StorageUnavailable, StorageFull: the blob store does not take it.
        """
        return await self._answers.keep(id_, place, generation, turn, on_published)

    async def settle(
        self,
        id_: str,
        holder: str,
        outcomes: Sequence[Outcome],
        *,
        attempts: int,
        is_converted: bool,
        costs: Sequence[ImageCost] = (),
    ) -> RecordedGeneration:
        """Write the outcomes, end the lease, and enqueue the webhook. Settling twice changes nothing.

        What was reserved is replaced by the costs, one for each image. Without costs they are those of the outcomes.

        A failure that certainly cost nothing frees the key. A synchronous generation that failed so is deleted, unless
        OpenAI's clients may repeat it (`next_count`).

        Raises:
            LeaseLost: another holder has settled it otherwise, or it is gone.
        """
        ending = Ending(tuple(outcomes), attempts, is_converted, tuple(costs))
        return await self._settlements.settle(id_, holder, ending)

    async def requeue(self, id_: str, holder: str, delay_seconds: float) -> None:
        """Give an asynchronous generation that was not asked back to the queue, to be claimed after the delay."""
        await self._queue.requeue(id_, holder, delay_seconds)

    async def due(self, limit: int) -> int:
        """Return how many queued generations can be claimed now, at most `limit`. It only reads."""
        return await self._queue.due(limit)

    async def claim(self, holders: Sequence[str]) -> list[tuple[str, RecordedGeneration]]:
        """Lease queued generations that are due, one for each holder at most, and mark them as running.

        Fair between owners: an owner with fewer running generations goes first; within an owner the oldest goes first.

        Returns:
            Holder and generation, with its order and the references as blobs.
        """
        return await self._queue.claim(holders)

    async def mark_caller_left(self, id_: str, next_count: int) -> None:
        """Note that the caller is gone, so that a repetition takes this generation over before others.

        Args:
            id_: of the generation.
            next_count: the retry count of that repetition. If it has come already, nothing changes.
        """
        await self._queue.mark_caller_left(id_, next_count)

    async def get(self, id_: str, owner: str | None) -> RecordedGeneration:
        """Return a generation with its order and outcomes.

        Args:
            id_: of the generation.
            owner: only this owner's; `None` for any, if a signed link was checked.

        Raises:
            GenerationNotFound: there is none.
        """
        return await self._queries.get(id_, owner)

    async def has_key(self, owner: str, key: str) -> bool:
        """Return whether the owner has a generation with this idempotency key."""
        return await self._queries.has_key(owner, key)

    async def statuses(self, ids: Collection[str]) -> dict[str, str]:
        """Return the status of each generation that exists."""
        return await self._queries.statuses(ids)

    async def page(self, owner: str, limit: int, after: tuple[float, str] | None) -> list[RecordedGeneration]:
        """Return the owner's generations with orders and outcomes, newest first. `after`: creation time and id."""
        return await self._queries.page(owner, limit, after)

    async def counts(self) -> GenerationCounts:
        """Return how many generations are in progress, over all replicas."""
        return await self._queries.counts()

    async def delete(self, id_: str, owner: str) -> None:
        """Cancel a generation that was not asked, or forget one that is over, with its images.

        A cancelled generation gives back what it has reserved. It stays visible as `cancelled`, without its key.

        Raises:
            GenerationNotFound: the owner has none with this id.
            AlreadyAsked: Gemini is making the image.
        """
        await self._queue.delete(id_, owner)

    async def reap(self) -> ReapResult:
        """Settle generations whose lease has ended: their process died.

        Not asked: queued again, or deleted if it is synchronous. Asked, and the answers are in the store: succeeded,
        and the turn of the chat is saved. Asked without any answer: interrupted, with `OutcomeUnknown`, and all that it
        has reserved is booked.
        """
        return await self._reaper.reap()

    async def recover(self, id_: str) -> bool:
        """Settle a running generation if all its answers are stored, although its process may live. Return whether it
        did. A request that waits for it after a restart need not wait for the end of the lease then."""
        return await self._reaper.recover(id_)

    async def sweep(self) -> int:
        """Delete expired generations, and free expired keys. Return the number of deleted generations."""
        return await self._sweep.sweep()

    async def signing_key(self) -> bytes:
        """Return the 32 bytes that sign links. Made once, and the same for all replicas."""
        return await self._sweep.signing_key()

    async def aclose(self) -> None:
        """Finish work in the background."""
        await self._answers.aclose()
