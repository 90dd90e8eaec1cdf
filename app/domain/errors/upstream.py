"""Errors of Gemini, and its refusals."""

from typing import Any, Self

from app.domain.errors.base import RetrySafety, ServiceError
from app.domain.generation import Usage


class GenerationRefused(ServiceError):
    """Gemini answered with status 200 but without an image. The same request would be billed and refused again."""

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
        super().__init__(detail, may_have_cost=True)
        self.finish_reason = finish_reason
        self.block_reason = block_reason
        self.text = text
        self.model = model
        self.usage = usage

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
    code, title = "recitation", "Gemini stopped because the image was too similar to an existing work"


class NoImage(GenerationRefused):
    code, title = "no_image", "Gemini answered without an image"


class UpstreamError(ServiceError):
    status, code, title = 502, "upstream_error", "Gemini failed"

    retry_delay: int | None = None
    """Seconds that Gemini asked to wait; `None` if it did not. `retry_after` may be this service's estimate."""
    allows_fallback = False
    """Whether the model lacks capacity or quota, so that another model may succeed."""

    def with_retry(self, safety: RetrySafety, delay: int | None = None) -> Self:
        """Set whether the call may be retried, and Gemini's delay in seconds. Return the error itself."""
        self.retry_safety, self.retry_delay = safety, delay
        self.may_have_cost = safety is RetrySafety.ONCE
        return self


class UpstreamInvalidResponse(UpstreamError):
    code, title = "upstream_invalid_response", "Gemini's response cannot be read"

    def __init__(self, detail: str, *, cause: str | None = None) -> None:
        super().__init__(detail, cause=cause, may_have_cost=True)


class UpstreamRejectedCredentials(UpstreamError):
    code, title = "upstream_rejected_credentials", "Gemini does not accept this service's credentials"


class OutcomeUnknown(UpstreamError):
    """The process ended after Gemini was asked and before its answer was stored. The service does not ask again."""

    code, title = "outcome_unknown", "It is not known whether Gemini made the image"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, may_have_cost=True)

    def members(self) -> dict[str, Any]:
        return {"mayHaveCost": True}


class InvalidThoughtSignature(UpstreamError):
    """Gemini does not accept the thought signatures of a chat. The chat can continue without them."""


class UpstreamBusy(UpstreamError):
    status, code, title = 503, "upstream_busy", "Gemini is busy"
    allows_fallback = True


class UpstreamTimeout(UpstreamError):
    status, code, title = 504, "upstream_timeout", "Gemini did not answer in time"

    def __init__(
        self,
        detail: str,
        *,
        cause: str | None = None,
        retry_after: int | None = None,
        waited_for: str | None = None,
        upstream_was_slow: bool = True,
        may_have_cost: bool = False,
    ) -> None:
        """
        Args:
            detail: a sentence for the caller.
            cause: for the log.
            retry_after: as in `ServiceError`.
            waited_for: what took too long: `queue`, `connection`, `first_byte`, `memory_wait`, `transfer`, `retry`
                or `conversion`.
            upstream_was_slow: whether Gemini took too long. False for a short time limit of the caller.
            may_have_cost: as in `ServiceError`.
        """
        super().__init__(detail, cause=cause, retry_after=retry_after, may_have_cost=may_have_cost)
        self.waited_for = waited_for
        self.upstream_was_slow = upstream_was_slow

    def members(self) -> dict[str, Any]:
        return {"waitedFor": self.waited_for} if self.waited_for else {}


class QuotaExhausted(UpstreamError):
    status, code, title = 429, "quota_exhausted", "Gemini's quota for this service is used up"
    allows_fallback = True

    def __init__(
        self, detail: str, *, scope: str | None, cause: str | None = None, retry_after: int | None = None
    ) -> None:
        """
        Args:
            detail: a sentence for the caller.
            scope: `day` or `minute` if Gemini names the quota's period.
            cause: for the log.
            retry_after: as in `ServiceError`.
        """
        super().__init__(detail, cause=cause, retry_after=retry_after)
        self.scope = scope

    def members(self) -> dict[str, Any]:
        return {"quota": self.scope}


class BillingExhausted(UpstreamError):
    """Google serves this account again only after its owner has paid or raised a spending cap.

    Another model of the same account is refused as well, so there is no fallback.
    """

    status, code, title = 429, "billing_exhausted", "The Google account of this service has no money left to spend"
    tells_not_to_retry = True
