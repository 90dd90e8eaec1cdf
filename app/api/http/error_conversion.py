"""Any exception of a request as a `ServiceError`."""

from collections.abc import Sequence
from typing import Any, Literal

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match, Mount

from app.domain.catalogue import MODEL_ID_PATTERN
from app.domain.errors import (
    CallerDisconnected,
    FieldError,
    Internal,
    InvalidJson,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    ServiceError,
    TooLarge,
)
from app.lib.validation_messages import plain_message

MAX_ERRORS = 20
"""The most invalid fields that an error lists. A body can have any number of them."""

_KINDS: dict[str, Literal["missing", "unknown", "unsupported"]] = {
    "extra_forbidden": "unknown",
    "missing": "missing",
    "unsupported": "unsupported",
}
"""Kinds of invalid fields by Pydantic's error type. Our own models raise `unsupported`."""

_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


def as_service_error(error: Exception) -> ServiceError:
    """Return `error` as a `ServiceError`. An unexpected exception becomes the cause of an `Internal`."""
    match error:
        case ServiceError():
            return error
        case RequestValidationError():
            return _from_validation(error)
        case HTTPException():
            return _from_http(error)
    return _unexpected(error)


def _unexpected(error: Exception) -> ServiceError:
    internal = Internal()
    internal.__cause__ = error
    return internal


def _from_validation(error: RequestValidationError) -> ServiceError:
    found: Sequence[Any] = error.errors()
    if any(tuple(one["loc"]) == ("body",) and one["type"] == "missing" for one in found):
        return InvalidJson("The body is empty; send a JSON object.")
    return InvalidRequest([_field_error(one) for one in found[:MAX_ERRORS]])


def _field_error(found: dict[str, Any]) -> FieldError:
    return FieldError(_field(found["loc"]), _message(found), _KINDS.get(found["type"], "invalid"))


def _field(location: Sequence[str | int]) -> str:
    """Return `("body", "referenceImages", 0, "data")` as `referenceImages[0].data`."""
    name = ""
    for part in location[1:]:
        name += f"[{part}]" if isinstance(part, int) else f".{part}" if name else str(part)
    return name[:200] or "body"


def _message(found: dict[str, Any]) -> str:
    if str(found["msg"]).removeprefix("Value error, ").startswith("Expected UploadFile"):
        return "must be a file"
    if isinstance(found.get("input"), UploadFile) and found["type"] not in _KINDS:
        return "must be text, not a file"
    if found.get("ctx", {}).get("pattern") == MODEL_ID_PATTERN:
        return "is not a model's id or alias, such as gemini-3-pro-image; GET /models lists them"
    return plain_message(found)


def method_not_allowed(request: Request) -> MethodNotAllowed:
    """Return the error with the methods of all routes of the path. Starlette names those of one route only."""
    allowed = [method for method in _METHODS if _is_routed(request, method)] or ["GET"]  # static files take only GET
    return MethodNotAllowed(f"This route accepts {' and '.join(allowed)}.", allow=", ".join(allowed))


def _is_routed(request: Request, method: str) -> bool:
    scope = {**request.scope, "method": method}
    # A mount matches every method.
    return any(route.matches(scope)[0] is Match.FULL for route in request.app.routes if not isinstance(route, Mount))


def _from_http(error: HTTPException) -> ServiceError:
    if isinstance(error.__cause__, ServiceError):
        return error.__cause__  # FastAPI turns every exception while it reads a body into a 400
    if isinstance(error.__cause__, ClientDisconnect):
        return CallerDisconnected("The caller disconnected before the end of the body.")
    if error.status_code == 404:
        return NotFound("There is no such route; /docs lists them.")
    if error.status_code == 413:
        return TooLarge("The request body is larger than this service accepts.")
    return _unexpected(error)
