"""Responses of the generation routes, as the OpenAPI document describes them."""

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from app.api.http.event_stream import EVENT_SCHEMA
from app.api.http.problem_responses import Responses, problem_responses
from app.api.http.problems import Problem
from app.api.http.schema import ResponseModel
from app.api.images.response import EXAMPLE, LinkedGenerationRead
from app.api.openai.response import LinkedImagesRead
from app.domain import errors

_Status = Literal["queued", "running", "succeeded", "failed", "cancelled", "interrupted"]


class RecordedProblemRead(Problem):
    """Why there is no image: a problem document without `requestId`."""

    request_id: str | None = None  # type: ignore[assignment]  # of no request in particular


class LinksRead(ResponseModel):
    self: str = Field(description="The generation. Needs the key of its caller.")
    image: str | None = Field(
        None, description="The first image, if the generation succeeded. Works without a key until it expires."
    )
    events: str = Field(description="The events of the generation. Works without a key until it expires.")


class RecordedGenerationRead(ResponseModel):
    """A recorded generation."""

    id: str
    status: _Status
    created_at: datetime
    started_at: datetime | None = Field(description="When it last left the queue.")
    finished_at: datetime | None
    attempts: int = Field(description="Calls to Gemini.")
    result: LinkedGenerationRead | LinkedImagesRead | None = Field(
        None,
        description="Only if it succeeded: the response of the route that ordered it, with links in place of images.",
    )
    problem: RecordedProblemRead | None = Field(None, description="Only if it is over and has no image.")
    may_have_cost: bool = Field(description="Whether Google may bill for it.")
    links: LinksRead


class WebhookGenerationRead(RecordedGenerationRead):
    truncated: bool = Field(False, description="Whether the largest texts were left out, so that the message is small.")


class WebhookRead(ResponseModel):
    """The message of a webhook. It has at most 20 KB."""

    type: Literal["generation.succeeded", "generation.failed", "generation.cancelled", "generation.interrupted"]
    timestamp: datetime = Field(description="When the generation ended.")
    data: WebhookGenerationRead


class RecordedGenerationsRead(ResponseModel):
    """A page of generations."""

    generations: list[RecordedGenerationRead]
    next_cursor: str | None = Field(description="Pass it as `cursor` for the next page; `null` on the last page.")


_ADDRESS = "https://images.example/generations/gen_5a4c1f0e7b6d4a9f8f0c2f1c3b7a9e12"
_IMAGE_LINK = f"{_ADDRESS}/image?expires=1795003600&signature=…"

GENERATION_EXAMPLE: dict[str, Any] = {
    "id": "gen_5a4c1f0e7b6d4a9f8f0c2f1c3b7a9e12",
    "status": "succeeded",
    "createdAt": "2026-11-27T14:00:00.250000Z",
    "startedAt": "2026-11-27T14:00:00.750000Z",
    "finishedAt": "2026-11-27T14:00:31.500000Z",
    "attempts": 1,
    "result": EXAMPLE | {"image": {"url": _IMAGE_LINK, "mimeType": "image/jpeg", "width": 2752, "height": 1536}},
    "mayHaveCost": True,
    "links": {
        "self": _ADDRESS,
        "image": _IMAGE_LINK,
        "events": f"{_ADDRESS}/events?expires=1795003600&signature=…",
    },
}

GENERATION_RESPONSES: Responses = {
    200: {
        "description": "The generation.",
        "model": RecordedGenerationRead,
        "content": {"application/json": {"example": GENERATION_EXAMPLE}},
        "headers": {name: {"schema": {"type": "string"}} for name in ("ETag", "Retry-After", "Preference-Applied")},
    },
    304: {"description": "The caller has this state already."},
}

ACCEPTED_RESPONSE: Responses = {
    202: {
        "description": "With `Prefer: respond-async`: the generation goes on without the caller.",
        "model": RecordedGenerationRead,
        "headers": {name: {"schema": {"type": "string"}} for name in ("Location", "Retry-After", "Preference-Applied")},
    }
}

RECORDED_RESPONSES: Responses = ACCEPTED_RESPONSE | problem_responses(
    errors.GenerationInProgress,
    errors.GenerationCancelled,
    errors.IdempotencyKeyReused,
    errors.WebhookRefused,
    errors.StorageDamaged,
    errors.OutcomeUnknown,
    errors.StorageUnavailable,
    errors.StorageFull,
)
"""Responses that a route which generates an image has for requests that are recorded."""

EVENTS_RESPONSES: Responses = {
    200: {
        "description": "The events. Their names are the states of the generation.",
        "content": {
            "text/event-stream": {
                "schema": EVENT_SCHEMA,
                "example": 'retry: 2000\n\nid: 2\nevent: running\ndata: {"id":"gen_…","status":"running",…}\n\n'
                ': still at it\n\nid: 3\nevent: succeeded\ndata: {"id":"gen_…","result":{…},…}\n\n',
            }
        },
    },
    204: {"description": "The caller has all events already. Browsers stop reconnecting."},
}
