"""The request as a caller writes it, and where it is validated; once, here.

Wire names are camelCase, snake_case is taken too, and a field nobody knows is refused by name. What a model allows is
the catalogue's business, not this module's.
"""

from typing import Annotated, Any, ClassVar, Literal, Self

from fastapi import UploadFile
from pydantic import (
    AliasChoices,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from app.api.http.schema import Flag, Name, NullIsAbsent, RequestModel, Word, lower, no_flag, parse_json_text, upper
from app.domain.catalogue import MODEL_ID_PATTERN
from app.domain.generation import GenerationRequest, Reference, Role, SafetySetting

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


RoleOrNone = Annotated[Role | None, BeforeValidator(lambda value: value or None)]


class SafetySettingCreate(RequestModel, NullIsAbsent):
    category: _CATEGORIES
    threshold: _THRESHOLDS


class GenerationOptions(RequestModel):
    """What JSON and form requests have in common."""

    references_field: ClassVar[str] = "referenceImages"

    prompt: Annotated[str, Field(min_length=1, max_length=MAX_PROMPT_CHARS)]
    aspect_ratio: Word | None = Field(
        None,
        description="Such as `16:9`; `GET /models` lists what each model has. Default `1:1`; with references, Gemini "
        "takes the ratio of the last one unless told otherwise.",
        examples=["16:9"],
    )
    image_size: Annotated[Word, BeforeValidator(upper)] | None = Field(
        None,
        description="`512`, `1K`, `2K` or `4K`. Default `2K`, or the largest below it that the model has.",
        examples=["2K"],
    )
    model: Annotated[str, Field(pattern=MODEL_ID_PATTERN)] | None = Field(
        None,
        description="An id or an alias from `GET /models`, or any well-formed id that Gemini may know.",
        examples=["gemini-3-pro-image"],
    )
    fallback_model: Annotated[str, Field(pattern=MODEL_ID_PATTERN)] | None = Field(
        None,
        description="Whom to ask when the model is out of capacity or quota. Default `FALLBACK_MODEL`, or nobody.",
        examples=["gemini-nano-banana-2.1"],
    )
    google_search: Flag = Field(
        False, description="Ground the image in Google Search; the answer then has `grounding`."
    )
    image_search: Flag = Field(False, description="Let the model look images up too; not every model can.")
    system_instruction: Annotated[str, Field(min_length=1, max_length=MAX_PROMPT_CHARS)] | None = Field(
        None, examples=["Draw in flat colours, without words."]
    )
    thinking_level: Annotated[Literal["minimal", "low", "medium", "high", "xhigh"], BeforeValidator(lower)] | None = (
        Field(None, description="As far as the model has them; `GET /models` tells.", examples=["high"])
    )
    include_thoughts: Flag = Field(False, description="Return what the model thought, as `thoughts`.")
    include_drafts: Flag = Field(False, description="Return the other images that Gemini sent, as `drafts`.")
    seed: Annotated[int, Field(ge=-(2**31), le=2**31 - 1), BeforeValidator(no_flag)] | None = Field(
        None, description="Passed on; Gemini promises nothing for it.", examples=[7]
    )
    safety_settings: Annotated[
        list[SafetySettingCreate], Field(max_length=12, default_factory=list), BeforeValidator(parse_json_text)
    ]
    response_format: Literal["data_url", "b64"] = Field(
        "data_url", description="`data_url`: `image.data` and `image.url`. `b64`: `image.data` alone, half the bytes."
    )

    @field_validator("prompt")
    @classmethod
    def _says_something(cls, prompt: str) -> str:
        if not prompt.strip():
            raise ValueError("must not be blank")
        return prompt

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
            safety_settings=tuple(SafetySetting(one.category, one.threshold) for one in self.safety_settings),
            accepted_types=accepted_types,
        )


class ReferenceCreate(RequestModel, NullIsAbsent):
    """A reference image inside a JSON body, as base64."""

    data: str | None = Field(
        None, description="The file as base64, either alphabet.", json_schema_extra={"format": "byte"}
    )
    url: str | None = Field(None, description="The file as a data URL. Other URLs are refused: nothing is fetched.")
    mime_type: str | None = Field(None, description="Taken for compatibility; the bytes themselves decide.")
    role: RoleOrNone = Field(None, description="What the image is for; the model is told so.")
    name: Name | None = Field(
        None, description="What the prompt calls it, such as `Anna`. Several images may share one."
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.data is None) == (self.url is None):
            raise ValueError("give either data or url")
        return self


class GenerationCreate(GenerationOptions, NullIsAbsent):
    """A request for an image, with any references inline."""

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
        Field(description="PNG, JPEG, WebP, HEIC or HEIF files. `images[]` is taken too.")
    )
    roles: Annotated[list[RoleOrNone], BeforeValidator(parse_json_text)] = Field(
        [], description="`character`, `object`, `style` or nothing, for each image in the same order."
    )
    names: Annotated[list[Name], BeforeValidator(parse_json_text)] = Field(
        [], description="What the prompt calls each image, in the same order; several may share one."
    )

    @model_validator(mode="before")
    @classmethod
    def _one_list_of_images(cls, data: Any) -> Any:
        if not isinstance(data, dict) or "images[]" not in data:
            return data
        both = [data[key] for key in ("images", "images[]") if key in data]
        images = [image for one in both for image in (one if isinstance(one, list) else [one])]
        return {key: value for key, value in data.items() if key != "images[]"} | {"images": images}

    @field_validator("roles", "names")
    @classmethod
    def _no_more_than_images(cls, labels: list[Any], info: ValidationInfo) -> list[Any]:
        if len(labels) > len(info.data.get("images", labels)):
            raise ValueError("there are more of them than images")
        return labels
