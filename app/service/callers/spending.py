"""What callers spend: reservations before Gemini is asked, the real cost afterwards, and how much that was.

A caller without limits costs no transaction: its usage is collected and written every few seconds.
"""

import asyncio
import logging
import secrets
from collections import defaultdict
from collections.abc import Coroutine
from contextlib import AsyncExitStack, suppress
from datetime import UTC, date, datetime
from functools import partial
from typing import Any, Self, TypeVar

from app.domain.caller import Caller
from app.domain.errors import StorageError
from app.domain.spending import CallerUsage, Charge, ImageCost, UsageRow
from app.service.callers.bills import Bill, NotedBill, Reservation
from app.service.leases import LeaseKeeper
from app.service.periodic import PeriodicTask
from app.store import Storage

log = logging.getLogger(__name__)

T = TypeVar("T")

_FLUSH_SECONDS = 5.0

_Entry = tuple[str, date, str, str | None]
"""Owner, day (UTC), model and end user."""


class CallerSpending:
    def __init__(self, storage: Storage, leases: LeaseKeeper) -> None:
        """
        Args:
            storage: where reservations and usage are stored.
            leases: of this process.
        """
        self._storage = storage
        self._leases = leases
        self._noted: defaultdict[_Entry, list[int]] = defaultdict(lambda: [0, 0, 0])
        self._flush_lock = asyncio.Lock()
        self._reservations: set[Reservation] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._stack = AsyncExitStack()

    async def reserve(self, caller: Caller, charge: Charge, *, has_slot: bool) -> Reservation:
        """Decide on a request, and reserve what it may cost. If this is cancelled, nothing stays reserved.

        Args:
            caller: who asks. It has limits.
            charge: what the request takes.
            has_slot: whether Gemini is asked at once. If not, the rows are marked when that happens.

        Raises:
            RateLimited, TooManyAtOnce, BudgetExhausted: the request is over a limit. Nothing is reserved.
            StorageUnavailable, StorageFull: the database, which decides, does not answer.
        """
        reserving = self._begin(self._reserve(caller, charge, has_slot=has_slot))
        try:
            return await asyncio.shield(reserving)
        except asyncio.CancelledError:
            reserving.add_done_callback(_give_back)  # its transaction goes on
            raise
        finally:
            del reserving  # it holds the error, whose traceback holds this frame: a reference cycle

    async def _reserve(self, caller: Caller, charge: Charge, *, has_slot: bool) -> Reservation:
        store = await self._storage.callers()
        id_, holder = f"res_{secrets.token_hex(16)}", self._leases.name()
        try:
            allowance = await store.reserve(caller, charge, id_, holder, asked=has_slot)
        except StorageError:
            self._begin(self._release(id_, charge.count))  # the transaction may have been committed
            raise
        self._leases.hold(holder)
        reservation: Reservation

        def end() -> None:
            self._leases.forget(holder)
            self._reservations.discard(reservation)

        reservation = Reservation(self._storage, id_, charge, allowance, asked=has_slot, on_end=end)
        self._reservations.add(reservation)
        return reservation

    async def _release(self, id_: str, count: int) -> None:
        with suppress(StorageError):  # then `reap` settles the reservation when its lease has ended
            await (await self._storage.callers()).release(id_, count)

    def _begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start a task that goes on if the request that starts it is cancelled."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def unreserved(self, caller: Caller) -> Bill:
        """Return the bill of an image of a caller without limits."""
        return NotedBill(partial(self._note, caller))

    def _note(self, caller: Caller, cost: ImageCost) -> None:
        if not cost.is_free:
            noted = self._noted[caller.owner, datetime.now(UTC).date(), cost.model, caller.end_user]
            for index, value in enumerate((cost.images, cost.tokens, cost.micro_usd)):
                noted[index] += value

    async def usage(self, caller: Caller, first: date, last: date) -> CallerUsage:
        """Return what the caller has used, and what is left of its limits.

        Args:
            caller: who asks.
            first: first day (UTC) of the period.
            last: last day, which is included.
        """
        if not await self._storage.in_use():
            rows = self._noted_rows(caller, first, last)
            return CallerUsage(first, last, rows, (), 0, caller.limits, None)
        await self.flush()
        return await (await self._storage.callers()).usage(caller.owner, caller.limits, first, last)

    def _noted_rows(self, caller: Caller, first: date, last: date) -> tuple[UsageRow, ...]:
        """Return the usage of this process, which has no database."""
        rows = (
            UsageRow(day, model, *noted)
            for (owner, day, model, _), noted in self._noted.items()
            if owner == caller.owner and first <= day <= last
        )
        return tuple(sorted(rows, key=lambda row: (row.date, row.model)))

    async def flush(self) -> None:
        """Write the usage of callers without limits. It is not cancelled with its caller: whether a cancelled
        transaction is committed is not known.

        Raises:
            StorageUnavailable, StorageFull: it is kept for the next time.
        """
        await asyncio.shield(self._begin(self._flush()))

    async def _flush(self) -> None:
        async with self._flush_lock:
            if not self._noted or not await self._storage.in_use():
                return
            noted, self._noted = self._noted, defaultdict(lambda: [0, 0, 0])
            entries = {entry: (images, tokens, cost) for entry, (images, tokens, cost) in noted.items()}
            try:
                await (await self._storage.callers()).record(entries)
            except BaseException:
                for entry, values in noted.items():
                    for index, value in enumerate(values):
                        self._noted[entry][index] += value
                raise

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(
            PeriodicTask(self.flush, _FLUSH_SECONDS, "the usage of callers could not be written")
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for reservation in tuple(self._reservations):
            await reservation.wait_settled()
        try:
            await self.flush()
        except Exception as error:
            log.warning("the usage of callers is lost", extra={"cause": getattr(error, "cause", repr(type(error)))})


def _give_back(reserving: asyncio.Task[Reservation]) -> None:
    """Give back the reservation of a request that was cancelled while it waited for it."""
    if not reserving.cancelled() and reserving.exception() is None:
        for bill in reserving.result().bills:
            bill.close()
