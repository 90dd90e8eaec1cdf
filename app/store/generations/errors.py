"""Convert errors to JSON documents, from which an equal error of the same class is made."""

from enum import Enum
from typing import Any

from pydantic import TypeAdapter

from app.domain.errors import FieldError, RetrySafety, ServiceError
from app.domain.generation import Usage
from app.domain.limits import Allowance

_VALUES: dict[str, TypeAdapter[Any]] = {
    one.__name__: TypeAdapter(one) for one in (Allowance, FieldError, RetrySafety, Usage)
}
"""The types of attributes of errors that JSON does not have."""

_NOT_STORED = {"missing"}
"""Attributes that are of use only in the request that failed."""


def dump_error(error: ServiceError) -> dict[str, Any]:
    attributes = {name: None if name in _NOT_STORED else _dump(value) for name, value in vars(error).items()}
    return {"class": type(error).__name__, "attributes": attributes}


def load_error(document: dict[str, Any]) -> ServiceError:
    """Return the error. A class that only a later version of the service has becomes the base class."""
    class_ = _classes().get(document["class"], ServiceError)
    attributes = {name: _load(value) for name, value in document["attributes"].items()}
    error = class_.__new__(class_, attributes["detail"])
    vars(error).update(attributes)
    return error


def _classes() -> dict[str, type[ServiceError]]:
    found: dict[str, type[ServiceError]] = {}
    left: list[type[ServiceError]] = [ServiceError]
    while left:
        one = left.pop()
        found[one.__name__] = one
        left += one.__subclasses__()
    return found


def _dump(value: Any) -> Any:
    adapter = _VALUES.get(type(value).__name__)
    if adapter is not None:
        return {"type": type(value).__name__, "value": adapter.dump_python(value, mode="json")}
    if isinstance(value, list | tuple):
        return {"items": [_dump(one) for one in value]}
    if isinstance(value, Enum):
        return value.value
    return {"json": value} if isinstance(value, dict) else value


def _load(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if "items" in value:
        return tuple(_load(one) for one in value["items"])
    return value["json"] if "json" in value else _VALUES[value["type"]].validate_python(value["value"])
