"""Whatever the SDK or its transport raises, as a `ServiceError`. The only place that knows both.

Google's error texts can quote the prompt, and its bodies are none of a caller's business: sentences for callers are
ours, the log gets status, reason and quota ids, and Google's own words only where the settings allow it.
"""

import json
import math
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpcore2
import httpx2
from google.auth.exceptions import GoogleAuthError
from google.genai import errors as sdk

from app.domain.errors import (
    BillingExhausted,
    FieldError,
    InvalidRequest,
    InvalidThoughtSignature,
    Overloaded,
    QuotaExhausted,
    RetrySafety,
    ServiceError,
    TooLarge,
    UpstreamBusy,
    UpstreamError,
    UpstreamInvalidResponse,
    UpstreamRejectedCredentials,
    UpstreamTimeout,
)
from app.domain.progress import GenerationProgress, Stage
from app.gemini import response_schema
from app.gemini.transport.exchange import MemoryBudgetTimeout, ResponseTooLarge

BUSY_RETRY_AFTER_SECONDS = 10
"""What to tell callers when Gemini is short of capacity and does not say for how long."""

_FIELDS = (
    ("aspect.?ratio", "aspectRatio"),
    ("image.?size", "imageSize"),
    ("thinking", "thinkingLevel"),
    ("input image|inline.?data|mime.?type|(number of|too many) images|media.?resolution", "referenceImages"),
    ("image.?search", "imageSearch"),
    ("google.?search|search.?types|grounding|tool", "googleSearch"),
    ("system.?instruction|developer.?instruction", "systemInstruction"),
    ("safety.?setting|harm", "safetySettings"),
    (r"\bseed\b", "seed"),
)
"""Which field of ours a 400 of Google's is about, by what its message mentions."""

_TOO_MANY_TOKENS = (
    r"input token count(?: \((\d{1,12})\))? exceeds the maximum number of tokens allowed(?: \(?(\d{1,12}))?"
)

_MONEY = "|".join(
    (
        r"\bpre-?(paid|pay(ment)?)\b",
        r"\bcredits?\b[^.\n]{0,40}\b(depleted|exhausted|expired|insufficient|used up|run out|ran out)\b",
        r"\b(insufficient|not enough|out of|no) (\w+ ){0,2}(credits?|funds|balance)\b|\b(credit|account) balance\b",
        r"\b(spend(ing)?|billing)[- ](caps?|limits?)\b|\bexceeded\b[^.\n]{0,40}\bspend(ing)?\b",
        r"\bbudget\b[^.\n]{0,20}\b(exceeded|exhausted|used up)\b",
        r"\bbilling\b[^.\n]{0,80}\b(disabled|suspended|closed|inactive|invalid|delinquent|past due|overdue)\b",
        r"\bbilling\b[^.\n]{0,80}(\bnot|n't) (\w+ )?(active|open|enabled|valid|set up|found|linked|in good standing)\b",
        r"\b(requires?|enable|activate|set up|no|without) (\w+ )?billing\b|\bbilling (\w+ ){0,2}(required|enabled)\b",
        r"\bbilled users\b|\bpayment (\w+ ){0,2}(required|failed|declined|overdue|past due)\b",
    )
)
"""What Google's messages say when it is money that is missing, whatever their status.

"Please check your plan and billing details" is none of it: that is how every used-up quota ends.
"""

_MONEY_REASONS = {"BILLING", "PREPAID", "PREPAY", "PREPAYMENT", "SPEND", "SPENDING", "CREDIT", "CREDITS", "PAYMENT"}
"""Words of the reasons of ErrorInfo that are about money, `BILLING_DISABLED` for instance."""

_RATE_REASONS = {"RATE_LIMIT_EXCEEDED", "RESOURCE_QUOTA_EXCEEDED"}
"""Reasons of ErrorInfo that speak of a quota; Vertex sends them without anything else."""


