"""The request as a caller writes it, and where it is validated; once, here.

Wire names are camelCase, snake_case is taken too, and a field nobody knows is refused by name. What a model allows is
the catalogue's business, not this module's.
"""

import json
from dataclasses import fields
from typing import Annotated, Any, ClassVar, Literal, Self

from fastapi import UploadFile
from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from app.domain.chat import ChatDefaults
from app.domain.generation import GenerationRequest, Reference, Role, SafetySetting
from app.settings import MODEL_ID

MAX_PROMPT_CHARS = 200_000

_MAX_LIST_CHARS = 100_000
"""How long the JSON text of a list in a form may be: 64 names of 100 characters that are all escaped fit."""

_MAX_LIST_MEMBERS = 200

_CATEGORIES = Literal[
    "HARM_CATEGORY_HARASSMENT",
    "HARM_CATEGORY_HATE_SPEECH",
    "HARM_CATEGORY_SEXUALLY_EXPLICIT",
    "HARM_CATEGORY_DANGEROUS_CONTENT",
    "HARM_CATEGORY_CIVIC_INTEGRITY",
    "HARM_CATEGORY_JAILBREAK",
]
_THRESHOLDS = Literal["BLOCK_LOW_AND_ABOVE", "BLOCK_MEDIUM_AND_ABOVE", "BLOCK_ONLY_HIGH", "BLOCK_NONE", "OFF"]


def _upper(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else value


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def _no_number(value: Any) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def _no_flag(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


def has_more_members(value: Any, limit: int) -> bool:
    """Whether the lists and objects in some JSON have more than `limit` members together.

    Each of them can become a validation error of its own: half a kilobyte, and some microseconds.
    """
    count, unread = 0, [value]
    while unread and count <= limit:
        one = unread.pop()
        if isinstance(one, list | dict):
            count += len(one)
            unread.extend(one.values() if isinstance(one, dict) else one)
    return count > limit


def _from_json_text(value: Any) -> Any:
    """A form field can hold only text; a list in it is JSON."""
    single = value[0] if isinstance(value, list) and len(value) == 1 else value
    if not isinstance(single, str) or not single.lstrip().startswith("["):
        return value
    if len(single) > _MAX_LIST_CHARS:
        raise ValueError("is too long a list")
    try:
        members = json.loads(single)
    except (ValueError, RecursionError) as error:
        raise ValueError("is not valid JSON") from error
    if has_more_members(members, _MAX_LIST_MEMBERS):
        raise ValueError("has too many members")
    return members


Word = Annotated[str, Field(min_length=1, max_length=16)]
Name = Annotated[str, Field(max_length=100)]
Flag = Annotated[bool, BeforeValidator(_no_number)]
RoleOrNone = Annotated[Role | None, BeforeValidator(lambda value: value or None)]


class _Body(BaseModel):
    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        extra="forbid",
        hide_input_in_errors=True,
    )


class _NullIsAbsent(BaseModel):
    """For JSON bodies: a field that says `null` is as good as left out, and the schema says so."""

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, data: Any) -> Any:
        return {key: value for key, value in data.items() if value is not None} if isinstance(data, dict) else data

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler.resolve_ref_schema(handler(core_schema))
        required = schema.get("required", ())
        for name, field in schema.get("properties", {}).items():
            if name not in required and {"type": "null"} not in field.get("anyOf", ()):
                about = {key: field.pop(key) for key in ("title", "description", "default", "examples") if key in field}
                schema["properties"][name] = {"anyOf": [field, {"type": "null"}], **about}
        return schema


class Safety(_Body, _NullIsAbsent):
    category: _CATEGORIES
    threshold: _THRESHOLDS


