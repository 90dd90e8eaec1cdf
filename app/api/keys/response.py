"""Response bodies of `/admin/keys` and `/usage`. The command line prints the same documents with `--json`."""

import datetime as dt
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import ConfigDict, Field
from pydantic.alias_generators import to_camel

from app.api.http.schema import ResponseModel
from app.domain.api_key import CallerRecord, SecretRecord
from app.domain.limits import MICRO_USD, Allowance
from app.domain.spending import CallerUsage
from app.service.callers.administration import ManagedKey

KeyState = Literal["valid", "expired", "revoked"]


class SecretRead(ResponseModel):
    hint: str = Field(description="The first characters of the secret.", examples=["gim_4hGx2L"])
    state: KeyState
    created_at: datetime
    expires_at: datetime | None


class KeyRead(ResponseModel):
    name: str
    state: KeyState = Field(description="`valid` if any of the secrets is.")
    rate: str | None = Field(examples=["60/min"])
    concurrent: int | None
    budget: str | None = Field(examples=["20/month"])
    spent_usd: float | None = Field(description="Spent in the current period of the budget.")
    reserved_usd: float | None = Field(description="Reserved for requests that are not finished.")
    max_size: str | None
    models: list[str] | None = Field(description="`null` if all models may be asked.")
    track_users: bool
    created_at: datetime
    expires_at: datetime | None = Field(description="When the newest secret ends; `null` if it does not.")
    secrets: list[SecretRead] = Field(description="The newest first.")


class NewKeyRead(KeyRead):
    secret: str = Field(description="What the caller sends. It is never shown again.")


class KeysRead(ResponseModel):
    keys: list[KeyRead]


class PeriodRead(ResponseModel):
    model_config = ConfigDict(alias_generator=to_camel, validate_by_name=True)

    from_: dt.date = Field(alias="from")
    to: dt.date = Field(description="The last day. It is included.")


class BudgetRead(ResponseModel):
    usd: float
    per: Literal["day", "month"]
    remaining_usd: float = Field(description="Of the current period: the budget without what is spent and reserved.")
    resets_at: datetime


class LimitsRead(ResponseModel):
    rate: str | None
    concurrent: int | None
    budget: BudgetRead | None


class DayRead(ResponseModel):
    date: dt.date
    model: str
    images: int
    tokens: int
    usd: float


class EndUserRead(ResponseModel):
    end_user: str
    images: int
    tokens: int
    usd: float


class UsageRead(ResponseModel):
    caller: str
    period: PeriodRead
    images: int = Field(description="Images that were delivered.")
    spent_usd: float = Field(description="Estimated cost in the period, in US dollars.")
    reserved_usd: float = Field(description="Reserved now for requests that are not finished.")
    limits: LimitsRead = Field(description="`null` for limits that are not set.")
    days: list[DayRead] = Field(description="By date (UTC) and model.")
    users: list[EndUserRead] = Field([], description="By `X-End-User`. Absent unless the key tracks users.")


def key_read(key: ManagedKey) -> KeyRead:
    record, used = key.record, key.budget
    limits = record.limits
    return KeyRead(
        name=record.name,
        state=_state(record),
        rate=None if limits.rate is None else str(limits.rate),
        concurrent=limits.concurrent,
        budget=None if limits.budget is None else str(limits.budget),
        spent_usd=None if used is None else used.spent / MICRO_USD,
        reserved_usd=None if used is None else used.reserved / MICRO_USD,
        max_size=limits.max_size,
        models=[*limits.models] or None,
        track_users=record.track_users,
        created_at=_time(record.created_at),
        expires_at=_time_or_none(record.secrets[0].expires_at) if record.secrets else None,
        secrets=[
            SecretRead(
                hint=secret.hint,
                state=_secret_state(secret),
                created_at=_time(secret.created_at),
                expires_at=_time_or_none(secret.expires_at),
            )
            for secret in record.secrets
        ],
    )


def new_key_read(key: ManagedKey, secret: str) -> NewKeyRead:
    return NewKeyRead(**dict(key_read(key)), secret=secret)


def usage_document(caller: str, usage: CallerUsage) -> dict[str, Any]:
    """Return the usage of a caller as a JSON object. It has `users` only if there are any."""
    read = UsageRead(
        caller=caller,
        period=PeriodRead(from_=usage.first, to=usage.last),
        images=usage.images,
        spent_usd=usage.spent / MICRO_USD,
        reserved_usd=usage.reserved / MICRO_USD,
        limits=_limits_read(usage.allowance),
        days=[
            DayRead(date=row.date, model=row.model, images=row.images, tokens=row.tokens, usd=row.micro_usd / MICRO_USD)
            for row in usage.rows
        ],
        users=[
            EndUserRead(end_user=row.end_user, images=row.images, tokens=row.tokens, usd=row.micro_usd / MICRO_USD)
            for row in usage.end_users
        ],
    )
    return read.model_dump(mode="json", by_alias=True, exclude=None if read.users else {"users"})


def _limits_read(allowance: Allowance) -> LimitsRead:
    limits, budget = allowance.limits, None
    if limits.budget is not None:
        assert allowance.resets_at is not None
        budget = BudgetRead(
            usd=limits.budget.micro_usd / MICRO_USD,
            per=limits.budget.per.value,
            remaining_usd=(allowance.micro_usd_left or 0) / MICRO_USD,
            resets_at=allowance.resets_at,
        )
    rate = None if limits.rate is None else str(limits.rate)
    return LimitsRead(rate=rate, concurrent=limits.concurrent, budget=budget)


def _state(record: CallerRecord) -> KeyState:
    if record.is_valid:
        return "valid"
    return _secret_state(record.secrets[0]) if record.secrets else "revoked"


def _secret_state(secret: SecretRecord) -> KeyState:
    if secret.is_valid:
        return "valid"
    return "expired" if secret.revoked_at is None else "revoked"


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(round(seconds, 3), UTC)


def _time_or_none(seconds: float | None) -> datetime | None:
    return None if seconds is None else _time(seconds)
