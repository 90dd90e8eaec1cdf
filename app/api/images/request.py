"""Request bodies of the image routes, and their validation.

Wire names are camelCase, snake_case is accepted, unknown fields are refused by name. Limits of a model are checked by
the service, not here.
"""

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal, Self

from fastapi import UploadFile
from pydantic import (
    AfterValidator,
    AliasChoices,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from app.api.http.negotiation import AcceptedFormats
from app.api.http.schema import (
    Flag,
    Name,
    NullIsAbsent,
    RequestModel,
    Word,
    format_name,
    lower,
    no_flag,
    not_blank,
    parse_json_text,
    upper,
)
from app.domain.catalogue import MODEL_ID_PATTERN
from app.domain.generation import GenerationRequest, Output, Reference, Role, SafetySetting

MAX_PROMPT_CHARS = 200_000

_CATEGORIES = Literal[
    "HARM_CATEGORY_HARASSMENT",
    "HARM_CATEGORY_HATE_SPEECH",
    "HARM_CATEGORY_SEXUALLY_EXPLICIT",
    "HARM_CATEGORY_DANGEROUS_CONTENT",
    "HARM_CATEGORY_CIVIC_INTEGRITY",
    "HARM_CATEGORY_JAILBREAK",
]
_THRESHOLDS = Literal["BLOCK_LOW_AND_ABOVE", "BLOCK_MEDIUM_AND_ABOVE", "BLOCK_ONLY_HIGH", "BLOCK_NONE", "OFF"]

Prompt = Annotated[str, Field(min_length=1, max_length=MAX_PROMPT_CHARS), AfterValidator(not_blank)]

ModelName = Annotated[str, Field(pattern=MODEL_ID_PATTERN)]
Seed = Annotated[int, Field(ge=-(2**31), le=2**31 - 1), BeforeValidator(no_flag)]
SystemInstruction = Annotated[str, Field(min_length=1, max_length=MAX_PROMPT_CHARS)]
ThinkingLevel = Annotated[Literal["minimal", "low", "medium", "high", "xhigh"], BeforeValidator(lower)]

WebhookUrl = Annotated[str, Field(min_length=1, max_length=2_000)]

RoleOrNone = Annotated[Role | None, BeforeValidator(lambda value: value or None)]


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    """A valid request."""

    generation: GenerationRequest
    formats: AcceptedFormats
    response_format: str
    webhook_url: str | None


class SafetySettingCreate(RequestModel, NullIsAbsent):
    category: _CATEGORIES
    threshold: _THRESHOLDS


class GenerationOptions(RequestModel):
    """Fields that JSON and form requests share."""

    references_field: ClassVar[str] = "referenceImages"

    prompt: Prompt
    aspect_ratio: Word | None = Field(
        None,
        description="For example `16:9`; `GET /models` lists the ratios of each model. Default `1:1`. With references, "
        "Gemini uses the ratio of the last one by default.",
        examples=["16:9"],
    )
    image_size: Annotated[Word, BeforeValidator(upper)] | None = Field(
        None,
        description="`512`, `1K`, `2K` or `4K`. Default `2K`, or the largest smaller size that the model has.",
        examples=["2K"],
    )
    model: ModelName | None = Field(
        None,
        description="An id or an alias from `GET /models`. Other well-formed ids are passed to Gemini.",
        examples=["gemini-3-pro-image"],
    )
    fallback_model: ModelName | None = Field(
        None,
        description="The model to use when `model` is out of capacity or quota. Default `FALLBACK_MODEL`, or none.",
        examples=["gemini-nano-banana-2.1"],
    )
    google_search: Flag = Field(
        False, description="Ground the image in Google Search; the response then has `grounding`."
    )
    image_search: Flag = Field(False, description="Let the model search for images too, if it supports this.")
    system_instruction: SystemInstruction | None = Field(None, examples=["Draw in flat colours, without words."])
    thinking_level: ThinkingLevel | None = Field(
        None, description="`GET /models` lists the levels of each model.", examples=["high"]
    )
    include_thoughts: Flag = Field(False, description="Return the model's thoughts as `thoughts`.")
    include_drafts: Flag = Field(False, description="Return the other images that Gemini sent, as `drafts`.")
    seed: Seed | None = Field(
        None, description="Passed to Gemini, which does not promise the same image for the same seed.", examples=[7]
    )
    output_format: Annotated[Literal["png", "jpeg", "webp"], BeforeValidator(format_name)] | None = Field(
        None,
        description="Convert the image to this format; it then loses Google's Content Credentials (C2PA). By default "
        "you get the file that Gemini made. `jpg` is accepted too.",
        examples=["webp"],
    )
    output_quality: Annotated[int, Field(ge=1, le=100), BeforeValidator(no_flag)] | None = Field(
        None,
        description="Quality of a JPEG or WebP. Without `outputFormat` the image is compressed again in the format "
        "that Gemini made. Default 90 if the image is converted.",
        examples=[80],
    )
    safety_settings: Annotated[
        list[SafetySettingCreate], Field(max_length=12, default_factory=list), BeforeValidator(parse_json_text)
    ]
    response_format: Literal["data_url", "b64", "url"] = Field(
        "data_url",
        description="`data_url`: `image.data` and `image.url`. `b64`: only `image.data`, half the size. `url`: the "
        "image is stored, and `image.url` is a link that works without a key for `IMAGE_URL_TTL`.",
    )
    webhook_url: WebhookUrl | None = Field(
        None,
        description="With `Prefer: respond-async`: the address to call when the image is ready. The header "
        "`Webhook-URL` does the same.",
    )

    @field_validator("output_quality")
    @classmethod
    def _suits_the_format(cls, quality: int | None, info: ValidationInfo) -> int | None:
        if quality is not None and info.data.get("output_format") == "png":
            raise ValueError("does not apply to PNG, which loses nothing")
        return quality

    def parsed(self, references: tuple[Reference, ...], formats: AcceptedFormats) -> ParsedRequest:
        """Return the request with its references, and the formats that it accepts."""
        formats = replace(formats, with_url=self.response_format == "data_url")
        generation = self.to_domain(references, formats.required_image_types)
        return ParsedRequest(generation, formats, self.response_format, self.webhook_url)

    def to_domain(self, references: tuple[Reference, ...], accepted_types: tuple[str, ...]) -> GenerationRequest:
        return GenerationRequest(
            prompt=self.prompt,
            model=self.model.removeprefix("models/") if self.model else None,
            fallback_model=self.fallback_model.removeprefix("models/") if self.fallback_model else None,
            aspect_ratio=self.aspect_ratio,
            image_size=self.image_size,
            references=references,
            references_field=self.references_field,
            google_search=self.google_search,
            image_search=self.image_search,
            system_instruction=self.system_instruction,
            thinking_level=self.thinking_level,
            include_thoughts=self.include_thoughts,
            include_drafts=self.include_drafts,
            seed=self.seed,
            safety_settings=tuple(
                SafetySetting(setting.category, setting.threshold) for setting in self.safety_settings
            ),
            output=Output(f"image/{self.output_format}" if self.output_format else None, self.output_quality),
            accepted_types=accepted_types,
        )


class ReferenceCreate(RequestModel, NullIsAbsent):
    """A reference image as base64."""

    data: str | None = Field(
        None,
        description="The file as base64, in the standard or the URL-safe alphabet.",
        json_schema_extra={"format": "byte"},
    )
    url: str | None = Field(
        None, description="The file as a data URL. Other URLs are refused: the service fetches nothing."
    )
    mime_type: str | None = Field(
        None, description="Accepted for compatibility and ignored: the type is read from the bytes."
    )
    role: RoleOrNone = Field(None, description="The purpose of the image. Gemini gets it as text.")
    name: Name | None = Field(
        None,
        description="The name of the image in the prompt, for example `Anna`. Several images may have the same name.",
    )

    @model_validator(mode="after")
    def _has_data_or_url(self) -> Self:
        if (self.data is None) == (self.url is None):
            raise ValueError("give either data or url")
        return self


class GenerationCreate(GenerationOptions, NullIsAbsent):
    """A request for an image, with optional references inline."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"prompt": "A lighthouse in a storm, oil on canvas"},
            ]
        }
    )

    reference_images: list[ReferenceCreate] = Field(default_factory=list, max_length=64)


class GenerationForm(GenerationOptions):
    """A request for an image as a form, with the references as files."""

    references_field: ClassVar[str] = "images"

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"prompt": "Make the sky green", "images": ["photo.jpg"]}]}
    )

    images: Annotated[list[UploadFile], Field(validation_alias=AliasChoices("images", "images[]"), min_length=1)] = (
        Field(description="PNG, JPEG, WebP, HEIC or HEIF files. `images[]` is accepted too.")
    )
    roles: Annotated[list[RoleOrNone], BeforeValidator(parse_json_text)] = Field(
        [], description="`character`, `object`, `style` or an empty string for each image, in the same order."
    )
    names: Annotated[list[Name], BeforeValidator(parse_json_text)] = Field(
        [],
        description="The name of each image in the prompt, in the same order. Several images may have the same name.",
    )

    @model_validator(mode="before")
    @classmethod
    def _merge_image_fields(cls, data: Any) -> Any:
        if not isinstance(data, dict) or "images[]" not in data:
            return data
        values = [data[key] for key in ("images", "images[]") if key in data]
        images = [image for value in values for image in (value if isinstance(value, list) else [value])]
        return {key: value for key, value in data.items() if key != "images[]"} | {"images": images}

    @field_validator("roles", "names")
    @classmethod
    def _no_more_than_images(cls, labels: list[Any], info: ValidationInfo) -> list[Any]:
        if len(labels) > len(info.data.get("images", labels)):
            raise ValueError("there are more of them than images")
        return labels
