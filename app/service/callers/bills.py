"""The bill of one image: what may be called, and where its cost is booked."""

import asyncio
from collections.abc import Callable
from contextvars import Context
from dataclasses import replace
from functools import partial
from typing import Protocol

from app.domain.errors import LeaseLost, Overloaded, StorageError
from app.domain.limits import Allowance
from app.domain.progress import CallGuard
from app.domain.spending import Charge, ImageCost
from app.service.storage_retries import persistently
from app.store import Storage

_WAIT_SECONDS = 1.0
"""How long a response waits until its cost is booked. A working database takes milliseconds. If it takes longer, the
response is sent first."""


async def extend_reservation(storage: Storage, id_: str) -> bool:
    """Reserve one more call for an image. Return whether the budget allows it, as the database says: false without its
    answer."""
    try:
        return await (await storage.callers()).extend(id_)
    except StorageError:
        return False


class Bill(Protocol):
    @property
    def guard(self) -> CallGuard | None:
        """Decides on the calls to Gemini. `None` allows all."""
        ...

    async def settle(self, cost: ImageCost) -> None:
        """Book the cost of the image, once."""
        ...

    def close(self) -> None:
        """Give back what is reserved, if the image was never begun."""
        ...


class NotedBill:
    """Of a caller without limits: the cost is added to the usage later."""

    guard = None

    def __init__(self, note: Callable[[ImageCost], None]) -> None:
        self._note = note

    async def settle(self, cost: ImageCost) -> None:
        self._note(cost)

    def close(self) -> None:
        pass


class RecordedBill:
    """Of a recorded generation that has reserved: the cost is booked together with its outcome."""

    guard = None

    async def settle(self, cost: ImageCost) -> None:
        pass

    def close(self) -> None:
        pass


class Reservation:
    """What the images of one request have reserved."""

    def __init__(
        self,
        storage: Storage,
        id_: str,
        charge: Charge,
        allowance: Allowance,
        *,
        asked: bool,
        on_end: Callable[[], None],
    ) -> None:
        """
        Args:
            storage: has the rows.
            id_: of the rows, without the index of the image.
            charge: what is reserved.
            allowance: what is left of the caller's limits.
            asked: whether the rows say that Gemini may have been asked.
            on_end: called when all images are settled.
        """
        self.allowance = allowance
        """What is left of the caller's limits, also after images have been settled."""
        self.storage = storage
        self._charge = charge
        self._on_end = on_end
        self._open = charge.count
        self._tasks: set[asyncio.Task[None]] = set()
        self.bills = [ReservedBill(self, f"{id_}.{place}", asked=asked) for place in range(charge.count)]

    async def settle(self, id_: str, cost: ImageCost) -> None:
        """Book the cost of one image. Return when that is done, or after one second; then it goes on."""
        await asyncio.wait({self.settle_later(id_, cost)}, timeout=_WAIT_SECONDS)

    def settle_later(self, id_: str, cost: ImageCost) -> asyncio.Task[None]:
        """Book the cost of one image in the background. If all tries fail, the whole reservation is booked when its
        lease ends."""
        task = asyncio.create_task(persistently(partial(self._settle, id_, cost)), context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._note_end)
        return task

    async def _settle(self, id_: str, cost: ImageCost) -> None:
        await (await self.storage.callers()).settle(id_, cost)
        if self.allowance.micro_usd_left is not None:
            booked = cost.micro_usd + cost.unknown_calls * self._charge.unit
            left = self.allowance.micro_usd_left + self._charge.unit - booked
            self.allowance = replace(self.allowance, micro_usd_left=left)

    async def wait_settled(self) -> None:
        """Wait until what is being booked is booked, or has failed."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _note_end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # retrieved; `persistently` has logged the reason
        self._open -= 1
        if not self._open:
            self._on_end()


class ReservedBill:
    """Of one image that has reserved. It is also the guard of its calls."""

    def __init__(self, reservation: Reservation, id_: str, *, asked: bool) -> None:
        self._reservation = reservation
        self._id = id_
        self._asked = asked
        self._is_settled = False

    @property
    def guard(self) -> CallGuard | None:
        return self

    async def before_call(self) -> None:
        """Make sure that the row says that Gemini may have been asked.

        Raises:
            Overloaded: the reservation is gone, because this process has stood still for longer than a lease.
        """
        if self._asked:
            return
        try:
            await (await self._reservation.storage.callers()).mark_asked(self._id)
        except LeaseLost as error:
            raise Overloaded("The request has waited for too long. Send it again.", retry_after=1) from error
        self._asked = True

    async def allows_repetition(self) -> bool:
        """Reserve one more call. Return whether the budget allows it."""
        return await extend_reservation(self._reservation.storage, self._id)

    async def settle(self, cost: ImageCost) -> None:
        if not self._is_settled:
            self._is_settled = True
            await self._reservation.settle(self._id, cost)

    def close(self) -> None:
        if not self._is_settled:
            self._is_settled = True
            self._reservation.settle_later(self._id, ImageCost(""))
