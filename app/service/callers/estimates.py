"""What a call to Gemini normally costs at most. So much is reserved of a budget before Gemini is asked."""

from math import ceil

from app.domain.generation import GenerationRequest
from app.domain.limits import MICRO_USD
from app.service.generation.plan import GenerationPlan

_TOKENS_PER_IMAGE = 560
"""Input tokens of one image, as Google Cloud's page on Gemini 3 Pro Image says; 516 were measured."""

_BYTES_PER_TOKEN = 3
"""Of text in UTF-8. English has about four, Chinese three."""

_CONTEXT_TOKENS = 2000
"""Input tokens of the texts of a chat's earlier turns."""


def estimate_call(plan: GenerationPlan) -> int:
    """Return the estimate in micro-dollars: the image, thoughts and text, the input, and one search query.

    Unknown prices count as 0. Gemini may draw drafts or search more often; then the image costs more.
    """
    request, model = plan.request, plan.model
    prices = model.prices
    size = model.size_of(request.image_size)
    image_tokens = model.image_tokens.get(size or "", max(model.image_tokens.values(), default=0))
    per_million = (
        image_tokens * (prices.image_output or 0)
        + model.text_tokens_bound * (prices.text_output or 0)
        + _input_tokens(request, plan) * (prices.input or 0)
    )
    searches = request.google_search or request.image_search
    dollars = per_million / 1_000_000 + (prices.search_query or 0) * searches
    return ceil(round(dollars * MICRO_USD, 3))


def _input_tokens(request: GenerationRequest, plan: GenerationPlan) -> int:
    images = len(request.references)
    tokens = ceil(
        len((request.prompt + (request.system_instruction or "")).encode(errors="replace")) / _BYTES_PER_TOKEN
    )
    if plan.continues_chat:
        images = max(images, plan.model.max_references or 0)
        tokens += _CONTEXT_TOKENS
    return tokens + images * _TOKENS_PER_IMAGE
