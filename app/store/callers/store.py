"""Callers in the database. Each verb is one transaction."""

from collections.abc import Collection, Mapping
from datetime import date
from typing import Any

from app.domain.api_key import UNCHANGED, CallerRecord, KnownCaller, NewSecret, Unchanged
from app.domain.caller import Caller
from app.domain.limits import Allowance, Limits
from app.domain.spending import BudgetState, CallerUsage, Charge, ImageCost
from app.store.callers.keys import KeyRows
from app.store.callers.reservations import Reservations
from app.store.callers.usage import Amounts, UsageRows
from app.store.database import Database


class CallerStore:
    """Verbs for keys, reservations and usage.

    Reservations and usage survive the end of this process when a verb returns, and a power cut a little later.
    """

    def __init__(self, database: Database, reservations: Reservations) -> None:
        """
        Args:
            database: of the rows.
            reservations: in the same database.
        """
        self._database = database
        self._keys = KeyRows(database)
        self._reservations = reservations
        self._usage = UsageRows(database, reservations)

    async def add(self, name: str, limits: Limits, secret: NewSecret, *, track_users: bool = False) -> CallerRecord:
        """Add a caller with a secret. A name without a valid secret is taken into use again, with the new limits.

        Raises:
            KeyExists: the name has a valid secret.
        """
        return await self._keys.add(name, limits, secret, track_users=track_users)

    async def get(self, name: str) -> CallerRecord:
        """Return the caller with all its secrets.

        Raises:
            KeyNotFound: there is none with this name.
        """
        return await self._keys.get(name)

    async def all(self) -> list[CallerRecord]:
        """Return all callers by name, also those without a valid secret."""
        return await self._keys.all()

    async def change(
        self, name: str, changes: Mapping[str, Any], expires_in: float | Unchanged | None = UNCHANGED
    ) -> CallerRecord:
        """Change limits.

        Args:
            name: of the caller.
            changes: new values of fields of `Limits`, or of `track_users`. `None` removes a limit. What is not named
                stays.
            expires_in: seconds after which the valid secrets end; `None` if they do not.

        Raises:
            KeyNotFound: there is no caller with this name.
        """
        return await self._keys.change(name, changes, expires_in)

    async def rotate(self, name: str, secret: NewSecret, overlap_seconds: float) -> CallerRecord:
        """Add a secret. The older ones end after the overlap at the latest.

        Raises:
            KeyNotFound: there is no caller with this name.
        """
        return await self._keys.rotate(name, secret, overlap_seconds)

    async def revoke(self, name: str) -> CallerRecord:
        """End all secrets of a caller. Its limits and its usage stay.

        Raises:
            KeyNotFound: there is no caller with this name.
        """
        return await self._keys.revoke(name)

    async def find(self, digests: Collection[str]) -> dict[str, KnownCaller]:
        """Return the callers of valid secrets, by the digests of the secrets."""
        return await self._keys.find(digests)

    async def limits_of(self, names: Collection[str]) -> dict[str, KnownCaller]:
        """Return the callers with these names, whether or not they have a valid secret."""
        return await self._keys.limits_of(names)

    async def reserve(self, caller: Caller, charge: Charge, base_id: str, holder: str, *, asked: bool) -> Allowance:
        """Decide on a request by the limits that the database has of its caller, and reserve what it may cost.

        Args:
            caller: who sends the request.
            charge: what it takes of the limits.
            base_id: unique to the request. Its images have reservations with the ids `{base_id}.0` and so on.
            holder: of their lease. If it ends, `reap` settles them.
            asked: whether Gemini is asked next, so that `mark_asked` is not needed.

        Returns:
            What is left.

        Raises:
            RateLimited, TooManyAtOnce, BudgetExhausted: the request is over a limit. It has taken nothing.
        """
        return await self._database.write(
            lambda connection: self._reservations.reserve(
                connection, caller, charge, base_id, holder=holder, asked=asked
            ),
            durable=False,
        )

    async def mark_asked(self, id_: str) -> None:
        """Note that Gemini is about to be asked for an image, so that `reap` books it.

        Raises:
            LeaseLost: the reservation is gone. Gemini must not be asked.
        """
        await self._database.write(lambda connection: self._reservations.mark_asked(connection, id_), durable=False)

    async def extend(self, id_: str) -> bool:
        """Reserve one more call for an image, also of a recorded generation, because an earlier call may have been
        billed. Return false if the budget does not have it, or if the reservation is gone."""
        return await self._database.write(lambda connection: self._reservations.extend(connection, id_), durable=False)

    async def settle(self, id_: str, cost: ImageCost) -> None:
        """Replace the reservation of an image by what it has cost, on the day of the reservation. Without a
        reservation nothing is booked, because it was settled before."""
        await self._database.write(lambda connection: self._reservations.settle(connection, id_, cost), durable=False)

    async def release(self, base_id: str, count: int) -> None:
        """Give back what the images of a request have reserved. Gemini was not asked."""
        await self._database.write(
            lambda connection: self._reservations.release(connection, base_id, count), durable=False
        )

    async def reap(self) -> int:
        """Settle reservations whose lease has ended, because their process died. Return their number.

        If Gemini was asked, all calls that were reserved are booked. Otherwise they are given back.
        """
        reaped = 0
        while await self._database.read(self._reservations.are_any_dead):  # without SQLite's write lock
            batch = await self._database.write(self._reservations.reap)
            if not batch:
                break  # another process is settling them
            reaped += batch
        return reaped

    async def record(self, entries: Mapping[tuple[str, date, str, str | None], Amounts]) -> None:
        """Add to the usage of callers who reserve nothing.

        Args:
            entries: images, tokens and micro-dollars, by owner, day (UTC), model and end user.
        """
        await self._usage.record(entries)

    async def usage(self, owner: str, limits: Limits, first: date, last: date) -> CallerUsage:
        """Return what an owner has used from the first to the last day, and what is reserved now, of one moment."""
        return await self._usage.read(owner, limits, first, last)

    async def budgets(self) -> list[BudgetState]:
        """Return the budgets of all callers that have one, by name."""
        return await self._usage.budgets()
