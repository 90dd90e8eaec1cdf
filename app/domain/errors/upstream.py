"""Failures of Gemini, and its refusals."""

from typing import Any, Self

from app.domain.errors.base import RetrySafety, ServiceError
from app.domain.generation import Usage


class GenerationRefused(ServiceError):
    """Gemini answered 200 and drew nothing. Trying the same again costs money and changes nothing, so nobody should."""

    status = 422

    def __init__(
        self,
        detail: str,
        *,
        finish_reason: str | None = None,
        block_reason: str | None = None,
        text: str | None = None,
        model: str | None = None,
        usage: Usage | None = None,
    ) -> None:
        super().__init__(detail)
        self.finish_reason = finish_reason
        self.block_reason = block_reason
        self.text = text
        self.model = model
        self.usage = usage
        self.may_have_cost = True

    def members(self) -> dict[str, Any]:
        usage = self.usage and {
            "promptTokens": self.usage.prompt_tokens,
            "outputTokens": self.usage.output_tokens,
            "thoughtsTokens": self.usage.thoughts_tokens,
            "totalTokens": self.usage.total_tokens,
            "estimatedCostUsd": self.usage.estimated_cost_usd,
        }
        return {
            "image": None,
            "text": self.text,
            "finishReason": self.finish_reason,
            "blockReason": self.block_reason,
            "model": self.model,
            "usage": usage,
        }


class ContentBlocked(GenerationRefused):
    code, title = "content_blocked", "Gemini refused the content"


class Recitation(GenerationRefused):
    code, title = "recitation", "Gemini stopped because the image came too close to an existing work"


class NoImage(GenerationRefused):
    code, title = "no_image", "Gemini answered without an image"


class UpstreamError(ServiceError):
    status, code, title = 502, "upstream_error", "Gemini failed"

    retry_delay: int | None = None
    """Seconds that Gemini asked to wait, if it did; `retry_after` can be a guess of ours."""
    allows_fallback = False
    """Whether it is the model that is short of something, so that another one may serve."""

    def with_retry(self, again: RetrySafety, asked_wait: int | None = None) -> Self:
        self.retry_safety, self.retry_delay = again, asked_wait
        self.may_have_cost = again is RetrySafety.ONCE
        return self


class UpstreamInvalidResponse(UpstreamError):
    code, title = "upstream_invalid_response", "Gemini's answer cannot be read"

    def __init__(self, detail: str, *, cause: str | None = None) -> None:
        super().__init__(detail, cause=cause)
        self.may_have_cost = True


class UpstreamRejectedCredentials(UpstreamError):
    code, title = "upstream_rejected_credentials", "Gemini does not accept this service's credentials"


class InvalidThoughtSignature(UpstreamError):
    """A chat's thought signatures are of no use (any more). Without them it can go on all the same."""


class UpstreamBusy(UpstreamError):
    status, code, title = 503, "upstream_busy", "Gemini is busy"
    allows_fallback = True


class UpstreamTimeout(UpstreamError):
    status, code, title = 504, "upstream_timeout", "Gemini did not answer in time"

    waited_for: str | None = None
    """What took too long: `queue`, `connection`, `first_byte`, `room`, `transfer`, or `retry`."""
    upstream_was_slow = True
    """Whether it is Gemini that took too long: a caller's short patience says nothing about it."""

    def members(self) -> dict[str, Any]:
        return {"waitedFor": self.waited_for} if self.waited_for else {}


class QuotaExhausted(UpstreamError):
    status, code, title = 429, "quota_exhausted", "Gemini's quota for this service is used up"
    allows_fallback = True

    def __init__(self, detail: str, *, scope: str | None, cause: str | None = None, retry_after: int | None = None):
        super().__init__(detail, cause=cause, retry_after=retry_after)
        self.scope = scope
        """`day` or `minute` where Gemini says which of its quotas it is."""

    def members(self) -> dict[str, Any]:
        return {"quota": self.scope}


class BillingExhausted(UpstreamError):
    """Google serves this account again only after its owner has paid, or raised a spending cap.

    It says nothing about the model: another model of the same account is refused as well.
    """

    status, code, title = 429, "billing_exhausted", "The Google account of this service has no money left to spend"

    @property
    def discourages_retry(self) -> bool:
        return True
