"""What requests cost. Dollars are integers of micro-dollars (0.000001 USD)."""

from dataclasses import dataclass
from datetime import date

from app.domain.generation import Usage
from app.domain.limit_check import allowance_of
from app.domain.limits import MICRO_USD, Allowance, Budget, Limits, Standing


@dataclass(frozen=True, slots=True)
class Charge:
    """What a request takes of its caller's limits."""

    count: int
    """Number of images."""
    unit: int
    """What one call to Gemini normally costs at most, in micro-dollars."""
    model: str
    """Model under which a call of unknown outcome is booked."""


@dataclass(frozen=True, slots=True)
class ImageCost:
    """What one image of a request has cost."""

    model: str
    images: int = 0
    """1 if there is an image, 0 for a refusal or a failure."""
    tokens: int = 0
    micro_usd: int = 0
    """Known cost."""
    unknown_calls: int = 0
    """Calls to Gemini that may have been billed, and whose cost is not known. Each is booked like `Charge.unit`."""

    @property
    def is_free(self) -> bool:
        return not (self.images or self.tokens or self.micro_usd or self.unknown_calls)


@dataclass(frozen=True, slots=True)
class UsageRow:
    """What a caller has used on one day of one model."""

    date: date
    model: str
    images: int
    tokens: int
    micro_usd: int


@dataclass(frozen=True, slots=True)
class EndUserRow:
    """What an end user of a caller has used in a period."""

    end_user: str
    images: int
    tokens: int
    micro_usd: int


@dataclass(frozen=True, slots=True)
class BudgetState:
    """What a caller has used of its budget in the current period."""

    name: str
    """Of the caller."""
    budget: Budget
    spent: int
    reserved: int


@dataclass(frozen=True, slots=True)
class CallerUsage:
    """What a caller has used in a period, and what is left of its limits now."""

    first: date
    last: date
    """The last day of the period. It is included."""
    rows: tuple[UsageRow, ...]
    """By date and model."""
    end_users: tuple[EndUserRow, ...]
    reserved: int
    """Micro-dollars that are reserved now."""
    limits: Limits
    standing: Standing | None
    """`None` without a database, in which nothing can be counted."""

    @property
    def allowance(self) -> Allowance:
        return allowance_of(self.limits, self.standing)

    @property
    def images(self) -> int:
        return sum(row.images for row in self.rows)

    @property
    def spent(self) -> int:
        """Micro-dollars in the period."""
        return sum(row.micro_usd for row in self.rows)


def micro_usd(usage: Usage | None) -> int | None:
    """Return the cost of a response in micro-dollars; `None` if it is not known."""
    if usage is None or usage.estimated_cost_usd is None:
        return None
    return round(usage.estimated_cost_usd * MICRO_USD)
