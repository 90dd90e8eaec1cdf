"""Tokens and cost of a response."""

import re
from collections.abc import Sequence

from app.domain.catalogue import Model
from app.domain.generation import Usage
from app.gemini import grounding
from app.gemini.response_schema import Candidate, GenerateContentResponse, ModalityTokens, UsageMetadata

_NOT_CHARGED = re.compile(r"(\bnot|n['’]t) (be |been |being )?(charged|billed)\b", re.IGNORECASE)


def to_usage(response: GenerateContentResponse, candidate: Candidate, model: Model, image_size: str | None) -> Usage:
    """Return the tokens of a response, and their estimated cost if it is known.

    Args:
        response: an image or a refusal; both are billed.
        candidate: the response's first candidate.
        model: the model that was called.
        image_size: the size in the request; `None` is the model's default.
    """
    tokens_per_image = model.image_tokens.get(model.size_of(image_size) or "")
    usage = _count_tokens(response.usage_metadata or UsageMetadata(), candidate, tokens_per_image)
    if _is_not_charged(response, candidate):
        return usage.with_cost(0.0)
    if usage.total_tokens:
        return usage.with_cost(model.cost(usage, grounding.billed_queries(candidate.grounding_metadata)))
    return usage


def _count_tokens(metadata: UsageMetadata, candidate: Candidate, tokens_per_image: int | None) -> Usage:
    output = metadata.candidates_token_count or 0
    prompt, thoughts = metadata.prompt_token_count or 0, metadata.thoughts_token_count or 0
    tools = metadata.tool_use_prompt_token_count or 0
    # A refusal counts its thoughts as output tokens as well.
    generated = thoughts if not candidate.images and output == thoughts else output + thoughts
    return Usage(
        prompt_tokens=prompt,
        output_tokens=output,
        thoughts_tokens=thoughts,
        total_tokens=metadata.total_token_count or prompt + generated + tools,
        image_tokens=_image_tokens(metadata, candidate, tokens_per_image),
        tool_tokens=tools,
        prompt_image_tokens=_listed_image_tokens(metadata.prompt_tokens_details),
    )


def _image_tokens(metadata: UsageMetadata, candidate: Candidate, tokens_per_image: int | None) -> int:
    """Return the output tokens of the images.

    Gemini may send no token details, or list text alone. Then the number is estimated: the known tokens of each image,
    or else all output tokens that are not listed as something else.
    """
    details = [d for d in metadata.candidates_tokens_details or [] if d.token_count]
    listed = _listed_image_tokens(details)
    if listed or not candidate.images:
        return listed
    output, others = metadata.candidates_token_count or 0, sum(d.token_count or 0 for d in details)
    most = output - others if output > others else output
    billed_images = sum(not part.thought for part in candidate.images) or 1
    return min(most, billed_images * tokens_per_image) if tokens_per_image else most


def _listed_image_tokens(details: Sequence[ModalityTokens] | None) -> int:
    return sum(one.token_count or 0 for one in details or () if one.modality == "IMAGE")


def _is_not_charged(response: GenerateContentResponse, candidate: Candidate) -> bool:
    """Whether Gemini's message says that the response is free, as it does for some refusals."""
    feedback = response.prompt_feedback
    messages = (candidate.finish_message, feedback.block_reason_message if feedback else None)
    return any(_NOT_CHARGED.search(message) for message in messages if message)
