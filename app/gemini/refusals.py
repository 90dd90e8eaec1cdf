"""Refusals: responses with status 200 that hold no image, or one that must not be returned."""

from app.domain.errors import (
    ContentBlocked,
    GenerationRefused,
    InvalidThoughtSignature,
    NoImage,
    Recitation,
    UpstreamRejectedCredentials,
)
from app.domain.generation import Usage
from app.gemini.response_schema import Candidate, GenerateContentResponse
from app.gemini.text import join_text, without_base64

_BLOCKED = {
    "SAFETY", "PROHIBITED_CONTENT", "SPII", "BLOCKLIST", "IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT", "MODEL_ARMOR",
}  # fmt: skip
_RECITED = {"RECITATION", "IMAGE_RECITATION"}
_FINISHED = {None, "FINISH_REASON_UNSPECIFIED", "STOP", "MAX_TOKENS"}

EXPECTED_FINISH_REASONS = _FINISHED - {"MAX_TOKENS"}
"""Finish reasons of an image without a defect."""


def is_refusal(response: GenerateContentResponse) -> bool:
    """Whether Gemini gave a reason against an image. The response may hold an image nevertheless."""
    reasons = {candidate.finish_reason for candidate in response.candidates or []}
    return bool(reasons - _FINISHED or (response.prompt_feedback and response.prompt_feedback.block_reason))


def require_image(response: GenerateContentResponse, candidate: Candidate, model: str, usage: Usage) -> None:
    """Raise unless the candidate holds an image that may be returned.

    Raises:
        GenerationRefused: Gemini refused or sent no image. The error holds Gemini's reason, text and usage.
        InvalidThoughtSignature: a chat lacks a thought signature.
        UpstreamRejectedCredentials: Google has limited the account.
    """
    refusal = _find_refusal(response, candidate)
    if refusal is None:
        return
    error, detail = refusal
    feedback = response.prompt_feedback
    message = candidate.finish_message or (feedback.block_reason_message if feedback else None)
    raise error(
        without_base64(message) or detail,
        finish_reason=candidate.finish_reason,
        block_reason=feedback.block_reason if feedback else None,
        text=join_text(part.text for part in candidate.parts if not part.thought),
        model=model,
        usage=usage,
    )


def _find_refusal(
    response: GenerateContentResponse, candidate: Candidate
) -> tuple[type[GenerationRefused], str] | None:
    """Return the kind of refusal and a sentence for the case that Gemini sent none. `None` is an image."""
    reason, feedback = candidate.finish_reason, response.prompt_feedback
    if reason == "PUP_LIMITED_DISABLED":
        raise UpstreamRejectedCredentials("Google has limited this service's account.", cause=reason)
    if reason == "MISSING_THOUGHT_SIGNATURE":
        raise InvalidThoughtSignature("A thought signature is missing in this chat.", cause=reason)
    if reason in _RECITED:
        return Recitation, f"Gemini stopped with {reason}: the image was too similar to an existing work."
    if reason in _BLOCKED:
        return ContentBlocked, f"Gemini refused to return an image ({reason})."
    if not candidate.images and feedback and feedback.block_reason:
        return ContentBlocked, f"Gemini blocked the prompt ({feedback.block_reason})."
    if candidate.has_final_image or (candidate.images and reason in _FINISHED):
        return None
    if any(part.text for part in candidate.parts):
        return NoImage, "Gemini sent text without an image."
    return NoImage, f"Gemini sent no image ({reason or 'without a reason'})."
