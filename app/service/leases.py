"""The leases of this process, on chats and recorded generations. Each has one holder over all replicas.

All leases are renewed together: a thousand generations in progress take one transaction every few seconds.
"""

import asyncio
import logging
import secrets
from contextlib import suppress
from contextvars import Context

from app.store import Storage

log = logging.getLogger(__name__)

_RENEWALS_PER_LEASE = 3

_RELEASE_PAUSES = (0.1, 0.4, 1.0)
"""Seconds between attempts to release a lease. A full disk, for instance, may have space again a moment later."""

_WAIT_SECONDS = 1.0
"""How long a request waits for the release of its lease. A working storage takes milliseconds. If it takes longer, the
response is sent first."""

_SHUTDOWN_SECONDS = 5.0
"""How long a stopping service waits for releases. Leases that are left expire by themselves."""


class LeaseKeeper:
    def __init__(self, storage: Storage, lease_seconds: float) -> None:
        """
        Args:
            storage: where leases are stored.
            lease_seconds: time after which a lease expires unless it is renewed.
        """
        self._storage = storage
        self._renewal_pause = lease_seconds / _RENEWALS_PER_LEASE
        self._process = secrets.token_hex(8)
        self._count = 0
        self._held: set[str] = set()
        self._renewing: asyncio.Task[None] | None = None
        self._releasing: set[asyncio.Task[None]] = set()

    def name(self) -> str:
        """Return a new holder name, unique over all replicas."""
        self._count += 1
        return f"{self._process}.{self._count}"

    def hold(self, holder: str) -> None:
        """Renew the holder's lease until `forget` or `release`."""
        self._held.add(holder)
        if self._renewing is None:
            # In its own context: the task outlives the request that starts it.
            self._renewing = asyncio.create_task(self._renew(), context=Context())

    def forget(self, holder: str) -> None:
        """Stop renewing the holder's lease."""
        self._held.discard(holder)

    async def release(self, holder: str) -> None:
        """Release the lease. Return when that is done, or after one second; then it goes on in the background."""
        await asyncio.wait({self.release_later(holder)}, timeout=_WAIT_SECONDS)

    def release_later(self, holder: str) -> asyncio.Task[None]:
        """Release the lease in the background. If all attempts fail, the lease expires by itself."""
        self.forget(holder)
        releasing = asyncio.create_task(self._release(holder), context=Context())
        self._releasing.add(releasing)
        releasing.add_done_callback(self._releasing.discard)
        return releasing

    async def _release(self, holder: str) -> None:
        for pause in (*_RELEASE_PAUSES, None):
            try:
                return await (await self._storage.leases()).release(holder)
            except Exception as error:  # no request waits for this task, so the log is the only place for it
                cause = getattr(error, "cause", repr(type(error)))
                log.warning("a lease could not be released", extra={"cause": cause})
            if pause is not None:
                await asyncio.sleep(pause)

    async def renew(self) -> None:
        """Renew all leases of this process now, also those that have just ended.

        Raises:
            StorageUnavailable, StorageFull: nothing is renewed.
        """
        if self._held:
            await (await self._storage.leases()).renew(tuple(self._held))

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._renewal_pause)
            try:
                await self.renew()
            except Exception as error:  # the next renewal may succeed
                log.warning("leases could not be renewed", extra={"cause": getattr(error, "cause", repr(type(error)))})

    async def aclose(self) -> None:
        if self._renewing is not None:
            self._renewing.cancel()
            with suppress(asyncio.CancelledError):
                await self._renewing
        if self._releasing:
            _, late = await asyncio.wait(self._releasing, timeout=_SHUTDOWN_SECONDS)
            for releasing in late:
                releasing.cancel()
