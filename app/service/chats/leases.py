"""The leases of this process: a chat has one turn at a time, on whichever replica. They are renewed together, so that
a thousand turns in progress are one statement every few seconds."""

import asyncio
import logging
import secrets
from contextlib import suppress
from contextvars import Context

from app.store import Storage

log = logging.getLogger(__name__)

_RENEWALS_PER_LEASE = 3

_PAUSES = (0.1, 0.4, 1.0)
"""Seconds between attempts to give a lease back: a disk that was full has room again once a file is given up."""


_WAIT_SECONDS = 1.0
"""How long a request waits until its lease is given back. A storage that works takes milliseconds. With one that does
not work, the answer is sent first."""

_LAST_SECONDS = 5.0
"""How long leases may still be given back when the service stops. After that they run out by themselves."""


class LeaseKeeper:
    def __init__(self, storage: Storage, lease_seconds: float) -> None:
        """
        Args:
            storage: where leases are written down.
            lease_seconds: how long one lasts that is not renewed.
        """
        self._storage = storage
        self._pause = lease_seconds / _RENEWALS_PER_LEASE
        self._process = secrets.token_hex(8)
        self._count = 0
        self._held: set[str] = set()
        self._renewing: asyncio.Task[None] | None = None
        self._releasing: set[asyncio.Task[None]] = set()

    def name(self) -> str:
        """A name for one holder, unlike that of any other on any replica."""
        self._count += 1
        return f"{self._process}.{self._count}"

    def hold(self, holder: str) -> None:
        """Keep this one's lease alive."""
        self._held.add(holder)
        if self._renewing is None:
            # In a context of its own: it outlives the request that happens to be the first.
            self._renewing = asyncio.create_task(self._renew(), context=Context())

    def forget(self, holder: str) -> None:
        """It is given back, or about to be."""
        self._held.discard(holder)

    async def release(self, holder: str) -> None:
        """Give the lease back. Returns when that is done, or after a second: then it goes on in the background."""
        await asyncio.wait({self.release_later(holder)}, timeout=_WAIT_SECONDS)

    def release_later(self, holder: str) -> asyncio.Task[None]:
        """Give the lease back in the background. If that fails time and again, it runs out by itself."""
        self.forget(holder)
        releasing = asyncio.create_task(self._release(holder), context=Context())
        self._releasing.add(releasing)
        releasing.add_done_callback(self._releasing.discard)
        return releasing

    async def _release(self, holder: str) -> None:
        for pause in (*_PAUSES, None):
            try:
                return await (await self._storage.chats()).turns.release(holder)
            except Exception as error:  # nobody waits for it who could be told
                cause = getattr(error, "cause", repr(type(error)))
                log.warning("a lease could not be given back", extra={"cause": cause})
            if pause is not None:
                await asyncio.sleep(pause)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._pause)
            if not self._held:
                continue
            try:
                await (await self._storage.chats()).turns.renew(tuple(self._held))
            except Exception as error:  # whatever it is, the next time it may work
                log.warning("leases could not be renewed", extra={"cause": getattr(error, "cause", repr(type(error)))})

    async def aclose(self) -> None:
        if self._renewing is not None:
            self._renewing.cancel()
            with suppress(asyncio.CancelledError):
                await self._renewing
        if self._releasing:
            _, late = await asyncio.wait(self._releasing, timeout=_LAST_SECONDS)
            for releasing in late:
                releasing.cancel()