@contextmanager
def as_service_errors(progress: GenerationProgress) -> Iterator[None]:
    """Raise whatever goes wrong between us and Gemini inside the block as a `ServiceError`."""
    try:
        yield
    except sdk.APIError as exc:
        raise api_error(exc) from exc
    except httpcore2.ConnectTimeout as exc:
        late = UpstreamTimeout("No connection to Gemini could be made in time.", cause=_name(exc))
        late.waited_for = "connection"
        raise late.with_retry(RetrySafety.SAFE) from exc
    except (httpcore2.TimeoutException, TimeoutError) as exc:
        raise _late(progress, exc) from exc
    except (httpcore2.ConnectError, httpcore2.ProxyError, httpcore2.UnsupportedProtocol) as exc:
        # A certificate that is not trusted is none the next moment either.
        again = RetrySafety.NEVER if isinstance(exc.__cause__, ssl.SSLCertVerificationError) else RetrySafety.SAFE
        raise UpstreamError("No connection to Gemini could be made.", cause=_why(exc)).with_retry(again) from exc
    except MemoryBudgetTimeout as exc:
        raise Overloaded(str(exc), retry_after=10) from exc
    except ResponseTooLarge as exc:
        raise UpstreamInvalidResponse("Gemini's answer is larger than this service takes.", cause=str(exc)) from exc
    except httpx2.DecodingError as exc:
        raise UpstreamInvalidResponse("Gemini's answer cannot be unpacked.", cause=_name(exc)) from exc
    except httpcore2.LocalProtocolError as exc:
        raise UpstreamError("The request to Gemini could not be written.", cause=_name(exc)) from exc
    except (httpcore2.NetworkError, httpcore2.ProtocolError, httpx2.HTTPError) as exc:
        raise UpstreamError("The connection to Gemini broke.", cause=_name(exc)).with_retry(RetrySafety.ONCE) from exc
    except GoogleAuthError as exc:
        detail = "This service has no valid Google Cloud credentials."
        raise UpstreamRejectedCredentials(detail, cause=_name(exc)) from exc
    except UnicodeEncodeError:
        raise  # ours: a key that no header can carry
    except (json.JSONDecodeError, UnicodeError, RecursionError) as exc:
        raise UpstreamInvalidResponse("Gemini's answer is not JSON.", cause=_name(exc)) from exc


def _late(progress: GenerationProgress, exc: BaseException) -> UpstreamTimeout:
    """It may have been drawn and billed all the same, so nobody should ask again unawares."""
    if progress.remaining() <= 0:
        detail = f"There was no image within the {progress.seconds:g} seconds that it may take."
    elif progress.stage is Stage.MEMORY_WAIT:
        detail = "Gemini's answer was there, but this service had no memory to spare for it."
    elif progress.stage is Stage.TRANSFER:
        detail = "Gemini stopped in the middle of its answer."
    else:
        detail = f"Gemini did not answer within {round(progress.in_stage(), 1):g} seconds."
    late = UpstreamTimeout(detail, cause=f"{_name(exc)} in {progress.stage}")
    late.waited_for = str(progress.stage)
    late.may_have_cost = True
    late.upstream_was_slow = progress.remaining() > 0 and progress.stage is not Stage.MEMORY_WAIT
    return late


def _why(exc: BaseException) -> str:
    return f"{_name(exc)} {_name(exc.__cause__)}" if exc.__cause__ else _name(exc)


def _name(exc: BaseException) -> str:
    return type(exc).__name__


_MAX_WORDS = 4096
"""So many characters are looked at of what an error says."""

_MAX_DETAILS = 100
"""So many of its details. Google sends up to four."""


