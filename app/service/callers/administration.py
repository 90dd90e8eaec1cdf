"""Making, changing and ending keys, for the command line and for the routes of administrators."""

import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

from app.domain.api_key import UNCHANGED, CallerRecord, NewSecret, Unchanged, digest_of, hint_of, make_secret
from app.domain.caller import UNKEYED_NAMES, Caller
from app.domain.errors import KeyNotFound
from app.domain.limits import UNLIMITED, Limits
from app.domain.spending import BudgetState, CallerUsage

if TYPE_CHECKING:
    from app.store.callers import CallerStore


@dataclass(frozen=True, slots=True)
class ManagedKey:
    record: CallerRecord
    budget: BudgetState | None
    """What of the budget is used; `None` if there is no budget."""


class KeyAdministration:
    def __init__(self, open_store: Callable[[], Awaitable["CallerStore"]]) -> None:
        """
        Args:
            open_store: returns the store of the keys. Raises `StorageError`, as all methods do.
        """
        self._open_store = open_store

    async def add(
        self, name: str, limits: Limits, expires_in: float | None, *, track_users: bool
    ) -> tuple[ManagedKey, str]:
        """Make a key. Return it and its secret. Only the digest of the secret is stored.

        Raises:
            KeyExists: the name has a valid secret.
        """
        store, secret = await self._open_store(), make_secret()
        record = await store.add(name, limits, _new(secret, expires_in), track_users=track_users)
        return await self._managed(store, record), secret

    async def all(self) -> list[ManagedKey]:
        """Return all keys by name, also those that have ended."""
        store = await self._open_store()
        return await _with_budgets(store, await store.all())

    async def get(self, name: str) -> ManagedKey:
        """Return a key.

        Raises:
            KeyNotFound: there is none with this name.
        """
        store = await self._open_store()
        return await self._managed(store, await store.get(name))

    async def change(
        self, name: str, changes: Mapping[str, Any], expires_in: float | Unchanged | None = UNCHANGED
    ) -> ManagedKey:
        """Change what is named.

        Args:
            name: of the key.
            changes: fields of `Limits`, and `track_users`. `None` removes a limit.
            expires_in: seconds after which the key ends; `None` if it does not.

        Raises:
            KeyNotFound: there is none with this name.
        """
        store = await self._open_store()
        return await self._managed(store, await store.change(name, changes, expires_in))

    async def rotate(self, name: str, overlap_seconds: float) -> tuple[ManagedKey, str]:
        """Give a key another secret. Return the key and the secret. The key ends when it would have ended before.

        Args:
            name: of the key.
            overlap_seconds: how long the earlier secrets stay valid at most.

        Raises:
            KeyNotFound: there is none with this name that is valid.
        """
        store, secret = await self._open_store(), make_secret()
        valid = [one for one in (await store.get(name)).secrets if one.is_valid]
        if not valid:
            raise KeyNotFound(f"The key {name} is no longer valid. Make it again with the same name.")
        expires_at = valid[0].expires_at
        expires_in = None if expires_at is None else max(0.0, expires_at - time.time())
        record = await store.rotate(name, _new(secret, expires_in), overlap_seconds)
        return await self._managed(store, record), secret

    async def revoke(self, name: str) -> ManagedKey:
        """End all secrets of a key. Its usage stays.

        Raises:
            KeyNotFound: there is none with this name.
        """
        store = await self._open_store()
        return await self._managed(store, await store.revoke(name))

    async def usage(self, name: str, first: date, last: date, static_names: Collection[str] = ()) -> CallerUsage:
        """Return what a caller has used from the first to the last day.

        Args:
            name: of the caller.
            first: first day (UTC).
            last: last day, which is included.
            static_names: callers whose keys are not in the database.

        Raises:
            KeyNotFound: there is no such caller.
        """
        store = await self._open_store()
        try:
            limits = (await store.get(name)).limits
        except KeyNotFound:
            if name not in static_names:
                raise
            limits = UNLIMITED
        return await store.usage(Caller(name, keyed=True).owner, limits, first, last)

    async def usage_of_all(self, first: date, last: date, static_names: Collection[str] = ()) -> dict[str, CallerUsage]:
        """Return what each caller has used, by name. Callers without keys are in it if they have used anything."""
        store = await self._open_store()
        limits = dict.fromkeys(static_names, UNLIMITED)
        limits |= {record.name: record.limits for record in await store.all()}
        found = {}
        for name in sorted(limits):
            found[name] = await store.usage(Caller(name, keyed=True).owner, limits[name], first, last)
        for caller in (Caller(name) for name in UNKEYED_NAMES if name not in found):
            if (usage := await store.usage(caller.owner, UNLIMITED, first, last)).rows:
                found[caller.name] = usage
        return found

    async def _managed(self, store: "CallerStore", record: CallerRecord) -> ManagedKey:
        (managed,) = await _with_budgets(store, [record])
        return managed


async def _with_budgets(store: "CallerStore", records: Sequence[CallerRecord]) -> list[ManagedKey]:
    has_budgets = any(record.limits.budget is not None for record in records)
    budgets = {state.name: state for state in await store.budgets()} if has_budgets else {}
    return [ManagedKey(record, budgets.get(record.name)) for record in records]


def _new(secret: str, expires_in: float | None) -> NewSecret:
    return NewSecret(digest_of(secret), hint_of(secret), expires_in)
