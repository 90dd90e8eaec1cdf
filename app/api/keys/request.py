"""Request bodies of `/admin/keys`, which also check the options of `python -m app keys`; the period of `/usage`."""

import re
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field

from app.api.http.schema import Flag, RequestModel, no_flag, upper
from app.domain.api_key import UNCHANGED, Unchanged, require_name
from app.domain.catalogue import MODEL_ID_PATTERN
from app.domain.limits import Budget, Limits, Rate
from app.lib.env_values import parse_duration

SIZES = ("512", "1K", "2K", "4K")

_MAX_CONCURRENT = 100_000
_MAX_MODELS = 64
_MAX_SECONDS = 36_500 * 86_400.0


def _rate(text: str) -> str:
    return str(Rate.parse(text))


def _budget(text: str) -> str:
    return str(Budget.parse(text))


def _size(text: str) -> str:
    if text not in SIZES:
        raise ValueError(f"must be one of {', '.join(SIZES)}")
    return text


def _no_duplicates(models: list[str]) -> list[str]:
    return [*dict.fromkeys(models)]


def _not_empty(models: list[str]) -> list[str]:
    if not models:
        raise ValueError("names no model; null allows all")
    return models


def _seconds(value: Any) -> Any:
    seconds = parse_duration(no_flag(value))
    if isinstance(seconds, str):
        raise ValueError("is not a number of seconds or a duration such as 30d, 12h or 90m")
    return seconds


def _in_range(seconds: float) -> float:
    if not 0 <= seconds <= _MAX_SECONDS:
        raise ValueError("must be 0 to 36500 days")
    return seconds


def _positive(seconds: float) -> float:
    if seconds <= 0:
        raise ValueError("must be longer than 0 seconds")
    return seconds


_Duration = Annotated[float, AfterValidator(_in_range), BeforeValidator(_seconds, json_schema_input_type=str | float)]
"""In seconds."""

_RATE = Field(None, description="Requests per `s`, `min`, `hour` or `day`.", examples=["60/min"])
_CONCURRENT = Field(None, description="Generations at once. Waiting ones count too.", examples=[4])
_BUDGET = Field(None, description="US dollars per `day` or `month` of UTC.", examples=["20/month"])
_MAX_SIZE = Field(None, description=f"Largest image size: {', '.join(SIZES)}.", examples=["2K"])
_MODELS = Field(None, description="Ids or aliases of the only models that may be asked.", examples=[["nano-banana-2"]])
_EXPIRES = Field(None, description="Time after which the key ends: seconds, or `90d`, `12h`, `30m`.", examples=["90d"])
_TRACK_USERS = Field(description="Keep usage by the end users that `X-End-User` names.")

_RateText = Annotated[str, Field(max_length=32), AfterValidator(_rate)]
_BudgetText = Annotated[str, Field(max_length=32), AfterValidator(_budget)]
_Concurrent = Annotated[int, Field(ge=1, le=_MAX_CONCURRENT), BeforeValidator(no_flag)]
_Size = Annotated[str, BeforeValidator(upper), AfterValidator(_size)]
_Models = Annotated[
    list[Annotated[str, Field(pattern=MODEL_ID_PATTERN)]],
    Field(max_length=_MAX_MODELS),
    AfterValidator(_no_duplicates),
    AfterValidator(_not_empty),
]
_Expires = Annotated[_Duration, AfterValidator(_positive)]


class KeyOptions(RequestModel):
    """What a caller may do."""

    rate: _RateText | None = _RATE
    concurrent: _Concurrent | None = _CONCURRENT
    budget: _BudgetText | None = _BUDGET
    max_size: _Size | None = _MAX_SIZE
    models: _Models | None = _MODELS
    expires: _Expires | None = _EXPIRES

    def _limit_values(self) -> dict[str, Any]:
        """Return the fields of `Limits`."""
        return {
            "rate": None if self.rate is None else Rate.parse(self.rate),
            "concurrent": self.concurrent,
            "budget": None if self.budget is None else Budget.parse(self.budget),
            "max_size": self.max_size,
            "models": tuple(self.models or ()),
        }


class KeyCreate(KeyOptions):
    """A new key."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "web", "rate": "60/min", "budget": "20/month"}]})

    name: Annotated[str, AfterValidator(require_name)] = Field(
        description="1 to 64 printable characters without commas, colons and slashes."
    )
    track_users: Annotated[Flag, _TRACK_USERS] = False

    @property
    def limits(self) -> Limits:
        return Limits(**self._limit_values())


class KeyChange(KeyOptions):
    """Changes of a key. `null` removes a limit; what is not named stays."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"rate": "120/min", "budget": None}]})

    track_users: Annotated[Flag, _TRACK_USERS] = False

    @property
    def changes(self) -> dict[str, Any]:
        """The named fields of `Limits`, and `track_users` if it is named."""
        values = {**self._limit_values(), "track_users": self.track_users}
        return {name: value for name, value in values.items() if name in self.model_fields_set}

    @property
    def expires_in(self) -> float | Unchanged | None:
        """Seconds; `None` removes the end of the key."""
        return self.expires if "expires" in self.model_fields_set else UNCHANGED


class KeyRotation(RequestModel):
    """How a secret is replaced."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"overlap": "24h"}]})

    overlap: _Duration = Field(
        24 * 3600, description="Time for which the earlier secrets stay valid: seconds, or `24h`. 0 ends them."
    )


def parse_day(text: str) -> date:
    """Return the day of a text such as 2026-11-27.

    Raises:
        ValueError: it is none.
    """
    if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
        raise ValueError("must be a day such as 2026-11-27")
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise ValueError("is not a day of the calendar") from error


def usage_period(first: date | None, last: date | None) -> tuple[date, date]:
    """Return the first and the last day of a report. By default it is the current month of UTC.

    Raises:
        ValueError: the first day is after the last one.
    """
    today = datetime.now(UTC).date()
    if first is None:
        first = (last or today).replace(day=1)
    if last is None:
        last = max(_end_of_month(today), first)
    if first > last:
        raise ValueError("is after the last day")
    return first, last


def _end_of_month(day: date) -> date:
    return (day.replace(day=1) + timedelta(days=32)).replace(day=1) - timedelta(days=1)
