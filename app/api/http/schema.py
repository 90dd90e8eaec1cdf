"""Pydantic models and field types that all request and response bodies share."""

import functools
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
"""The longest JSON text of a list in a form field. 64 names of 100 escaped characters fit."""

_MAX_LIST_MEMBERS = 200


def upper(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else value


def lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def format_name(value: Any) -> Any:
    """Return the name of an image format in lower case, with `jpg` as `jpeg`."""
    return {"jpg": "jpeg"}.get(value.lower(), value.lower()) if isinstance(value, str) else value


def no_number(value: Any) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def no_flag(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


def has_more_members(value: Any, limit: int) -> bool:
    """Return whether all lists and objects in a JSON value together have more than `limit` members.

    Each member can cause a validation error of its own, which takes half a kilobyte and some microseconds.
    """
    count, pending = 0, [value]
    while pending and count <= limit:
        item = pending.pop()
        if isinstance(item, list | dict):
            count += len(item)
            pending.extend(item.values() if isinstance(item, dict) else item)
    return count > limit


def parse_json_text(value: Any) -> Any:
    """Parse the list that a form field holds as JSON text. Return other values unchanged."""
    single = value[0] if isinstance(value, list) and len(value) == 1 else value
    if not isinstance(single, str) or not single.lstrip().startswith("["):
        return value
    if len(single) > _MAX_LIST_CHARS:
        raise ValueError("is a list that is too long")
    try:
        members = json.loads(single)
    except (ValueError, RecursionError) as error:
        raise ValueError("is not valid JSON") from error
    if has_more_members(members, _MAX_LIST_MEMBERS):
        raise ValueError("has too many members")
    return members


def not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be blank")
    return text


Word = Annotated[str, Field(min_length=1, max_length=16)]


Name = Annotated[str, Field(max_length=100)]


Flag = Annotated[bool, BeforeValidator(no_number)]


class RequestModel(BaseModel):
    """Base of request bodies: camelCase on the wire, snake_case is accepted, unknown fields are refused by name."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        extra="forbid",
        hide_input_in_errors=True,
    )


class NullIsAbsent(BaseModel):
    """Mix-in for JSON bodies: a field with the value `null` counts as absent, and the JSON schema allows `null`."""

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


@functools.cache
def request_field_names() -> frozenset[str]:
    """Return the wire names of the fields of all request bodies. The search takes a millisecond, so it is done once."""
    models, names = [RequestModel], set[str]()
    while models:
        model = models.pop()
        models += model.__subclasses__()
        names |= {to_camel(name) for name in model.model_fields}
    return frozenset(names)


class ResponseModel(BaseModel):
    """Base of response bodies: camelCase on the wire, read from the attributes of domain values."""

    model_config = ConfigDict(alias_generator=to_camel, validate_by_name=True, from_attributes=True)
