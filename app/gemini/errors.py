"""Map exceptions of the SDK and its transport to `ServiceError`. No other module knows both.

Google's error messages can quote the prompt. So callers get our own sentences. The log gets status, reason and quota
ids, and Google's message only if `LOG_SENSITIVE` allows it.
"""

import json
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

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
from app.gemini.error_details import ErrorDetails, http_status
from app.gemini.transport.exchange import MemoryBudgetTimeout, ResponseTooLarge

BUSY_RETRY_AFTER_SECONDS = 10
"""`Retry-After` for callers if Gemini has no free capacity and names no delay."""

_FIELD_PATTERNS = (
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
"""Patterns in the message of Google's 400, and the request field that each is about."""

_TOO_MANY_TOKENS = (
    r"input token count(?: \((\d{1,12})\))? exceeds the maximum number of tokens allowed(?: \(?(\d{1,12}))?"
)


@contextmanager
def as_service_errors(progress: GenerationProgress) -> Iterator[None]:
    """Raise each failure of a call to Gemini inside the block as a `ServiceError`."""
    try:
        yield
    except sdk.APIError as exc:
        raise to_service_error(exc) from exc
    except httpcore2.ConnectTimeout as exc:
        detail = "Connecting to Gemini took too long."
        timeout = UpstreamTimeout(detail, cause=_name(exc), waited_for="connection")
        raise timeout.with_retry(RetrySafety.SAFE) from exc
    except (httpcore2.TimeoutException, TimeoutError) as exc:
        raise _timeout_error(progress, exc) from exc
    except (httpcore2.ConnectError, httpcore2.ProxyError, httpcore2.UnsupportedProtocol) as exc:
        # Retrying does not make a certificate trusted.
        safety = RetrySafety.NEVER if isinstance(exc.__cause__, ssl.SSLCertVerificationError) else RetrySafety.SAFE
        raise UpstreamError("The service could not connect to Gemini.", cause=_names(exc)).with_retry(safety) from exc
    except MemoryBudgetTimeout as exc:
        # In this stage Gemini has responded, and may bill for it.
        may_have_cost = progress.stage is Stage.MEMORY_WAIT
        raise Overloaded(str(exc), retry_after=10, may_have_cost=may_have_cost) from exc
    except ResponseTooLarge as exc:
        raise UpstreamInvalidResponse("Gemini's response is larger than this service accepts.", cause=str(exc)) from exc
    except httpx2.DecodingError as exc:
        raise UpstreamInvalidResponse("Gemini's response could not be decompressed.", cause=_name(exc)) from exc
    except httpcore2.LocalProtocolError as exc:
        raise UpstreamError("The service could not write its request to Gemini.", cause=_name(exc)) from exc
    except (httpcore2.NetworkError, httpcore2.ProtocolError, httpx2.HTTPError) as exc:
        raise UpstreamError("The connection to Gemini broke.", cause=_name(exc)).with_retry(RetrySafety.ONCE) from exc
    except GoogleAuthError as exc:
        detail = "This service has no valid Google Cloud credentials."
        raise UpstreamRejectedCredentials(detail, cause=_name(exc)) from exc
    except UnicodeEncodeError:
        raise  # a bug or a wrong setting: the API key has characters that no header can carry
    except (json.JSONDecodeError, UnicodeError, RecursionError) as exc:
        raise _not_json(exc) from exc


def _timeout_error(progress: GenerationProgress, exc: BaseException) -> UpstreamTimeout:
    """Return the error for a timeout after the request was sent. Gemini may have made and billed the image."""
    if progress.remaining() <= 0:
        detail = f"No image was ready within the time limit of {progress.seconds:g} seconds."
    elif progress.stage is Stage.MEMORY_WAIT:
        detail = "Gemini responded, but this service had no free memory for the response."
    elif progress.stage is Stage.TRANSFER:
        detail = "Gemini stopped in the middle of its response."
    else:
        detail = f"Gemini did not respond within {round(progress.in_stage(), 1):g} seconds."
    return UpstreamTimeout(
        detail,
        cause=f"{_name(exc)} in {progress.stage}",
        waited_for=str(progress.stage),
        upstream_was_slow=progress.remaining() > 0 and progress.stage is not Stage.MEMORY_WAIT,
        may_have_cost=True,
    )


def _not_json(exc: BaseException) -> UpstreamInvalidResponse:
    return UpstreamInvalidResponse("Gemini's response is not valid JSON.", cause=_name(exc))


def _names(exc: BaseException) -> str:
    return f"{_name(exc)} {_name(exc.__cause__)}" if exc.__cause__ else _name(exc)


def _name(exc: BaseException) -> str:
    return type(exc).__name__


def to_service_error(exc: sdk.APIError) -> ServiceError:
    """Return the `ServiceError` for Google's error document, with its retry safety."""
    try:
        details = ErrorDetails(exc)
    except RecursionError as too_deep:
        return _not_json(too_deep)
    error = _error_by_code(details)
    error.upstream_message = details.message
    if isinstance(error, UpstreamError) and not isinstance(error, UpstreamRejectedCredentials):
        error.with_retry(_retry_safety(details, error), details.retry_after)
    return error


def error_in_response(error: object, *, has_started: bool, holds_images: bool) -> ServiceError:
    """Return the `ServiceError` for an error inside a 200 response.

    It is the same as for an HTTP error, except that a retry may cost money: Gemini may have billed what it sent before.

    Args:
        error: the value of `error` in Google's envelope.
        has_started: whether Gemini sent other content before the error.
        holds_images: whether a part of an image has arrived.
    """
    code = http_status(error)
    if code is None:
        return UpstreamInvalidResponse("Gemini sent an error in an unknown format.", cause="error in a response")
    failure = to_service_error(sdk.APIError(code, {"error": error}))
    if isinstance(failure, UpstreamError):
        never = holds_images or failure.retry_safety is RetrySafety.NEVER
        failure.with_retry(RetrySafety.NEVER if never else RetrySafety.ONCE, failure.retry_delay)
    failure.may_have_cost = failure.may_have_cost or has_started or holds_images
    return failure


def _retry_safety(details: ErrorDetails, error: UpstreamError) -> RetrySafety:
    """Return whether a retry is free. Google's errors mean that nothing was made; for a 504 this is not certain."""
    if details.code == 504:
        return RetrySafety.ONCE
    if details.code not in (408, 429, 500, 502, 503):
        return RetrySafety.NEVER
    if isinstance(error, QuotaExhausted):
        return RetrySafety.NEVER if error.scope == "day" or details.is_quota_zero else RetrySafety.SAFE
    return RetrySafety.NEVER if isinstance(error, BillingExhausted) else RetrySafety.SAFE


def _error_by_code(details: ErrorDetails) -> ServiceError:
    cause, wait = details.cause, details.retry_after
    if details.is_billing_problem:
        return BillingExhausted(
            "The Gemini account of this service has no credit left, has reached its spending cap, or has no active "
            "billing. The owner of the account has to resolve this.",
            cause=cause,
        )
    if details.code in (401, 403) or "API_KEY_INVALID" in details.reasons:
        return UpstreamRejectedCredentials("Gemini rejected the credentials of this service.", cause=cause)
    if details.code == 400:
        return _error_for_400(details)
    if details.code == 404:
        return _error_for_404(details)
    if details.code == 413:
        return TooLarge("The request is larger than Gemini accepts.", cause=cause)
    if details.code == 429:
        return _error_for_429(details)
    if details.code == 503:
        return UpstreamBusy("Gemini is overloaded.", cause=cause, retry_after=wait or BUSY_RETRY_AFTER_SECONDS)
    if details.code in (408, 504):
        return UpstreamTimeout("Gemini exceeded its own time limit.", cause=cause, retry_after=wait)
    return UpstreamError("Gemini reported a failure.", cause=cause, retry_after=wait)


def _error_for_400(details: ErrorDetails) -> ServiceError:
    cause = details.cause
    if details.message_matches("API key (not valid|not found|expired)"):  # Google's status for it is 400, not 401
        return UpstreamRejectedCredentials("Gemini rejected the credentials of this service.", cause=cause)
    if details.status == "FAILED_PRECONDITION":
        return UpstreamError("Gemini is not available to this service at its location.", cause=cause)
    if not details.is_from_google:
        return _not_gemini(details)
    if details.message_matches("payload size exceeds"):
        return TooLarge("The request is larger than Gemini accepts.", cause=cause)
    if details.message_matches("thought.?signature"):
        return InvalidThoughtSignature("Gemini rejected the thought signatures of this chat.", cause=cause)
    return InvalidRequest([_rejected_field(details)], cause=cause)


def _error_for_404(details: ErrorDetails) -> ServiceError:
    if not details.is_from_google:
        return _not_gemini(details)
    verb = "has retired" if details.message_matches("no longer available") else "does not know"
    message = f"Gemini {verb} this model, or does not offer it to this service."
    return InvalidRequest([FieldError("model", message)], cause=details.cause)


def _not_gemini(details: ErrorDetails) -> ServiceError:
    return UpstreamError("The server at Gemini's address is not Gemini.", cause=details.cause)


def _error_for_429(details: ErrorDetails) -> ServiceError:
    """Return the error for a used-up quota or for missing capacity; Google sends 429 for both."""
    cause, wait = details.cause, details.retry_after
    if not details.is_quota_exceeded:
        return UpstreamBusy("Gemini has no free capacity.", cause=cause, retry_after=wait or BUSY_RETRY_AFTER_SECONDS)
    if details.is_quota_zero:
        detail = "Gemini does not offer this model to the tier of this service's API key (limit: 0)."
        return QuotaExhausted(detail, scope=None, cause=cause, retry_after=wait)
    quotas = f"{json.dumps([*details.violations, *details.metadata])} {details.message}"
    if re.search("per.?day|1/d/", quotas, re.IGNORECASE):
        detail = "The per-day Gemini quota of this service is used up. It is reset at midnight Pacific time."
        return QuotaExhausted(detail, scope="day", cause=cause, retry_after=wait)
    scope = "minute" if re.search("per.?minute|1/min/", quotas, re.IGNORECASE) else None
    detail = "The Gemini quota of this service is used up for now."
    return QuotaExhausted(detail, scope=scope, cause=cause, retry_after=wait or BUSY_RETRY_AFTER_SECONDS)


def _rejected_field(details: ErrorDetails) -> FieldError:
    if too_many := re.search(_TOO_MANY_TOKENS, details.message, re.IGNORECASE):
        count, limit = too_many.groups()
        numbers = f" ({int(count):,} tokens, at most {int(limit):,})" if count and limit else ""
        message = f"The prompt, images and earlier turns together are longer than the model accepts{numbers}."
        return FieldError("prompt", message)
    for pattern, field in _FIELD_PATTERNS:
        if details.message_matches(pattern):
            return FieldError(field, "Gemini does not accept this value for the model.")
    return FieldError("body", "Gemini does not accept this request.")
