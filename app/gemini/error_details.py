"""Parse Google's error documents, in each form that Google uses: status, reasons, quotas and retry delay.

Nothing here decides what the error means for the caller; `errors.py` does.
"""

import math
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from google.genai import errors as sdk

from app.gemini import response_schema

_MAX_TEXT_CHARACTERS = 4096
"""Characters of an error message that are parsed."""

_MAX_DETAILS = 100
"""Entries of an error's `details` that are parsed. Google sends up to four."""

_BILLING_MESSAGES = "|".join(
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
"""Phrases of Google's messages about missing money. Google uses several statuses for them.

"Please check your plan and billing details" must not match: every message about a used-up quota ends with it.
"""

_BILLING_REASONS = {"BILLING", "PREPAID", "PREPAY", "PREPAYMENT", "SPEND", "SPENDING", "CREDIT", "CREDITS", "PAYMENT"}
"""Words in the reasons of ErrorInfo about missing money, for example in `BILLING_DISABLED`."""

_QUOTA_REASONS = {"RATE_LIMIT_EXCEEDED", "RESOURCE_QUOTA_EXCEEDED"}
"""Reasons of ErrorInfo about a quota. Vertex AI sends them without further details."""

_HTTP_STATUSES = {
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
"""HTTP statuses of Google's status names, from google/rpc/code.proto."""


def http_status(error: object) -> int | None:
    """Return the HTTP status of an error inside a 200 response, from its number or Google's status name."""
    if not isinstance(error, dict):
        return None
    code = error.get("code")
    if isinstance(code, str) and re.fullmatch(r"[1-5][0-9]{2}", code):
        code = int(code)
    if isinstance(code, int) and 300 <= code < 600:
        return code
    return _HTTP_STATUSES.get(str(error.get("status")))


class ErrorDetails:
    """The parsed content of one error document."""

    def __init__(self, exc: sdk.APIError) -> None:
        """Parse the document.

        Raises:
            RecursionError: it is nested too deeply.
        """
        self.code = exc.code
        self.status = response_schema.well_formed(str(exc.status or ""))
        self.message = response_schema.well_formed(str(exc.message or "")[:_MAX_TEXT_CHARACTERS])
        error = exc.details.get("error") if isinstance(exc.details, dict) else None
        self.is_from_google = isinstance(error, dict)
        """Whether the document has Google's envelope. A gateway in between may send its own format."""
        self._entries = _dicts(_parsed_entries(error))
        self.reasons = [str(entry["reason"]) for entry in self._entries if entry.get("reason")]
        self.violations = [one for entry in self._entries for one in _dicts(_list(entry.get("violations")))]
        """Entries of QuotaFailure."""
        self.metadata = _dicts([entry.get("metadata") for entry in self._entries])
        """Metadata of ErrorInfo."""
        delays = (self._retry_info(), self._retry_delay_in_message(), _retry_after_header(exc))
        self.retry_after = max(filter(None, delays), default=None)
        """Seconds to wait before the next attempt: the longest delay that the error names."""

    def _retry_info(self) -> int | None:
        delays = [re.fullmatch(r"(\d{1,9}(?:\.\d+)?)s", str(entry.get("retryDelay", ""))) for entry in self._entries]
        return max((math.ceil(float(delay[1])) for delay in delays if delay), default=None)

    def _retry_delay_in_message(self) -> int | None:
        """Return the seconds of "Please retry in 4h59m27.7s.", which Google sends where RetryInfo is missing."""
        found = re.search(
            r"retry in (?:(\d{1,4})h)?(?:(\d{1,4})m(?!s))?(?:(\d{1,6}(?:\.\d+)?)s)?(?:(\d{1,6}(?:\.\d+)?)ms)?",
            self.message,
        )
        if found is None:
            return None
        hours, minutes, seconds, milliseconds = (float(part or 0) for part in found.groups())
        return math.ceil(3600 * hours + 60 * minutes + seconds + milliseconds / 1000) or None

    @property
    def is_billing_problem(self) -> bool:
        """Whether the account has no money or no billing. Missing capacity and a used-up quota are other errors."""
        if self.code == 402 or any(_BILLING_REASONS & {*reason.split("_")} for reason in self.reasons):
            return True
        # Messages of other errors can quote the caller's prompt.
        never_quotes_prompt = self.code in (403, 429) or (self.code == 400 and self.status == "FAILED_PRECONDITION")
        return never_quotes_prompt and self.message_matches(_BILLING_MESSAGES)

    @property
    def is_quota_exceeded(self) -> bool:
        """Whether a 429 is about a quota. A 429 about missing capacity has no details and does not mention a quota."""
        if self.violations or self._retry_info() or _QUOTA_REASONS & {*self.reasons}:
            return True
        return self.message_matches("current quota|quota exceeded|limit: 0")

    @property
    def is_quota_zero(self) -> bool:
        """Whether the quota is 0, so that waiting does not help."""
        values = [violation.get("quotaValue") for violation in self.violations]
        values += [one.get("quota_limit_value") for one in self.metadata]
        return self.message_matches(r"limit: 0\b") or any(str(value) == "0" for value in values)

    @property
    def cause(self) -> str:
        """The status, reasons and quota ids, for the log. They never quote a prompt."""
        quotas = [str(violation.get("quotaId") or violation.get("quotaMetric")) for violation in self.violations]
        quotas += [str(one["quota_limit"]) for one in self.metadata if one.get("quota_limit")]
        return " ".join([str(self.code), self.status, *self.reasons, *quotas]).strip()[:_MAX_TEXT_CHARACTERS]

    def message_matches(self, pattern: str) -> bool:
        return re.search(pattern, self.message, re.IGNORECASE) is not None


def _parsed_entries(error: Any) -> list[Any]:
    entries = _list(error.get("details") if isinstance(error, dict) else None)
    try:
        return [response_schema.well_formed(entry) for entry in entries]
    except RecursionError:
        return []


def _list(value: Any) -> list[Any]:
    return value[:_MAX_DETAILS] if isinstance(value, list) else []


def _dicts(values: list[Any]) -> list[dict[str, Any]]:
    return [value for value in values if isinstance(value, dict)]


def _retry_after_header(exc: sdk.APIError) -> int | None:
    """Return the seconds of the `Retry-After` header, which holds seconds or a date."""
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
