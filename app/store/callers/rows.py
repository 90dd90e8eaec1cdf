"""Rows of the table `callers`: convert limits to columns and back."""

from typing import Any

from app.domain.api_key import KnownCaller
from app.domain.caller import Caller
from app.domain.limits import Budget, Limits, Period, Rate
from app.store.tables import callers

LIMIT_COLUMNS = (
    callers.c.name,
    callers.c.rate,
    callers.c.concurrent,
    callers.c.budget_micro_usd,
    callers.c.budget_per,
    callers.c.max_size,
    callers.c.models,
    callers.c.track_users,
)
"""What `limits_of` and `known_caller` read."""

OWNER_PREFIX = Caller("", keyed=True).owner
"""An owner with this prefix is a caller with a key. Others have no row in `callers`."""


def limits_of(row: Any) -> Limits:
    return Limits(
        rate=None if row.rate is None else Rate.parse(row.rate),
        concurrent=row.concurrent,
        budget=None if row.budget_micro_usd is None else Budget(row.budget_micro_usd, Period(row.budget_per)),
        max_size=row.max_size,
        models=tuple(row.models.split(",")) if row.models else (),
    )


def known_caller(row: Any) -> KnownCaller:
    return KnownCaller(row.name, limits_of(row), row.track_users)


def columns_of(changes: dict[str, Any]) -> dict[str, Any]:
    """Return the columns for fields of `Limits`, or for `track_users`. A field that is not given has no column."""
    values = dict(changes)
    if "rate" in changes:
        values["rate"] = None if changes["rate"] is None else str(changes["rate"])
    if "budget" in changes:
        budget: Budget | None = values.pop("budget")
        values["budget_micro_usd"] = None if budget is None else budget.micro_usd
        values["budget_per"] = None if budget is None else budget.per.value
    if "models" in changes:
        values["models"] = ",".join(changes["models"] or ())
    return values
