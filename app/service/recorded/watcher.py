"""Waiting for generations that other processes run: one query in each interval for all of them."""

import asyncio
import logging
from collections import defaultdict
from contextlib import suppress
from contextvars import Context

from app.store import Storage

log = logging.getLogger(__name__)

_INTERVAL_SECONDS = 0.5


class StatusWatcher:
    """Wakes waiting requests when the status of a generation changes."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._waiting: defaultdict[str, set[tuple[str, asyncio.Future[None]]]] = defaultdict(set)
        self._polling: asyncio.Task[None] | None = None
        self._is_stopping = False
        self._until_stop: set[asyncio.Future[None]] = set()

    async def changed(self, id_: str, status: str, seconds: float, *, until_stop: bool = False) -> bool:
        """Return True once the status differs from `status` or the generation is gone; False after `seconds`.

        Args:
            id_: of the generation.
            status: the known one.
            seconds: the most to wait.
            until_stop: whether `stop` ends the wait. Then the result says nothing.
        """
        if until_stop and self._is_stopping:
            return False
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (status, future)
        self._waiting[id_].add(entry)
        if until_stop:
            self._until_stop.add(future)
        if self._polling is None or self._polling.done():
            # In its own context: the task outlives the request that starts it.
            self._polling = asyncio.create_task(self._poll(), context=Context())
        try:
            await asyncio.wait({future}, timeout=seconds)
            return future.done()
        finally:
            self._until_stop.discard(future)
            self._waiting[id_].discard(entry)
            if not self._waiting[id_]:
                del self._waiting[id_]

    def notify(self, id_: str) -> None:
        """Wake those who wait for this generation: it has changed."""
        for _, future in self._waiting.get(id_, ()):
            if not future.done():
                future.set_result(None)

    def stop(self) -> None:
        """End the waits that last until then, because the service is about to stop."""
        self._is_stopping = True
        for future in self._until_stop:
            if not future.done():
                future.set_result(None)

    async def _poll(self) -> None:
        while self._waiting:
            await asyncio.sleep(_INTERVAL_SECONDS)
            try:
                statuses = await (await self._storage.generations()).statuses(list(self._waiting))
            except Exception as error:  # the next query may succeed
                cause = getattr(error, "cause", repr(type(error)))
                log.warning("the status of generations could not be read", extra={"cause": cause})
                continue
            for id_, waiting in self._waiting.items():
                for status, future in waiting:
                    if statuses.get(id_) != status and not future.done():
                        future.set_result(None)

    async def aclose(self) -> None:
        if self._polling is not None:
            self._polling.cancel()
            with suppress(asyncio.CancelledError):
                await self._polling
