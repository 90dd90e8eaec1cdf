"""Errors as RFC 9457 problem documents.

`report` turns an error into a problem document, response headers and a log entry. Routes, event streams and middleware
use it through a `Reporter`; the HTTP server uses it directly for requests that never reach the app.
"""

import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match, Mount

from app.api.http.schema import request_field_names
from app.domain.catalogue import MODEL_ID_PATTERN
from app.domain.errors import (
    CallerDisconnected,
    FieldError,
    Internal,
    InvalidJson,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    RangeNotSatisfiable,
    ServiceError,
    TooLarge,
    Unauthorized,
    UploadTimeout,
)
from app.lib import logs
from app.lib.tracebacks import clear_traceback_frames
from app.lib.validation_messages import plain_message

log = logging.getLogger(__name__)

MAX_ERRORS = 20
"""The most invalid fields that a problem lists. A body can have any number of them."""

MEDIA_TYPE = "application/problem+json"

_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
_PARAMETERS = {"body", "cursor", "limit", "number"}


class Problem(BaseModel):
    """The body of every error response, as `application/problem+json` (RFC 9457)."""

    model_config = ConfigDict(alias_generator=to_camel, extra="allow")

    type: str = Field(description="A URN that names the kind of problem.")
    title: str
    status: int
    detail: str = Field(description="One sentence for the caller.")
    code: str = Field(description="Stable name of the problem. Branch on this.")
    request_id: str
    error: str = Field(description="The same sentence as `detail`.")
    retry_after: int | None = Field(None, description="Seconds to wait before a retry can succeed.")


@dataclass(frozen=True, slots=True)
class LogEntry:
    level: int
    message: str
    extra: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Report:
    """An error as the caller sees it, and as the log has it."""

    status: int
    document: dict[str, Any]
    headers: dict[str, str]
    entry: LogEntry


def report(error: ServiceError, request_id: str, *, log_sensitive: bool) -> Report:
    """Return the report of an error.

    Args:
        error: the error; `as_service_error` converts any exception.
        request_id: of the request.
        log_sensitive: log Gemini's messages and the messages of exceptions, which can quote prompts.
    """
    document = problem_document(error, request_id)
    return Report(error.status, document, _headers(error), _log_entry(error, log_sensitive))


class Reporter:
    """Logs errors, and returns what the caller is told."""

    def __init__(self, *, log_sensitive: bool) -> None:
        self._log_sensitive = log_sensitive

    def document(self, error: Exception) -> dict[str, Any]:
        """Log an error and return its problem document, for a response that has begun already."""
        return self._logged(error).document

    def response(self, error: Exception) -> Response:
        """Log an error and return its problem response."""
        reported = self._logged(error)
        # `json.dumps` escapes lone surrogates, which a detail may quote from the request: the body is valid UTF-8.
        return Response(json.dumps(reported.document), reported.status, reported.headers, MEDIA_TYPE)

    def _logged(self, error: Exception) -> Report:
        reported = report(as_service_error(error), logs.request_id.get(), log_sensitive=self._log_sensitive)
        log.log(reported.entry.level, reported.entry.message, extra=reported.entry.extra)
        clear_traceback_frames(error)  # its frames refer to the request and its images
        return reported


def install(app: FastAPI, reporter: Reporter) -> None:
    """Make the app answer every expected error with a problem document."""

    async def handle(request: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException) and error.status_code == 405:
            return reporter.response(_method_not_allowed(request))
        return reporter.response(error)

    for expected in (ServiceError, RequestValidationError, HTTPException):
        app.add_exception_handler(expected, handle)


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


def problem_document(error: ServiceError, request_id: str) -> dict[str, Any]:
    """Return the members of the problem document of an error."""
    return {
        "type": f"urn:gemini-images:problem:{error.code}",
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "code": error.code,
        "requestId": request_id,
        "error": error.detail,
        **({"retryAfter": error.retry_after} if error.retry_after is not None else {}),
        **error.members(),
        **error.extra_members,
    }


def _headers(error: ServiceError) -> dict[str, str]:
    headers = {"Cache-Control": "no-store"}
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    if error.attempts is not None:
        headers["X-Upstream-Attempts"] = str(error.attempts)
    if error.discourages_retry:
        headers["X-Should-Retry"] = "false"  # OpenAI's clients obey it; a retry may cost again
    if isinstance(error, UploadTimeout):
        headers["Connection"] = "close"  # more of the body is still arriving
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, MethodNotAllowed):
        headers["Allow"] = error.allow
    if isinstance(error, RangeNotSatisfiable):
        headers["Content-Range"] = f"bytes */{error.size}"
    return headers


def _log_entry(error: ServiceError, log_sensitive: bool) -> LogEntry:
    if isinstance(error, Internal) and error.__cause__ is not None:
        return LogEntry(
            logging.ERROR, f"unexpected: {logs.describe_exception(error.__cause__, quote=log_sensitive)}", {}
        )
    members = error.members()
    extra = {
        "cause": error.cause,
        "finishReason": members.get("finishReason"),
        "blockReason": members.get("blockReason"),
        "fields": ",".join(map(_loggable_field, members.get("errors", ()))) or None,
        "quote": error.upstream_message if log_sensitive else None,
    }
    level = logging.WARNING if error.status >= 500 or error.status == 429 else logging.INFO
    return LogEntry(level, f"problem {error.code}", extra)


def _loggable_field(error: dict[str, str]) -> str:
    """Return the path of a field for the log. Unknown names are left out: the caller wrote them, and may have put a
    prompt there."""
    known = request_field_names() | _PARAMETERS
    names = re.split(r"\[\d+\]\.?|\.", error["field"])
    if all(name in known for name in names if name):
        return error["field"]
    return names[0] if names[0] in known else "?"


def _from_validation(error: RequestValidationError) -> ServiceError:
    found: Sequence[Any] = error.errors()
    if any(tuple(one["loc"]) == ("body",) and one["type"] == "missing" for one in found):
        return InvalidJson("The body is empty; send a JSON object.")
    return InvalidRequest([FieldError(_field(one["loc"]), _message(one)) for one in found[:MAX_ERRORS]])


def _field(location: Sequence[str | int]) -> str:
    """Return `("body", "referenceImages", 0, "data")` as `referenceImages[0].data`."""
    name = ""
    for part in location[1:]:
        name += f"[{part}]" if isinstance(part, int) else f".{part}" if name else str(part)
    return name[:200] or "body"


def _message(found: dict[str, Any]) -> str:
    if str(found["msg"]).removeprefix("Value error, ").startswith("Expected UploadFile"):
        return "must be a file"
    if isinstance(found.get("input"), UploadFile):
        return "must be text, not a file"
    if found.get("ctx", {}).get("pattern") == MODEL_ID_PATTERN:
        return "is not a model's id or alias, such as gemini-3-pro-image; GET /models lists them"
    return plain_message(found)


def _method_not_allowed(request: Request) -> MethodNotAllowed:
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
