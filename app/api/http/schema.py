"""Pydantic models and field types that all request and response bodies share."""

import json
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

_MAX_LIST_CHARS = 100_000
"""How long the JSON text of a list in a form may be: 64 names of 100 characters that are all escaped fit."""


_MAX_LIST_MEMBERS = 200


def upper(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else value


def lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def no_number(value: Any) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def no_flag(value: Any) -> Any:
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


def parse_json_text(value: Any) -> Any:
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


Flag = Annotated[bool, BeforeValidator(no_number)]


class RequestModel(BaseModel):
    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        extra="forbid",
        hide_input_in_errors=True,
    )


class NullIsAbsent(BaseModel):
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


class ResponseModel(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, validate_by_name=True, from_attributes=True)
