"""Authentication by secrets: those of `SERVICE_API_KEYS`, and those in the database.

Secrets of the database are remembered when they are first used, so that further requests need no transaction. All that
are remembered are read again every few seconds: other limits, a revocation and an expiry are felt within ten seconds.
"""

import asyncio
import hmac
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass
from typing import Self

from app.domain.api_key import KnownCaller, digest_of, is_well_formed
from app.domain.caller import Caller
from app.domain.errors import StorageError
from app.domain.limits import UNLIMITED
from app.service.periodic import PeriodicTask
from app.settings import Settings
from app.store import Storage

_REFRESH_SECONDS = 4.0

_FORGET_SECONDS = 600.0
"""A secret that is not used for so long is forgotten."""

_MAX_SEEN = 5_000
"""Most secrets that are remembered. One query reads all of them again."""

_UNKNOWN_SECONDS = 2.0
"""How long it is remembered that there is no such secret. A key that was just made may be tried too early."""

_MAX_UNKNOWN = 5_000

_MAX_LOOKUPS = 4
"""Look-ups at the same time. An attacker who tries many secrets must not use up the database's connections."""

_START_SECONDS = 3.0
"""How long the start of the service waits for the limits of the names in `SERVICE_API_KEYS`."""


@dataclass(slots=True)
class _Seen:
    caller: KnownCaller
    used_at: float


class KeyRegistry:
    def __init__(self, storage: Storage, settings: Settings) -> None:
        """
        Args:
            storage: has keys in its database, if it is in use.
            settings: have keys too. A name is the same caller in both, and has the limits of the database.
        """
        self._storage = storage
        self._static = [(key.name, digest_of(key.secret.get_secret_value())) for key in settings.service_api_keys]
        self._static_names = {name for name, _ in self._static}
        self._named: dict[str, KnownCaller] = {}
        self._seen: OrderedDict[str, _Seen] = OrderedDict()
        """By the digest of the secret; the one that was used last is the last one."""
        self._unknown: dict[str, float] = {}
        """When to look for a digest again."""
        self._lookups: dict[str, asyncio.Task[KnownCaller | None]] = {}
        self._lookup_slots = asyncio.Semaphore(_MAX_LOOKUPS)
        self._started = asyncio.Event()
        self._refreshing = PeriodicTask(self._refresh_regularly, _REFRESH_SECONDS, "keys could not be read again")

    async def authenticate(self, offered: Sequence[str], end_user: str | None = None) -> Caller | None:
        """Return the caller that one of the secrets belongs to; `None` if there is none.

        Args:
            offered: secrets of a request.
            end_user: for whom a gateway sends the request.

        Raises:
            StorageError: the database would have to be asked about a secret, and cannot be. Secrets that were used
                before are accepted.
        """
        known = self._static_caller(offered)
        for secret in offered:
            if known is None and is_well_formed(secret):
                known = await self._find(digest_of(secret))
        if known is None:
            return None
        return Caller(known.name, keyed=True, limits=known.limits, end_user=end_user if known.track_users else None)

    def _static_caller(self, offered: Sequence[str]) -> KnownCaller | None:
        if not self._static:
            return None
        digests, found = [digest_of(secret) for secret in offered], None
        for name, known in self._static:  # compare all of them, so that the time does not depend on the secret
            for digest in digests:
                if hmac.compare_digest(digest, known):
                    found = name
        if found is None:
            return None
        return self._named.get(found) or KnownCaller(found, UNLIMITED, track_users=False)

    async def _find(self, digest: str) -> KnownCaller | None:
        now = asyncio.get_running_loop().time()
        if (seen := self._seen.get(digest)) is not None:
            seen.used_at = now
            self._seen.move_to_end(digest)
            return seen.caller
        if self._unknown.get(digest, 0.0) > now:
            return None
        lookup = self._lookups.get(digest)
        if lookup is None:
            # In its own context, because requests share it. It goes on if the first of them disconnects.
            lookup = asyncio.create_task(self._look_up(digest), context=Context())
            self._lookups[digest] = lookup
            lookup.add_done_callback(lambda _: self._lookups.pop(digest, None))
        try:
            return await asyncio.shield(lookup)
        except StorageError as error:
            raise error.copied() from error

    async def _look_up(self, digest: str) -> KnownCaller | None:
        async with self._lookup_slots:
            found = None
            if await self._storage.in_use():
                found = (await (await self._storage.callers()).find([digest])).get(digest)
        now = asyncio.get_running_loop().time()
        if found is not None:
            self._unknown.pop(digest, None)
            self._seen[digest] = _Seen(found, now)
            if len(self._seen) > _MAX_SEEN:
                self._seen.popitem(last=False)
        else:
            self._unknown.pop(digest, None)  # so that the oldest is the first
            self._unknown[digest] = now + _UNKNOWN_SECONDS
            if len(self._unknown) > _MAX_UNKNOWN:
                del self._unknown[next(iter(self._unknown))]
        return found

    async def _refresh_regularly(self) -> None:
        try:
            await self._refresh()
        finally:
            self._started.set()

    async def _refresh(self) -> None:
        """Read again what is remembered."""
        now = asyncio.get_running_loop().time()
        while self._seen and next(iter(self._seen.values())).used_at < now - _FORGET_SECONDS:
            self._seen.popitem(last=False)
        if not (self._seen or self._static_names) or not await self._storage.in_use():
            return
        callers = await self._storage.callers()
        if digests := [*self._seen]:
            found = await callers.find(digests)
            for digest in digests:
                if digest not in found:
                    self._seen.pop(digest, None)
                elif digest in self._seen:
                    self._seen[digest].caller = found[digest]
        if self._static_names:
            self._named = await callers.limits_of(self._static_names)

    async def __aenter__(self) -> Self:
        await self._refreshing.__aenter__()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._started.wait(), _START_SECONDS)
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._refreshing.__aexit__(*exception)
        for lookup in [*self._lookups.values()]:
            lookup.cancel()
