"""Responses of the `/v1` routes, as the OpenAPI document describes them."""

from typing import Any, Literal

from pydantic import BaseModel, Field

from app.api.http.event_stream import EVENT_SCHEMA
from app.api.http.problem_responses import Responses
from app.api.images.response import GroundingRead


class ImageItemRead(BaseModel):
    b64_json: str = Field(description="The file as base64.", json_schema_extra={"format": "byte"})
    text: str | None = Field(None, description="Text that the model wrote beside the image.")


class LinkedImageItemRead(BaseModel):
    url: str = Field(description="A link to the file, which never changes.")
    text: str | None = Field(None, description="Text that the model wrote beside the image.")


class TokenDetailsRead(BaseModel):
    text_tokens: int
    image_tokens: int


class ImagesUsageRead(BaseModel):
    total_tokens: int
    input_tokens: int
    output_tokens: int = Field(description="Images, text and thoughts.")
    input_tokens_details: TokenDetailsRead
    output_tokens_details: TokenDetailsRead
    estimated_cost_usd: float | None = Field(description="US dollars at list price; `null` if a price is unknown.")


class ImagesRead(BaseModel):
    """The images of a request."""

    created: int = Field(description="Seconds since 1970.")
    data: list[ImageItemRead]
    model: str = Field(description="The model that drew the first image.")
    size: str = Field(description="Actual pixels of the first image.", examples=["1376x768"])
    quality: Literal["low", "medium", "high"] = Field(description="1K, 2K or 4K, whichever is nearest.")
    background: Literal["opaque"]
    output_format: str
    usage: ImagesUsageRead
    warnings: list[str]
    grounding: GroundingRead | None = None


class LinkedImagesRead(ImagesRead):
    """The images of a request, as links."""

    data: list[LinkedImageItemRead]  # type: ignore[assignment]  # instead of the files themselves


class OpenAIErrorDetailsRead(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIErrorRead(BaseModel):
    """The body of every error response below `/v1`."""

    error: OpenAIErrorDetailsRead


class OpenAIModelRead(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["google"] = "google"


class OpenAIModelsRead(BaseModel):
    object: Literal["list"] = "list"
    data: list[OpenAIModelRead]


_DESCRIPTIONS = {
    400: "The request is not valid, or Gemini refused it (`moderation_blocked`, `no_image`).",
    401: "The key is missing or unknown.",
    403: "The page or the host may not call the service, or the key may not ask for this model or size.",
    404: "There is no such route or model.",
    408: "The body did not arrive in time.",
    409: "The image is still being made, or was cancelled.",
    413: "The body or a file is too large.",
    415: "The route does not read this type of body.",
    424: "Gemini failed, and may have billed the call. Do not send the request again.",
    429: "Gemini's quota, the account's credit or a limit of the key is used up.",
    431: "A header is too long.",
    500: "A bug of this service.",
    502: "Gemini failed.",
    503: "Gemini or this service is out of capacity.",
    504: "A time limit was reached before Gemini was asked.",
    507: "The temporary folder for uploads is full.",
}


def error_responses(*statuses: int) -> Responses:
    """Return the error responses of a route for FastAPI's `responses=`."""
    others = {"description": "Any other error.", "model": OpenAIErrorRead}
    return {"default": others} | {
        status: {"description": _DESCRIPTIONS[status], "model": OpenAIErrorRead} for status in statuses
    }


_EXAMPLE: dict[str, Any] = {
    "created": 1795000000,
    "data": [{"b64_json": "/9j/4AAQSkZJRgABAQ…"}],
    "model": "gemini-3-pro-image",
    "size": "1376x768",
    "quality": "low",
    "background": "opaque",
    "output_format": "jpeg",
    "usage": {
        "total_tokens": 1332,
        "input_tokens": 12,
        "output_tokens": 1320,
        "input_tokens_details": {"text_tokens": 12, "image_tokens": 0},
        "output_tokens_details": {"text_tokens": 200, "image_tokens": 1120},
        "estimated_cost_usd": 0.136824,
    },
    "warnings": [],
}

IMAGES_RESPONSES: Responses = {
    200: {
        "description": "The images; events with `stream`.",
        "model": ImagesRead | LinkedImagesRead,
        "content": {
            "application/json": {"example": _EXAMPLE},
            "text/event-stream": {
                "schema": EVENT_SCHEMA,
                "example": 'event: image_generation.completed\ndata: {"type":"image_generation.completed",…}\n\n',
            },
        },
    },
    **error_responses(400, 401, 403, 408, 409, 413, 415, 424, 429, 431, 500, 502, 503, 504),
}
"""Responses of a route that makes images."""
