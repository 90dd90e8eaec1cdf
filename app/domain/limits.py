"""What a caller may do: requests per time, generations at once, dollars per day or month, sizes and models.

Dollars are integers of micro-dollars (0.000001 USD). Days and months are those of UTC.
"""

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Self

MICRO_USD = 1_000_000

_UNIT_SECONDS = {"s": 1, "min": 60, "hour": 3600, "day": 86_400}
_RATE = re.compile(r"([1-9]\d{0,8})/(s|min|hour|day)")
_BUDGET = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)/(day|month)")


@dataclass(frozen=True, slots=True)
class Rate:
    """So many requests per unit of time. All of them may come at once; then each has to wait for its share."""

    requests: int
    unit: str
    """`s`, `min`, `hour` or `day`."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the rate of a text such as `60/min`.

        Raises:
            ValueError: the text is no rate.
        """
        found = _RATE.fullmatch(text.strip())
        if found is None:
            raise ValueError("must be a number of requests per s, min, hour or day, such as 60/min")
        return cls(int(found[1]), found[2])

    def __str__(self) -> str:
        return f"{self.requests}/{self.unit}"

    @property
    def seconds(self) -> int:
        """The unit in seconds."""
        return _UNIT_SECONDS[self.unit]

    @property
    def interval(self) -> float:
        """Seconds in which one more request becomes possible."""
        return self.seconds / self.requests


class Period(StrEnum):
    DAY = "day"
    MONTH = "month"

    def first_day(self, now: datetime) -> date:
        """Return the first day of the period that has the time `now`."""
        return now.date().replace(day=1) if self is Period.MONTH else now.date()

    def end(self, now: datetime) -> datetime:
        """Return when the next period begins."""
        first = self.first_day(now)
        following = first + timedelta(days=1) if self is Period.DAY else (first + timedelta(days=32)).replace(day=1)
        return datetime(following.year, following.month, following.day, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Budget:
    micro_usd: int
    per: Period

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the budget of a text such as `20/month` or `0.30/day`, in US dollars.

        Raises:
            ValueError: the text is no budget.
        """
        found = _BUDGET.fullmatch(text.strip().removeprefix("$"))
        if found is None:
            raise ValueError("must be US dollars per day or month, such as 20/month or 0.30/day")
        return cls(int(Decimal(found[1]) * MICRO_USD), Period(found[2]))

    def __str__(self) -> str:
        return f"{format_usd(self.micro_usd).removesuffix('.00')}/{self.per}"


@dataclass(frozen=True, slots=True)
class Limits:
    """`None`, or an empty tuple, is no limit."""

    rate: Rate | None = None
    concurrent: int | None = None
    """Generations at once. Waiting ones count too."""
    budget: Budget | None = None
    max_size: str | None = None
    """Largest image size, such as `2K`."""
    models: tuple[str, ...] = ()
    """Ids or aliases of the only models that may be asked."""

    @property
    def need_reservation(self) -> bool:
        """Whether a request must be counted in the database before Gemini is asked."""
        return self.rate is not None or self.concurrent is not None or self.budget is not None


UNLIMITED = Limits()


@dataclass(frozen=True, slots=True)
class Standing:
    """What the database knows of a caller while it decides on a request. No other request changes it meanwhile."""

    now: float
    """Unix time by the database's clock, in seconds."""
    tat: float | None
    """Theoretical arrival time of the generic cell rate algorithm (GCRA): Unix time, `None` before the first
    request."""
    running: int
    """Generations that have reserved."""
    spent: int
    """Micro-dollars that are spent in the budget's period."""
    reserved: int
    """Micro-dollars that are reserved in the budget's period."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """What is left of a caller's limits. Fields of limits that are not set are `None`."""

    limits: Limits
    requests_left: int | None = None
    request_after: float | None = None
    """Seconds until one more request is possible than now."""
    places_left: int | None = None
    micro_usd_left: int | None = None
    """Can be negative: an image can cost more than was reserved for it."""
    resets_at: datetime | None = None
    """When the next period of the budget begins."""
    tat: float | None = None
    """The new theoretical arrival time."""


def format_usd(micro_usd: int) -> str:
    """Return an amount as text with two to six decimals."""
    text = f"{Decimal(micro_usd) / MICRO_USD:f}"
    whole, _, decimals = text.partition(".")
    return f"{whole}.{decimals.rstrip('0').ljust(2, '0')}"