class _ErrorDetails:
    """What Google's error document tells, whatever shape it came in."""

    def __init__(self, exc: sdk.APIError) -> None:
        self.code = exc.code
        self.status = response_schema.well_formed(str(exc.status or ""))
        self.message = response_schema.well_formed(str(exc.message or "")[:_MAX_WORDS])
        error = exc.details.get("error") if isinstance(exc.details, dict) else None
        self.from_google = isinstance(error, dict)
        """Whether this is Google's envelope; a gateway on the way may answer in its own words."""
        listed = _list(error.get("details") if isinstance(error, dict) else None)[:_MAX_DETAILS]
        try:
            listed = response_schema.well_formed(listed)
        except RecursionError:
            listed = []
        self.details = [entry for entry in listed if isinstance(entry, dict)]
        self.reasons = [str(entry["reason"]) for entry in self.details if entry.get("reason")]
        self.violations = [
            violation
            for entry in self.details
            for violation in _list(entry.get("violations"))[:_MAX_DETAILS]
            if isinstance(violation, dict)
        ]
        self.metadata = [entry["metadata"] for entry in self.details if isinstance(entry.get("metadata"), dict)]
        self.retry_info = self._retry_info()
        self.retry_after = max(
            filter(None, (self.retry_info, self._retry_in_words(), _retry_after_header(exc))), default=None
        )

    def _retry_info(self) -> int | None:
        delays = [re.fullmatch(r"(\d{1,9}(?:\.\d+)?)s", str(entry.get("retryDelay", ""))) for entry in self.details]
        return max((math.ceil(float(delay[1])) for delay in delays if delay), default=None)

    def _retry_in_words(self) -> int | None:
        """From "Please retry in 4h59m27.7s.", which comes where RetryInfo is missing."""
        words = re.search(
            r"retry in (?:(\d{1,4})h)?(?:(\d{1,4})m(?!s))?(?:(\d{1,6}(?:\.\d+)?)s)?(?:(\d{1,6}(?:\.\d+)?)ms)?",
            self.message,
        )
        if words is None:
            return None
        hours, minutes, seconds, thousandths = (float(part or 0) for part in words.groups())
        return math.ceil(3600 * hours + 60 * minutes + seconds + thousandths / 1000) or None

    @property
    def about_money(self) -> bool:
        """Whether it is money that is missing, not capacity or a quota."""
        if self.code == 402 or any(_MONEY_REASONS & {*one.split("_")} for one in self.reasons):
            return True
        # Other messages can quote what a caller wrote.
        own_words = self.code in (403, 429) or (self.code == 400 and self.status == "FAILED_PRECONDITION")
        return own_words and self.says(_MONEY)

    @property
    def not_on_this_tier(self) -> bool:
        """Whether the quota is 0: waiting does not help."""
        values = [violation.get("quotaValue") for violation in self.violations]
        values += [one.get("quota_limit_value") for one in self.metadata]
        return self.says(r"limit: 0\b") or any(str(value) == "0" for value in values)

    @property
    def cause(self) -> str:
        quotas = [str(violation.get("quotaId") or violation.get("quotaMetric")) for violation in self.violations]
        quotas += [str(one["quota_limit"]) for one in self.metadata if one.get("quota_limit")]
        return " ".join([str(self.code), self.status, *self.reasons, *quotas]).strip()[:_MAX_WORDS]

    def says(self, pattern: str) -> bool:
        return re.search(pattern, self.message, re.IGNORECASE) is not None


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _retry_after_header(exc: sdk.APIError) -> int | None:
    headers = getattr(exc.response, "headers", None) or {}
    value = str(headers.get("retry-after", "")).strip()
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]+)?(\s*,\s*[0-9]{1,9}(\.[0-9]+)?)*", value):
        return max(math.ceil(float(one)) for one in value.split(","))
    try:
        when = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    aware = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max(0, math.ceil((aware - datetime.now(UTC)).total_seconds()))


def api_error(exc: sdk.APIError) -> ServiceError:
    """Google's error document, as ours."""
    try:
        told = _ErrorDetails(exc)
    except RecursionError as too_deep:
        return UpstreamInvalidResponse("Gemini's answer is not JSON.", cause=_name(too_deep))
    error = _matching(told)
    error.upstream_message = told.message
    if isinstance(error, UpstreamError) and not isinstance(error, UpstreamRejectedCredentials):
        error.with_retry(_again(told, error), told.retry_after)
    return error


def error_in_response(error: object, *, begun: bool, holds_images: bool) -> ServiceError:
    """An error that Gemini sends in the place of an answer, or of the rest of one.

    It is what the same error is outside of an answer, but for trying again: something has been done, and billed
    perhaps.

    Args:
        error: what stands in Google's envelope.
        begun: whether there was something before it.
        holds_images: whether something of an image has arrived.
    """
    code = _code(error)
    if code is None:
        return UpstreamInvalidResponse("Gemini sent an error that is none of Google's.", cause="error in an answer")
    failure = api_error(sdk.APIError(code, {"error": error}))
    if isinstance(failure, UpstreamError):
        again = RetrySafety.NEVER if holds_images or failure.retry_safety is RetrySafety.NEVER else RetrySafety.ONCE
        failure.with_retry(again, failure.retry_delay)
    failure.may_have_cost = failure.may_have_cost or begun or holds_images
    return failure


def _code(error: object) -> int | None:
    """The HTTP status of an error, by its number or by Google's name for it."""
    if not isinstance(error, dict):
        return None
    code = error.get("code")
    if isinstance(code, str) and re.fullmatch(r"[1-5][0-9]{2}", code):
        code = int(code)
    if isinstance(code, int) and 300 <= code < 600:
        return code
    return _CODES.get(str(error.get("status")))


_CODES = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "RESOURCE_EXHAUSTED": 429,
    "CANCELLED": 499,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
"""From google/rpc/code.proto."""


