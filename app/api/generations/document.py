"""The JSON document of a recorded generation. Images are links in it."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from app.api.generations.links import LinkMaker
from app.api.http.problems import problem_document
from app.api.images import rendering as images
from app.api.openai import rendering as openai
from app.domain.errors import GenerationCancelled, InvalidRequest, OutcomeUnknown, ServiceError
from app.domain.recorded import GenerationStatus, RecordedGeneration

_RESULT_DOCUMENTS: dict[str, Callable[[RecordedGeneration, Callable[[int], str]], dict[str, Any]]] = {
    "images": images.result_document,
    "openai": openai.result_document,
}
"""Writers of the result by the API that ordered the generation, as `Order.view` names it."""


def generation_document(generation: RecordedGeneration, links: LinkMaker) -> dict[str, Any]:
    """Return the document of a generation.

    Args:
        generation: with its order and its outcomes.
        links: makes the links.
    """
    state = state_document(generation, links)
    own_links = state.pop("links")
    return {
        **state,
        "attempts": generation.attempts,
        **_outcome(generation, links),
        "mayHaveCost": generation.may_have_cost or (generation.asked_at is not None and not generation.is_final),
        "links": own_links,
    }


def state_document(
    generation: RecordedGeneration, links: LinkMaker, status: GenerationStatus | None = None
) -> dict[str, Any]:
    """Return the document of a generation without its result.

    Args:
        generation: the generation.
        links: makes the links.
        status: one that it had before, if the document is about that time.
    """
    status = status or generation.status
    has_started = status is not GenerationStatus.QUEUED
    return {
        "id": generation.id,
        "status": status.value,
        "createdAt": _time(generation.created_at),
        "startedAt": _time(generation.started_at) if has_started else None,
        "finishedAt": _time(generation.finished_at) if status.is_final else None,
        "links": {
            "self": links.generation(generation.id),
            **({"image": links.image(generation)} if status is GenerationStatus.SUCCEEDED else {}),
            "events": links.events(generation),
        },
    }


def result_document(generation: RecordedGeneration, links: LinkMaker) -> dict[str, Any]:
    """Return the plain response of the API that ordered a generation, with links in place of the images.

    Args:
        generation: one that succeeded, with its order and its outcomes.
        links: makes the links.
    """
    assert generation.order is not None
    write = _RESULT_DOCUMENTS[generation.order.view["api"]]
    return write(generation, lambda index: links.image(generation, index))


def _outcome(generation: RecordedGeneration, links: LinkMaker) -> dict[str, Any]:
    if generation.status is GenerationStatus.SUCCEEDED:
        return {"result": result_document(generation, links)}
    if not generation.is_final:
        return {}
    problem = problem_document(_error(generation), "")
    del problem["requestId"]
    return {"problem": problem}


def _error(generation: RecordedGeneration) -> ServiceError:
    """Return why there is no image, with the names that the caller's fields have."""
    error = next((outcome for outcome in generation.outcomes if isinstance(outcome, ServiceError)), None)
    if isinstance(error, InvalidRequest) and generation.order is not None:
        return error.renamed(generation.order.view.get("fieldNames", {}))
    if error is not None:
        return error
    if generation.status is GenerationStatus.CANCELLED:
        return GenerationCancelled("This generation was deleted before Gemini was asked.")
    return OutcomeUnknown("This service stopped while Gemini made the image, and has not got it.")


def _time(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
