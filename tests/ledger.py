"""What callers have spent and reserved, read from the database without the service, for tests of budgets."""

import asyncio
from collections import defaultdict
from contextlib import suppress
from typing import Any, Self

from app.domain.caller import Caller
from tests.storages import Overrides
from tests.stored_chats import fetched


def owner(name: str) -> str:
    return Caller(name, keyed=True).owner


# One statement, so that all sums are of the same moment.
_SUMS = """
SELECT owner, coalesce(sum(amount), 0), coalesce(sum(reserved), 0), coalesce(sum(place), 0) FROM (
  SELECT owner, micro_usd AS amount, 0 AS reserved, 0 AS place FROM usage
  UNION ALL
  SELECT owner, 0, unit_micro_usd * units, 1 FROM reservations
) AS entries GROUP BY owner
"""


async def sums(storage: Overrides) -> dict[str, tuple[int, int, int]]:
    """Return by owner: micro-dollars that are spent, micro-dollars that are reserved, number of reservations."""
    return {name: (int(spent), int(held), int(places)) for name, spent, held, places in await fetched(storage, _SUMS)}


async def spent_by_end_user(storage: Overrides, name: str) -> dict[str, int]:
    """Return the micro-dollars that a caller has spent, by end user."""
    query = f"SELECT end_user, sum(micro_usd) FROM end_user_usage WHERE owner = '{owner(name)}' GROUP BY end_user"
    return {user: int(spent) for user, spent in await fetched(storage, query)}


class Watcher:
    """Reads the sums again and again inside its block, and keeps the largest ones."""

    def __init__(self, storage: Overrides) -> None:
        self._storage = storage
        self._watching: asyncio.Task[Any] | None = None
        self.looks = 0
        self.most: defaultdict[str, int] = defaultdict(int)
        """The largest sum of spent and reserved micro-dollars at one moment, by owner."""
        self.most_places: defaultdict[str, int] = defaultdict(int)
        """The largest number of reservations at one moment, by owner."""

    async def _watch(self) -> None:
        while True:
            for name, (spent, reserved, places) in (await sums(self._storage)).items():
                self.most[name] = max(self.most[name], spent + reserved)
                self.most_places[name] = max(self.most_places[name], places)
            self.looks += 1
            await asyncio.sleep(0.005)

    async def __aenter__(self) -> Self:
        self._watching = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._watching is not None
        if self._watching.done():
            self._watching.result()
        self._watching.cancel()
        with suppress(asyncio.CancelledError):
            await self._watching