def _again(told: _ErrorDetails, error: UpstreamError) -> RetrySafety:
    """Google's errors say that nothing was drawn; of its own deadline that is not so clear."""
    if told.code == 504:
        return RetrySafety.ONCE
    if told.code not in (408, 429, 500, 502, 503):
        return RetrySafety.NEVER
    if isinstance(error, QuotaExhausted):
        return RetrySafety.NEVER if error.scope == "day" or told.not_on_this_tier else RetrySafety.SAFE
    return RetrySafety.NEVER if isinstance(error, BillingExhausted) else RetrySafety.SAFE


def _matching(told: _ErrorDetails) -> ServiceError:
    cause = told.cause
    if told.about_money:
        detail = (
            "Gemini's account for this service has no credit left, has reached its spending cap, or has no billing. "
            "It serves again once the account's owner has settled that."
        )
        return BillingExhausted(detail, cause=cause)
    rejected = told.code in (401, 403) or "API_KEY_INVALID" in told.reasons
    if rejected or (told.code == 400 and told.says("API key (not valid|not found|expired)")):
        # A bad key is a 400, not a 401.
        return UpstreamRejectedCredentials("Gemini does not accept this service's credentials.", cause=cause)
    if told.code == 400 and told.status == "FAILED_PRECONDITION":
        return UpstreamError("Gemini does not serve this service's account from here.", cause=cause)
    if told.code in (400, 404) and not told.from_google:
        return UpstreamError("What answers at Gemini's address is not Gemini.", cause=cause)
    if told.code == 413 or (told.code == 400 and told.says("payload size exceeds")):
        return TooLarge("The request is larger than Gemini takes.", cause=cause)
    if told.code == 400 and told.says("thought.?signature"):
        return InvalidThoughtSignature("Gemini does not accept the thought signatures of this chat.", cause=cause)
    if told.code == 400:
        return InvalidRequest([_complaint(told)], cause=cause)
    if told.code == 404:
        knows = "has retired" if told.says("no longer available") else "does not know"
        message = f"Gemini {knows} this model, or does not offer it to this service."
        return InvalidRequest([FieldError("model", message)], cause=cause)
    if told.code == 429:
        return _from_429(told)
    if told.code == 503:
        return UpstreamBusy(
            "Gemini is overloaded at the moment.", cause=cause, retry_after=told.retry_after or BUSY_RETRY_AFTER_SECONDS
        )
    if told.code in (408, 504):
        return UpstreamTimeout("Gemini gave up on its own deadline.", cause=cause, retry_after=told.retry_after)
    return UpstreamError("Gemini failed inside.", cause=cause, retry_after=told.retry_after)


def _from_429(told: _ErrorDetails) -> ServiceError:
    """Tell a quota from a shortage: both are 429, and only a quota comes with details or says its name."""
    limited = told.violations or told.retry_info or _RATE_REASONS & {*told.reasons}
    if not limited and not told.says("current quota|quota exceeded|limit: 0"):
        wait = told.retry_after or BUSY_RETRY_AFTER_SECONDS
        return UpstreamBusy("Gemini is short of capacity at the moment.", cause=told.cause, retry_after=wait)
    if told.not_on_this_tier:
        detail = "Gemini does not offer this model on the tier of this service's key (limit: 0)."
        return QuotaExhausted(detail, scope=None, cause=told.cause, retry_after=told.retry_after)
    named = f"{json.dumps([*told.violations, *told.metadata])} {told.message}"
    if re.search("per.?day|1/d/", named, re.IGNORECASE):
        detail = "Gemini's per-day quota for this service is used up; it is reset at midnight Pacific time."
        return QuotaExhausted(detail, scope="day", cause=told.cause, retry_after=told.retry_after)
    scope = "minute" if re.search("per.?minute|1/min/", named, re.IGNORECASE) else None
    detail = "Gemini's quota for this service is used up for the moment."
    return QuotaExhausted(
        detail, scope=scope, cause=told.cause, retry_after=told.retry_after or BUSY_RETRY_AFTER_SECONDS
    )


def _complaint(told: _ErrorDetails) -> FieldError:
    if too_many := re.search(_TOO_MANY_TOKENS, told.message, re.IGNORECASE):
        count, most = too_many.groups()
        numbers = f" ({int(count):,} tokens, {int(most):,} at most)" if count and most else ""
        message = f"Together with images and earlier turns this is longer than the model takes{numbers}."
        return FieldError("prompt", message)
    for pattern, field in _FIELDS:
        if told.says(pattern):
            return FieldError(field, "Gemini does not accept this for the model.")
    return FieldError("body", "Gemini does not accept this request.")
