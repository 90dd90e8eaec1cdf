"""Errors in OpenAI's format, for every route below `/v1`.

Source of the format: https://github.com/openai/openai-openapi (`Error`), and the behaviour of OpenAI's Python and Node
clients.
"""

from dataclasses import dataclass
from typing import Any

from app.api.http.problems import ErrorFormat
from app.domain.errors import GenerationRefused, InvalidForm, InvalidRequest, ServiceError, UnsupportedImage

_NEVER_REPEATED = 424
"""Status of errors that may have cost money. Clients repeat 408, 409, 429 and 5xx by themselves. The Vercel AI SDK does
so in spite of `X-Should-Retry: false`."""

_MAX_QUOTED_CHARS = 1_000


@dataclass(frozen=True, slots=True)
class _Rule:
    """How an error differs from the default: its own status and code, and a type by its status."""

    code: str | None = None
    type: str | None = None
    status: int | None = None


_RULES = {
    "unauthorized": _Rule("invalid_api_key"),
    "not_found": _Rule("unknown_url"),
    "method_not_allowed": _Rule("method_not_supported"),
    "unsupported_image": _Rule(status=400),
    "invalid_request": _Rule(status=400),
    "idempotency_key_reused": _Rule(status=400),
    "content_blocked": _Rule("moderation_blocked", "image_generation_user_error", 400),
    "recitation": _Rule("moderation_blocked", "image_generation_user_error", 400),
    "no_image": _Rule("no_image", "image_generation_user_error", 400),
    "quota_exhausted": _Rule("rate_limit_exceeded", "rate_limit_error"),
    "rate_limited": _Rule("rate_limit_exceeded", "rate_limit_error"),
    "too_many_at_once": _Rule("rate_limit_exceeded", "rate_limit_error"),
    "budget_exhausted": _Rule("insufficient_quota", "insufficient_quota"),
    "billing_exhausted": _Rule("insufficient_quota", "insufficient_quota"),
}
"""Rules by the code of the error."""

_FIELD_CODES = {
    "invalid": "invalid_value",
    "missing": "missing_required_parameter",
    "unknown": "unknown_parameter",
    "unsupported": "unsupported_parameter",
}
"""Codes of invalid parameters by `FieldError.kind`."""


def error_status(error: ServiceError) -> int:
    """Return the HTTP status of an error."""
    status = _rule(error).status or error.status
    is_repeated = status in (408, 409, 429) or status >= 500
    return _NEVER_REPEATED if error.may_have_cost and is_repeated else status


def error_document(error: ServiceError) -> dict[str, Any]:
    """Return the JSON body of an error: `message`, `type`, `param` and `code`, and the details of a refusal."""
    rule = _rule(error)
    document: dict[str, Any] = {
        "message": _message(error),
        "type": rule.type or ("server_error" if error.status >= 500 else "invalid_request_error"),
        "param": None,
        "code": rule.code or error.code,
    }
    if isinstance(error, InvalidRequest | InvalidForm) and error.errors:
        first = error.errors[0]
        document |= {"param": first.field, "code": _FIELD_CODES[first.kind]}
    elif isinstance(error, UnsupportedImage):
        document["param"] = "image"
    elif isinstance(error, GenerationRefused):
        document |= {"finish_reason": error.finish_reason, "block_reason": error.block_reason, "text": error.text}
    return {"error": document}


def _rule(error: ServiceError) -> _Rule:
    return _RULES.get(error.code, _Rule())


def _message(error: ServiceError) -> str:
    """Return the detail. A refusal also has Gemini's reason and its words, because many clients show nothing else."""
    if not isinstance(error, GenerationRefused):
        return error.detail
    message, reason = error.detail, error.block_reason or error.finish_reason
    if reason and reason not in message:
        message += f" (reason: {reason})"
    if error.text and error.text not in message:
        message += f" Gemini wrote: {error.text[:_MAX_QUOTED_CHARS]}"
    return message


FORMAT = ErrorFormat("/v1", "application/json", error_status, error_document)
