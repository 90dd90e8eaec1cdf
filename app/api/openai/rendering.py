"""Images as OpenAI's JSON. Base64 does not pass through the JSON encoder."""

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from app.api.http.image_json import ImagePlaceholders
from app.api.http.streaming import SegmentedResponse
from app.api.images.response import GroundingRead
from app.api.openai.errors import error_document
from app.api.openai.parsed import ParsedImageRequest
from app.api.openai.sizes import parse_size, quality_of_size
from app.domain.errors import GenerationRefused, ServiceError
from app.domain.generation import Generation, Image, Usage
from app.domain.recorded import RecordedGeneration

Result = Generation | ServiceError


def render(
    results: Sequence[Result],
    parsed: ParsedImageRequest,
    on_failure: Callable[[ServiceError], None],
    created: float | None = None,
    before_end: Callable[[], Awaitable[object]] | None = None,
) -> SegmentedResponse:
    """Return the response of a request of which at least one image was made.

    Args:
        results: a generation or an error for each image.
        parsed: the request.
        on_failure: called with the error if the caller does not read the whole response.
        created: Unix time of the response; now by default.
        before_end: awaited before the last piece is sent.
    """
    generations = [result for result in results if isinstance(result, Generation)]
    placeholders = ImagePlaceholders()
    images = [{"b64_json": placeholders.add(generation.image)} for generation in generations]
    document = _document(results, parsed, images, created or time.time())
    headers = {
        "Cache-Control": "no-store",
        "X-Generation-Id": ",".join(generation.id for generation in generations),
        "X-Model": generations[0].model,
        "X-Upstream-Attempts": str(sum(result.attempts or 0 for result in results)),
        **cost_header(document["usage"]),
    }
    return SegmentedResponse(placeholders.fill(document), "application/json", headers, on_failure, before_end)


def result_document(recorded: RecordedGeneration, url_of: Callable[[int], str]) -> dict[str, Any]:
    """Return the JSON document of a recorded generation that succeeded, with links in place of base64.

    Args:
        recorded: the generation with its order.
        url_of: returns the link to the image with this index.
    """
    assert recorded.order is not None
    images = [{"url": url_of(index)} for index in range(len(recorded.generations))]
    created = recorded.finished_at or recorded.created_at
    return _document(recorded.outcomes, ParsedImageRequest.from_order(recorded.order), images, created)


def _document(
    results: Sequence[Result], parsed: ParsedImageRequest, images: list[dict[str, str]], created: float
) -> dict[str, Any]:
    """Return the JSON document of results of which at least one has an image.

    Args:
        results: a generation or an error for each image.
        parsed: the request.
        images: how the document has each image.
        created: Unix time.
    """
    generations = [result for result in results if isinstance(result, Generation)]
    first = generations[0]
    texts = [{"text": generation.text} if generation.text else {} for generation in generations]
    return {
        "created": int(created),
        "data": [image | text for image, text in zip(images, texts, strict=True)],
        "model": first.model,
        **describe(first.image),
        "usage": usage_document(results),
        "warnings": warnings(results, parsed),
        **grounding(first),
    }


def describe(image: Image) -> dict[str, str]:
    """Return what OpenAI's responses and events say of an image."""
    return {
        "size": f"{image.width}x{image.height}",
        "quality": quality_of_size((image.width, image.height)),
        "background": "opaque",
        "output_format": image.mime_type.removeprefix("image/"),
    }


def usage_document(results: Sequence[Result]) -> dict[str, Any]:
    """Return the tokens and the cost of all results together, refusals included.

    Input is what Gemini calls prompt, and what its tools read. Output is the rest of the total: images, text, thoughts.
    """
    usages = [usage for result in results if (usage := _usage(result)) is not None]
    total = sum(usage.total_tokens for usage in usages)
    input_tokens = sum(usage.prompt_tokens + usage.tool_tokens for usage in usages)
    input_images = sum(usage.prompt_image_tokens for usage in usages)
    output_images = sum(usage.image_tokens for usage in usages)
    costs = [usage.estimated_cost_usd for usage in usages]
    output_tokens = max(0, total - input_tokens)
    return {
        "total_tokens": total,
        "input_tokens": input_tokens,
        "output_tokens": output_tokens,
        "input_tokens_details": {"text_tokens": max(0, input_tokens - input_images), "image_tokens": input_images},
        "output_tokens_details": {"text_tokens": max(0, output_tokens - output_images), "image_tokens": output_images},
        "estimated_cost_usd": None if None in costs else round(sum(cost or 0 for cost in costs), 6),
    }


def first_error(errors: Sequence[ServiceError]) -> ServiceError:
    """Return the first error. It tells clients not to repeat the request if any of the calls may have cost money."""
    first = errors[0]
    first.may_have_cost = any(error.may_have_cost for error in errors)
    first.attempts = sum(error.attempts or 0 for error in errors) or None
    return first


def cost_header(usage: dict[str, Any]) -> dict[str, str]:
    cost = usage["estimated_cost_usd"]
    return {} if cost is None else {"X-Cost-Usd": f"{cost:.6f}"}


def warnings(results: Sequence[Result], parsed: ParsedImageRequest, first_number: int = 1) -> list[str]:
    """Return the warnings of all images, each once, and a sentence for each image that failed."""
    found: list[str] = []
    for number, result in enumerate(results, start=first_number):
        if isinstance(result, Generation):
            found += [*map(parsed.with_field_name, result.warnings), *_size_warning(result.image, parsed)]
        else:
            error = error_document(parsed.with_field_names(result))["error"]
            found.append(f"Image {number} of {parsed.count} failed ({error['code']}): {error['message']}")
    return list(dict.fromkeys(found))


def _size_warning(image: Image, parsed: ParsedImageRequest) -> list[str]:
    if parse_size(parsed.size) in (None, (image.width, image.height)):
        return []
    return [f"size {parsed.size} was asked for; the image has {image.width}x{image.height}."]


def grounding(generation: Generation) -> dict[str, Any]:
    if generation.grounding is None:
        return {}
    return {"grounding": GroundingRead.model_validate(generation.grounding).model_dump(mode="json")}


def _usage(result: Result) -> Usage | None:
    if isinstance(result, Generation):
        return result.usage
    return result.usage if isinstance(result, GenerationRefused) else None
