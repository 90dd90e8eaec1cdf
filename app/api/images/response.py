"""Responses of the image routes, as the OpenAPI document describes them."""

from typing import Any

from pydantic import Field

from app.api.http.cors import EXPOSED_HEADERS
from app.api.http.event_stream import EVENT_SCHEMA
from app.api.http.problem_responses import Responses, problem_responses
from app.api.http.schema import ResponseModel
from app.domain import errors


class ImageRead(ResponseModel):
    data: str = Field(description="The file as base64.", json_schema_extra={"format": "byte"})
    mime_type: str
    url: str | None = Field(None, description="The file as a data URL. Absent with `responseFormat: b64`.")
    width: int
    height: int


class LinkedImageRead(ResponseModel):
    url: str = Field(description="A link to the file, which never changes.")
    mime_type: str
    width: int
    height: int


class UsageRead(ResponseModel):
    prompt_tokens: int
    output_tokens: int
    thoughts_tokens: int
    total_tokens: int
    estimated_cost_usd: float | None = Field(
        description="US dollars at list price for image, text, thinking, input and search. `null` if a price is "
        "unknown; 0 if Gemini says that it does not charge."
    )


class WebSourceRead(ResponseModel):
    title: str
    uri: str


class ImageSourceRead(ResponseModel):
    title: str
    source_uri: str = Field(description="The page that contains the image. Google requires you to link to it.")
    image_uri: str
    domain: str


class GroundingSupportRead(ResponseModel):
    text: str
    start_index: int
    end_index: int
    source_indices: list[int] = Field(description="Positions in the list of `sources` followed by `imageSources`.")


class GroundingRead(ResponseModel):
    queries: list[str]
    sources: list[WebSourceRead]
    image_sources: list[ImageSourceRead]
    supports: list[GroundingSupportRead]
    search_suggestions_html: str | None = Field(
        description="Google requires you to show this to the author of the prompt."
    )


class GenerationRead(ResponseModel):
    """The response to a request for an image."""

    id: str
    image: ImageRead
    text: str | None = Field(description="Text that the model wrote beside the image.")
    thoughts: str | None = Field(None, description="Only with `includeThoughts`.")
    drafts: list[ImageRead] | None = Field(None, description="Only with `includeDrafts`.")
    model: str = Field(description="The model that was asked, with aliases resolved.")
    model_version: str | None = Field(description="The model version that Gemini reports.")
    finish_reason: str | None
    grounding: GroundingRead | None
    usage: UsageRead
    warnings: list[str]
    chat_id: str | None = Field(None, description="Only in a chat.")
    turn: int | None = Field(None, description="Only in a chat: the number of this turn, counted from 1.")


class LinkedGenerationRead(GenerationRead):
    """The response to a request for an image, with a link to the image."""

    image: LinkedImageRead  # type: ignore[assignment]  # instead of the file itself


EXAMPLE: dict[str, Any] = {
    "id": "gen_5a4c1f0e7b6d4a9f8f0c2f1c3b7a9e12",
    "image": {
        "data": "/9j/4AAQSkZJRgABAQ…",
        "mimeType": "image/jpeg",
        "url": "data:image/jpeg;base64,/9j/4AAQSkZJRgABAQ…",
        "width": 2752,
        "height": 1536,
    },
    "text": "Here it is.",
    "model": "gemini-3-pro-image",
    "modelVersion": "gemini-3-pro-image",
    "finishReason": "STOP",
    "grounding": None,
    "usage": {
        "promptTokens": 12,
        "outputTokens": 1120,
        "thoughtsTokens": 200,
        "totalTokens": 1332,
        "estimatedCostUsd": 0.136824,
    },
    "warnings": [],
}


GROUNDING_EXAMPLE: dict[str, Any] = {
    "queries": ["weather in Bern today"],
    "sources": [{"title": "example.com", "uri": "https://vertexaisearch.cloud.google.com/grounding-api-redirect/…"}],
    "imageSources": [],
    "supports": [{"text": "Here it is.", "startIndex": 0, "endIndex": 11, "sourceIndices": [0]}],
    "searchSuggestionsHtml": "<style>…</style><div>…</div>",
}


_BINARY = {"schema": {"type": "string", "contentMediaType": "application/octet-stream"}}
_EVENTS = {
    "schema": EVENT_SCHEMA,
    "example": 'event: started\ndata: {"requestId":"req_…","model":"gemini-3-pro-image","attempt":1}\n\n'
    ": still at it\n\nevent: image\ndata: {…}\n\nevent: done\ndata: {}\n\n",
}
IMAGE_RESPONSES: Responses = {
    200: {
        "description": "The image: JSON by default, its own bytes for `Accept: image/*`, events for "
        "`text/event-stream`.",
        "model": GenerationRead | LinkedGenerationRead,
        "content": {
            "application/json": {"example": EXAMPLE},
            "image/jpeg": _BINARY,
            "image/png": _BINARY,
            "text/event-stream": _EVENTS,
        },
        "headers": {name: {"schema": {"type": "string"}} for name in EXPOSED_HEADERS if name != "Retry-After"},
    },
    **problem_responses(
        errors.InvalidJson,
        errors.InvalidForm,
        errors.Unauthorized,
        errors.ForbiddenOrigin,
        errors.ForbiddenHost,
        errors.NotAllowed,
        errors.NotAcceptable,
        errors.UploadTimeout,
        errors.HeaderTooLarge,
        errors.TooLarge,
        errors.UnsupportedMediaType,
        errors.UnsupportedImage,
        errors.InvalidRequest,
        errors.ContentBlocked,
        errors.Recitation,
        errors.NoImage,
        errors.QuotaExhausted,
        errors.BillingExhausted,
        errors.RateLimited,
        errors.TooManyAtOnce,
        errors.BudgetExhausted,
        errors.Internal,
        errors.UpstreamError,
        errors.UpstreamInvalidResponse,
        errors.UpstreamRejectedCredentials,
        errors.UpstreamBusy,
        errors.UpstreamTimeout,
        errors.Overloaded,
    ),
}
"""Responses of a route that generates an image."""