class GenerationOptions(_Body):
    """What JSON and form requests have in common."""

    references_field: ClassVar[str] = "referenceImages"

    prompt: Annotated[str, Field(min_length=1, max_length=MAX_PROMPT_CHARS)]
    aspect_ratio: Word | None = Field(
        None,
        description="Such as `16:9`; `GET /models` lists what each model has. Default `1:1`; with references, Gemini "
        "takes the ratio of the last one unless told otherwise.",
        examples=["16:9"],
    )
    image_size: Annotated[Word, BeforeValidator(_upper)] | None = Field(
        None,
        description="`512`, `1K`, `2K` or `4K`. Default `2K`, or the largest below it that the model has.",
        examples=["2K"],
    )
    model: Annotated[str, Field(pattern=MODEL_ID)] | None = Field(
        None,
        description="An id or an alias from `GET /models`, or any well-formed id that Gemini may know.",
        examples=["gemini-3-pro-image"],
    )
    fallback_model: Annotated[str, Field(pattern=MODEL_ID)] | None = Field(
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
    thinking_level: Annotated[Literal["minimal", "low", "medium", "high", "xhigh"], BeforeValidator(_lower)] | None = (
        Field(None, description="As far as the model has them; `GET /models` tells.", examples=["high"])
    )
    include_thoughts: Flag = Field(False, description="Return what the model thought, as `thoughts`.")
    include_drafts: Flag = Field(False, description="Return the other images that Gemini sent, as `drafts`.")
    seed: Annotated[int, Field(ge=-(2**31), le=2**31 - 1), BeforeValidator(_no_flag)] | None = Field(
        None, description="Passed on; Gemini promises nothing for it.", examples=[7]
    )
    safety_settings: Annotated[list[Safety], Field(max_length=12), BeforeValidator(_from_json_text)] = []
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


class ReferenceCreate(_Body, _NullIsAbsent):
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


class GenerationCreate(GenerationOptions, _NullIsAbsent):
    """A request for an image, with any references inline."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"prompt": "A lighthouse in a storm, oil on canvas"},
            ]
        }
    )

    reference_images: Annotated[list[ReferenceCreate], Field(max_length=64)] = []


class FormCreate(GenerationOptions):
    """A request for an image as a form, with the references as files."""

    references_field: ClassVar[str] = "images"

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"prompt": "Make the sky green", "images": ["photo.jpg"]}]}
    )

    images: Annotated[list[UploadFile], Field(validation_alias=AliasChoices("images", "images[]"), min_length=1)] = (
        Field(description="PNG, JPEG, WebP, HEIC or HEIF files. `images[]` is taken too.")
    )
    roles: Annotated[list[RoleOrNone], BeforeValidator(_from_json_text)] = Field(
        [], description="`character`, `object`, `style` or nothing, for each image in the same order."
    )
    names: Annotated[list[Name], BeforeValidator(_from_json_text)] = Field(
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


_AFTER = Field(
    None,
    description="The latest turn that you know of. If the chat has gone on, nothing is done and the answer is 412. "
    "`If-Match` with the number in quotes is the same.",
    examples=[3],
)
_REPLACE = Field(
    None,
    description="The latest turn, which this one stands in for: it stays on record, and nothing builds upon it.",
    examples=[4],
)
_MAX_TURN = 2**31 - 1

DEFAULTS = frozenset(one.name for one in fields(ChatDefaults))
"""What a chat can have for its turns."""


class TurnCreate(GenerationCreate):
    """The next turn of a chat. What is left out is as the chat has it."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"prompt": "Now in Spanish, keep everything else"}]})

    after_turn: Annotated[int, Field(ge=0, le=_MAX_TURN), BeforeValidator(_no_flag)] | None = _AFTER
    replace_turn: Annotated[int, Field(ge=1, le=_MAX_TURN), BeforeValidator(_no_flag)] | None = _REPLACE


class TurnForm(FormCreate):
    """The next turn of a chat as a form, with references as files."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"prompt": "Put this logo on the mug", "images": ["logo.png"]}]}
    )

    images: Annotated[list[UploadFile], Field(validation_alias=AliasChoices("images", "images[]"))] = Field(
        [], description="PNG, JPEG, WebP, HEIC or HEIF files. `images[]` is taken too."
    )
    after_turn: Annotated[int, Field(ge=0, le=_MAX_TURN)] | None = _AFTER
    replace_turn: Annotated[int, Field(ge=1, le=_MAX_TURN)] | None = _REPLACE


class ChatCreate(GenerationCreate):
    """A new chat: what its turns have in common and, with a `prompt`, its first turn."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"prompt": "An infographic on the water cycle"}]})

    prompt: Annotated[str, Field(min_length=1, max_length=MAX_PROMPT_CHARS)] | None = Field(  # type: ignore[assignment]
        None, description="For the first turn. Without one the chat is empty, and costs nothing."
    )

    @model_validator(mode="after")
    def _nothing_for_no_turn(self) -> Self:
        idle = sorted(self.model_fields_set - DEFAULTS - {"prompt"})
        if self.prompt is None and idle:
            raise ValueError(f"{to_camel(idle[0])} is for a turn, and there is none without a prompt")
        return self

    def defaults(self) -> ChatDefaults:
        request = self.model_copy(update={"prompt": ""}).to_domain((), ())
        return ChatDefaults(**{name: getattr(request, name) for name in DEFAULTS if name in self.model_fields_set})


class ForkCreate(_Body, _NullIsAbsent):
    """Where another way begins."""

    model_config = ConfigDict(json_schema_extra={"examples": [{}]})

    from_turn: Annotated[int, Field(ge=0, le=_MAX_TURN), BeforeValidator(_no_flag)] | None = Field(
        None, description="The last turn that both have; 0 is none. Default: all of them."
    )
