"""Response bodies of the image routes."""

from typing import Any

from pydantic import Field

from app.api.http.schema import ResponseModel


class ImageRead(ResponseModel):
    data: str = Field(description="The file as base64.", json_schema_extra={"format": "byte"})
    mime_type: str
    url: str | None = Field(None, description="The file as a data URL; absent with `responseFormat: b64`.")
    width: int
    height: int


class UsageRead(ResponseModel):
    prompt_tokens: int
    output_tokens: int
    thoughts_tokens: int
    total_tokens: int
    estimated_cost_usd: float | None = Field(
        description="US dollars at list price: image, text, thinking, input, search. `null` where no price is known; "
        "0 where Gemini says that it does not charge."
    )


class WebSourceRead(ResponseModel):
    title: str
    uri: str


class ImageSourceRead(ResponseModel):
    title: str
    source_uri: str = Field(description="The page that contains the image. Google obliges you to link to it.")
    image_uri: str
    domain: str


class GroundingSupportRead(ResponseModel):
    text: str
    start_index: int
    end_index: int
    source_indices: list[int] = Field(description="Positions in `sources`, and after its end in `imageSources`.")


class GroundingRead(ResponseModel):
    queries: list[str]
    sources: list[WebSourceRead]
    image_sources: list[ImageSourceRead]
    supports: list[GroundingSupportRead]
    search_suggestions_html: str | None = Field(
        description="Google obliges you to show this to whoever wrote the prompt."
    )


class GenerationRead(ResponseModel):
    """The answer to a request for an image."""

    id: str
    image: ImageRead
    text: str | None = Field(description="What the model wrote beside the image.")
    thoughts: str | None = Field(None, description="With `includeThoughts` only.")
    drafts: list[ImageRead] | None = Field(None, description="With `includeDrafts` only.")
    model: str = Field(description="The model asked, aliases resolved.")
    model_version: str | None = Field(description="The model that Gemini says it was.")
    finish_reason: str | None
    grounding: GroundingRead | None
    usage: UsageRead
    warnings: list[str]
    chat_id: str | None = Field(None, description="Within a chat only.")
    turn: int | None = Field(None, description="Within a chat only: the number of this turn, from 1 on.")


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
