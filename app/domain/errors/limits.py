"""Errors of a caller's own limits. Nothing was asked, paid or counted."""

from typing import Any

from app.domain.errors.caller import CallerError
from app.domain.limits import MICRO_USD, Allowance


class NotAllowed(CallerError):
    """The key may not ask for this model or this size."""

    status, code, title = 403, "not_allowed", "This key may not ask for this"


class LimitReached(CallerError):
    status = 429

    def __init__(self, detail: str, *, retry_after: int, allowance: Allowance) -> None:
        """
        Args:
            detail: a sentence for the caller.
            retry_after: seconds after which the request may be possible.
            allowance: what is left of the limits.
        """
        super().__init__(detail, retry_after=retry_after)
        self.allowance = allowance


class RateLimited(LimitReached):
    code, title = "rate_limited", "This key has sent too many requests"


class TooManyAtOnce(LimitReached):
    code, title = "too_many_at_once", "This key has too many generations at once"


class BudgetExhausted(LimitReached):
    """The request may cost more than is left of the budget."""

    code, title = "budget_exhausted", "The budget of this key is used up"
    tells_not_to_retry = True

    def members(self) -> dict[str, Any]:
        budget, resets_at = self.allowance.limits.budget, self.allowance.resets_at
        assert budget is not None
        assert resets_at is not None
        return {
            "budgetUsd": budget.micro_usd / MICRO_USD,
            "per": str(budget.per),
            "remainingUsd": (self.allowance.micro_usd_left or 0) / MICRO_USD,
            "resetsAt": resets_at.isoformat().replace("+00:00", "Z"),
        }
