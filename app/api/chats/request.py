"""Request bodies of the chat routes."""

from dataclasses import fields
from typing import Annotated, Self

from fastapi import UploadFile
from pydantic import AliasChoices, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from app.api.http.schema import NullIsAbsent, RequestModel, no_flag
from app.api.images.request import GenerationCreate, GenerationForm, Prompt
from app.domain.chat import ChatDefaults

_AFTER = Field(
    None,
    description="The latest turn that you know. If the chat has a later one, nothing is done and the response is 412. "
    "`If-Match` with the number in quotes does the same.",
    examples=[3],
)
_REPLACE = Field(
    None,
    description="The latest turn, which the new one replaces. It stays stored, and no turn builds on it.",
    examples=[4],
)
_MAX_TURN = 2**31 - 1

DEFAULTS = frozenset(field.name for field in fields(ChatDefaults))
"""Request fields for which a chat can have defaults."""


class TurnCreate(GenerationCreate):
    """The next turn of a chat. Missing fields have the chat's defaults."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"prompt": "Now in Spanish, keep everything else"}]})

    after_turn: Annotated[int, Field(ge=0, le=_MAX_TURN), BeforeValidator(no_flag)] | None = _AFTER
    replace_turn: Annotated[int, Field(ge=1, le=_MAX_TURN), BeforeValidator(no_flag)] | None = _REPLACE


class TurnForm(GenerationForm):
    """The next turn of a chat as a form, with references as files."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"prompt": "Put this logo on the mug", "images": ["logo.png"]}]}
    )

    images: Annotated[list[UploadFile], Field(validation_alias=AliasChoices("images", "images[]"))] = Field(
        [], description="PNG, JPEG, WebP, HEIC or HEIF files. `images[]` is accepted too."
    )
    after_turn: Annotated[int, Field(ge=0, le=_MAX_TURN)] | None = _AFTER
    replace_turn: Annotated[int, Field(ge=1, le=_MAX_TURN)] | None = _REPLACE


class ChatCreate(GenerationCreate):
    """A new chat: defaults for its turns and, with a `prompt`, its first turn."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"prompt": "An infographic on the water cycle"}]})

    prompt: Prompt | None = Field(  # type: ignore[assignment]
        None, description="Prompt of the first turn. Without it the chat is empty, and costs nothing."
    )

    @model_validator(mode="after")
    def _has_turn_fields_only_with_prompt(self) -> Self:
        turn_fields = sorted(self.model_fields_set - DEFAULTS - {"prompt"})
        if self.prompt is None and turn_fields:
            raise ValueError(f"{to_camel(turn_fields[0])} is for a turn; without a prompt there is no turn")
        return self

    def defaults(self) -> ChatDefaults:
        request = self.model_copy(update={"prompt": ""}).to_domain((), ())
        return ChatDefaults(**{name: getattr(request, name) for name in DEFAULTS if name in self.model_fields_set})


class ForkCreate(RequestModel, NullIsAbsent):
    """The turn from which a fork starts."""

    model_config = ConfigDict(json_schema_extra={"examples": [{}]})

    from_turn: Annotated[int, Field(ge=0, le=_MAX_TURN), BeforeValidator(no_flag)] | None = Field(
        None, description="The last turn that is copied; 0 copies none. Default: all turns."
    )
