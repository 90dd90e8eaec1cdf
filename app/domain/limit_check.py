"""The decision on a request: whether it is within its caller's limits, and what is left after it."""

import time
from datetime import UTC, datetime
from math import ceil

from app.domain.errors import BudgetExhausted, RateLimited, TooManyAtOnce
from app.domain.limits import Allowance, Limits, Standing, format_usd

_BUSY_RETRY_SECONDS = 5
"""`Retry-After` of a caller who has as many generations as allowed. Most images take longer."""

_TOLERANCE = 1e-6
"""Seconds, and shares of an interval, by which times may differ because floats are not exact."""


def check_limits(limits: Limits, standing: Standing, count: int, micro_usd: int) -> Allowance:
    """Decide on a request. For the rate it counts as one request, also with several images.

    Args:
        limits: of the caller.
        standing: of the caller.
        count: number of images.
        micro_usd: what they cost at most, together.

    Returns:
        What is left after the request.

    Raises:
        RateLimited, TooManyAtOnce, BudgetExhausted: the request is over a limit. Its `allowance` is what is left
            without it.
    """
    before = _left(limits, standing, standing.tat, 0, 0)
    tat = standing.tat
    if limits.rate is not None:
        arrival = max(tat or standing.now, standing.now)
        wait = arrival - standing.now - limits.rate.interval * (limits.rate.requests - 1)
        if wait > _TOLERANCE:
            raise RateLimited(
                f"This key may send {limits.rate.requests} requests per {limits.rate.unit}.",
                retry_after=max(1, ceil(wait)),
                allowance=before,
            )
        tat = arrival + limits.rate.interval
    if limits.concurrent is not None and standing.running + count > limits.concurrent:
        raise TooManyAtOnce(
            f"This key may have {limits.concurrent} generations at once; {standing.running} are running or waiting, "
            f"and this request has {count}.",
            retry_after=_BUSY_RETRY_SECONDS,
            allowance=before,
        )
    if (budget := limits.budget) is not None and standing.spent + standing.reserved + micro_usd > budget.micro_usd:
        assert before.resets_at is not None
        raise BudgetExhausted(
            f"This request may cost {format_usd(micro_usd)} USD. Of the budget of {budget} "
            f"{format_usd(max(0, before.micro_usd_left or 0))} USD are left.",
            retry_after=max(1, ceil(before.resets_at.timestamp() - standing.now)),
            allowance=before,
        )
    return _left(limits, standing, tat, count, micro_usd)


def allowance_of(limits: Limits, standing: Standing | None) -> Allowance:
    """Return what is left of a caller's limits. Without a standing, nothing has been used."""
    standing = standing or Standing(time.time(), None, 0, 0, 0)
    return _left(limits, standing, standing.tat, 0, 0)


def _left(limits: Limits, standing: Standing, tat: float | None, count: int, micro_usd: int) -> Allowance:
    """Return what is left once `count` more generations have reserved `micro_usd`."""
    now, rate, budget = standing.now, limits.rate, limits.budget
    requests = after = None
    if rate is not None:
        ahead = max((tat or now) - now, 0.0)
        used = ceil(ahead / rate.interval - _TOLERANCE)
        requests, after = max(0, rate.requests - used), ahead - (used - 1) * rate.interval if used else 0.0
    return Allowance(
        limits,
        requests,
        after,
        None if limits.concurrent is None else max(0, limits.concurrent - standing.running - count),
        None if budget is None else budget.micro_usd - standing.spent - standing.reserved - micro_usd,
        None if budget is None else budget.per.end(datetime.fromtimestamp(now, UTC)),
        tat,
    )
