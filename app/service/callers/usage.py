"""What the database knows of a caller's usage."""

from datetime import date
from typing import TYPE_CHECKING

from app.domain.caller import Caller
from app.domain.limit_check import allowance_of
from app.domain.spending import CallerUsage

if TYPE_CHECKING:
    from app.store.callers import CallerStore


async def stored_usage(store: "CallerStore", caller: Caller, first: date, last: date) -> CallerUsage:
    """Return what a caller has used from the first to the last day (UTC), and what is left of its limits.

    Raises:
        StorageUnavailable: the database does not answer.
    """
    standing = await store.standing(caller.owner, caller.limits)
    return CallerUsage(
        first,
        last,
        tuple(await store.usage(caller.owner, first, last)),
        tuple(await store.end_users(caller.owner, first, last)),
        standing.reserved,
        allowance_of(caller.limits, standing),
    )
