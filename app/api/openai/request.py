"""Request bodies of the `/v1/images` routes.

The fields are OpenAI's, and some of our own, which clients send as extra parameters. Everything may be `null`. A field
that is not listed here is refused by name. The descriptions are the table in docs/openai.md.

Source of OpenAI's fields: https://github.com/openai/openai-openapi, August 2026.
"""

import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from app.api.http.schema import Flag, NullIsAbsent, RequestModel, Word, format_name, lower, no_flag, upper
from app.api.images.request import ModelName, Prompt, Seed, SystemInstruction, ThinkingLevel, WebhookUrl
from app.api.openai.sizes import SIZE_PATTERN
from app.domain.errors import FieldError, InvalidRequest


def _refused(message: str) -> BeforeValidator:
    """Return a validator for a field that clients know and that Gemini has no counterpart of."""

    def refuse(_value: Any) -> Any:
        raise PydanticCustomError("unsupported", message)

    return BeforeValidator(refuse)


def _size(value: str) -> str:
    if not re.fullmatch(SIZE_PATTERN, value):
        raise ValueError("must be auto, or a width and a height such as 1024x1024")
    return value


def _unfolded(extra: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
    """Return the members of `extra_body` and of the body together. `null` counts as absent."""
    given = {name: value for name, value in body.items() if value is not None}
    wrong = [name for name, value in extra.items() if value is not None and given.get(name, value) != value]
    if wrong:
        raise InvalidRequest([FieldError(name[:200], "has another value in extra_body") for name in wrong])
    return extra | given


PixelSize = Annotated[
    str, BeforeValidator(lower), AfterValidator(_size), Field(json_schema_extra={"pattern": SIZE_PATTERN})
]


class ImageOptions(RequestModel, NullIsAbsent):
    """Fields that all `/v1/images` routes share."""

    model_config = ConfigDict(alias_generator=None)

    prompt: Prompt = Field(description="required: text for Gemini, passed on unchanged; up to 200,000 characters")
    model: ModelName | None = Field(
        None,
        description="a Gemini model id or alias. `gpt-image-*`, `chatgpt-image-*`, `dall-e-*` and no value mean "
        "`DEFAULT_MODEL`; `OPENAI_MODEL_ALIASES` can say otherwise",
    )
    n: Annotated[int, Field(ge=1, le=10), BeforeValidator(no_flag)] = Field(
        1,
        description="1 to 10 images, each a call of its own with its own cost. If some fail, the response has the "
        "others and `warnings`",
    )
    size: PixelSize | None = Field(
        None,
        description="`auto` leaves it to the model. `WxH` is drawn in the nearest aspect ratio and image size; the "
        "response has the actual `size`",
    )
    quality: Literal["low", "medium", "high", "xhigh", "max", "auto", "standard", "hd"] | None = Field(
        None,
        description="`low`, `medium`, `high` choose 1K, 2K, 4K where `size` and `image_size` leave it open, `xhigh` "
        "and `max` like `high`; with the default model 4K costs about 1.8 times as much. `auto`, `standard`, `hd` have "
        "no effect",
    )
    output_format: Annotated[Literal["png", "jpeg", "webp"], BeforeValidator(format_name)] | None = Field(
        None,
        description="`png`, `jpeg` or `webp`. Without it the image is as Gemini made it; the response names the format",
    )
    output_compression: Annotated[int, Field(ge=0, le=100), BeforeValidator(no_flag)] | None = Field(
        None, description="quality of JPEG and WebP, 0 to 100; 100 is no compression by this service. Not for `png`"
    )
    background: Literal["auto", "opaque", "transparent"] | None = Field(
        None, description="`auto` and `opaque` have no effect. `transparent` is refused: Gemini draws no transparency"
    )
    response_format: Literal["b64_json", "url"] | None = Field(
        None,
        description="`b64_json`; or `url`: the image is stored, and its `url` is a link that works without a key for "
        "`IMAGE_URL_TTL`",
    )
    stream: Flag = Field(False, description="the response is a stream of events; the header `Accept` has no effect")
    partial_images: Annotated[int, Field(ge=0, le=3), BeforeValidator(no_flag)] | None = Field(
        None, description="with `stream`: the most drafts to send for each image, if Gemini sends any"
    )
    mask: Annotated[Any, _refused("is not supported: Gemini has no masks. Describe in the prompt what to change")] = (
        Field(None, description="refused: Gemini has no masks. Describe in the prompt what to change")
    )
    input_fidelity: Literal["high", "low"] | None = Field(None, description="no effect")
    style: Literal["vivid", "natural"] | None = Field(None, description="no effect")
    moderation: Literal["low", "auto"] | None = Field(None, description="no effect")
    user: str | None = Field(None, description="no effect")
    safety_identifier: str | None = Field(None, description="no effect")
    complexity: Literal["low", "medium", "high"] | None = Field(None, description="no effect")
    watermark: Flag = Field(False, description="no effect: every image has Google's invisible watermark. Dify sends it")

    aspect_ratio: Word | None = Field(
        None, description="Gemini's aspect ratio, such as `16:9`. A contradiction to `size` is an error"
    )
    image_size: Annotated[Word, BeforeValidator(upper)] | None = Field(
        None, description="Gemini's image size: `512`, `1K`, `2K` or `4K`. A contradiction to `size` is an error"
    )
    google_search: Flag = Field(
        False, description="ground the image in Google Search; the response then has `grounding`"
    )
    image_search: Flag = Field(False, description="let the model search for images too")
    thinking_level: ThinkingLevel | None = Field(
        None, description="as the model supports it; `GET /models` lists the levels"
    )
    seed: Seed | None = Field(None, description="passed on; Gemini does not promise equal images for equal seeds")
    system_instruction: SystemInstruction | None = Field(None, description="instruction for the model, passed on")
    fallback_model: ModelName | None = Field(
        None, description="the model to call when `model` is out of capacity or quota"
    )
    webhook_url: WebhookUrl | None = Field(
        None, description="with `Prefer: respond-async`: the address to call when the images are ready"
    )

    @model_validator(mode="before")
    @classmethod
    def _accept_habits_of_clients(cls, data: Any) -> Any:
        """Drop an empty `model`, which clients send whose user has chosen none. Read the members of `extra_body` as
        parameters: Dify sends the object itself, which OpenAI's libraries unfold."""
        if not isinstance(data, dict):
            return data
        extra = data.get("extra_body")
        if isinstance(extra, dict):
            data = _unfolded(extra, {name: value for name, value in data.items() if name != "extra_body"})
        return {name: value for name, value in data.items() if (name, value) != ("model", "")}

    @field_validator("background")
    @classmethod
    def _is_opaque(cls, background: str | None) -> str | None:
        if background == "transparent":
            raise ValueError("must be auto or opaque: Gemini draws no transparency")
        return background

    @field_validator("output_compression")
    @classmethod
    def _is_for_another_format_than_png(cls, compression: int | None, info: ValidationInfo) -> int | None:
        if info.data.get("output_format") == "png" and compression != 100:
            raise ValueError("must be 100 for png, which is compressed without loss")
        return compression

    @field_validator("partial_images")
    @classmethod
    def _is_for_a_stream(cls, count: int | None, info: ValidationInfo) -> int | None:
        if count and not info.data.get("stream"):
            raise ValueError("needs stream: true")
        return count


class ImageGenerationCreate(ImageOptions):
    """A request for images from a prompt."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"prompt": "A lighthouse in a storm", "size": "1536x1024"}]}
    )


class ImageCreate(RequestModel, NullIsAbsent):
    """An image of an edit."""

    model_config = ConfigDict(alias_generator=None)

    image_url: str | None = Field(
        None, description="The file as a data URL. Other URLs are refused: the service fetches nothing."
    )
    file_id: Annotated[
        Any, _refused("is not supported: this service stores no files. Send the image as a data URL in image_url")
    ] = None

    @model_validator(mode="before")
    @classmethod
    def _unwrap(cls, data: Any) -> Any:
        """Take the URL out of an object, as OpenAI's chat completions have it."""
        wrapped = data.get("image_url") if isinstance(data, dict) else None
        if not isinstance(wrapped, dict):
            return data
        unknown = {f"image_url.{key}": value for key, value in wrapped.items() if key not in ("url", "detail")}
        return data | {"image_url": wrapped.get("url")} | unknown

    @model_validator(mode="after")
    def _has_an_image(self) -> "ImageCreate":
        if self.image_url is None:
            raise ValueError("needs image_url with a data URL")
        return self

    @property
    def url(self) -> str:
        return self.image_url or ""


class ImageEditCreate(ImageOptions):
    """A request to edit or combine images, as JSON."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"prompt": "Make the sky green", "images": [{"image_url": "data:image/jpeg;base64,/9j/4AAQ…"}]}
            ]
        }
    )

    images: Annotated[list[ImageCreate], Field(min_length=1, max_length=16)]
