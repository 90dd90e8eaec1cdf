"""Headers that say how a request is repeated or waited for: `Idempotency-Key`, `Prefer` (RFC 7240), retry counts."""

import re
from dataclasses import dataclass

from starlette.datastructures import Headers

from app.domain.errors import FieldError, InvalidRequest

KEY_HEADER = "idempotency-key"

_KEY = re.compile(r"[!-~]{1,255}")
_QUOTED = re.compile(r'"((?:[^"\\]|\\["\\])*)"')
_COUNT = re.compile(r"\d{1,3}")
_ASYNC = re.compile(r"(?:^|[,;\s])respond-async(?:$|[,;\s])", re.IGNORECASE)
_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,6})", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class RecordingOptions:
    """What the headers of a request say about recording it."""

    idempotency_key: str | None
    retry_count: int | None
    is_async: bool
    wait_seconds: int | None
    """With `is_async`: how long to wait for the plain response."""
    webhook_url: str | None

    @property
    def is_explicit(self) -> bool:
        """Whether the caller relies on the record. Otherwise a request is served without one if it must be."""
        return self.idempotency_key is not None or self.is_async


def preferred_wait(headers: Headers) -> int | None:
    """Return the N of `wait=N` in seconds; `None` if the caller does not send it."""
    wait = _WAIT.search(",".join(headers.getlist("prefer")))
    return int(wait[1]) if wait else None


def prefers_async(headers: Headers) -> bool:
    """Return whether the caller sends `Prefer: respond-async`."""
    return _ASYNC.search(",".join(headers.getlist("prefer"))) is not None


def idempotency_key(headers: Headers) -> str | None:
    """Return the key of the request, without the quotes of a structured field; `None` if there is none.

    Raises:
        InvalidRequest: it is not one key of 1 to 255 visible ASCII characters.
    """
    values = set(headers.getlist(KEY_HEADER))
    if not values:
        return None
    given = values.pop().strip()
    quoted = _QUOTED.fullmatch(given)
    key = re.sub(r"\\(.)", r"\1", quoted[1]) if quoted else given
    if values or not _KEY.fullmatch(key):
        raise InvalidRequest([FieldError("Idempotency-Key", "must be one key of 1 to 255 visible ASCII characters")])
    return key


def retry_count(headers: Headers) -> int | None:
    """Return how often the client has tried before, as OpenAI's clients say it; `None` if it does not say."""
    count = headers.get("x-stainless-retry-count", "")
    return int(count) if _COUNT.fullmatch(count) else None


def needs_no_slot(headers: Headers) -> bool:
    """Return whether the request may be served although all slots are in use."""
    return KEY_HEADER in headers or prefers_async(headers) or bool(retry_count(headers))
