"""Errors as responses: RFC 9457 problem documents, or the error format of another API below a path.

`report` turns an error into a problem document, response headers and a log entry. Routes, event streams and middleware
use it through a `Reporter`; the HTTP server uses it directly for requests that never reach the app.
"""

import json
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from app.api.http.error_conversion import as_service_error, method_not_allowed
from app.api.http.limit_headers import limit_headers
from app.api.http.paths import route_path
from app.api.http.schema import request_field_names
from app.domain.errors import (
    GenerationInProgress,
    Internal,
    LimitReached,
    MethodNotAllowed,
    RangeNotSatisfiable,
    ServiceError,
    Unauthorized,
    UploadTimeout,
)
from app.lib import logs
from app.lib.tracebacks import clear_traceback_frames

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"

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

    error: ServiceError
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
    document = problem_document(error, error.request_id or request_id)
    return Report(error, error.status, document, _headers(error), _log_entry(error, log_sensitive))


@dataclass(frozen=True, slots=True)
class ErrorFormat:
    """How the error responses of the routes below a path look."""

    prefix: str
    """The path, such as `/v1`."""
    media_type: str
    status: Callable[[ServiceError], int]
    document: Callable[[ServiceError], dict[str, Any]]
    """Returns the JSON body."""

    def applies_to(self, path: str) -> bool:
        return path == self.prefix or path.startswith(f"{self.prefix}/")

    def response(self, reported: Report) -> Response:
        body = json.dumps(self.document(reported.error))
        return Response(body, self.status(reported.error), reported.headers, self.media_type)


class Reporter:
    """Logs errors, and returns what the caller is told."""

    def __init__(self, *, log_sensitive: bool, formats: Sequence[ErrorFormat] = ()) -> None:
        """
        Args:
            log_sensitive: as in `report`.
            formats: error formats other than problem documents.
        """
        self._log_sensitive = log_sensitive
        self.formats = formats

    def report(self, error: Exception) -> Report:
        """Log an error and return its report, for a response that has begun already."""
        service_error = as_service_error(error)
        reported = report(service_error, logs.request_id.get(), log_sensitive=self._log_sensitive)
        log.log(reported.entry.level, reported.entry.message, extra=reported.entry.extra)
        clear_traceback_frames(error)  # its frames refer to the request and its images
        return reported

    def response(self, error: Exception) -> Response:
        """Log an error and return its response. The path of the request decides on its format."""
        return _ErrorResponse(self.report(error), self.formats)


class _ErrorResponse(Response):
    """A problem document, or an error in the format of the request's path.

    All of them are encoded at once. A response that kept the error would refer to itself through its traceback.
    """

    def __init__(self, reported: Report, formats: Sequence[ErrorFormat]) -> None:
        # `json.dumps` escapes lone surrogates, which a detail may quote from the request: the body is valid UTF-8.
        super().__init__(json.dumps(reported.document), reported.status, reported.headers, MEDIA_TYPE)
        self._others = [(one, one.response(reported)) for one in formats]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = route_path(scope)
        other = next((response for format_, response in self._others if format_.applies_to(path)), None)
        if other is None:
            return await super().__call__(scope, receive, send)
        await other(scope, receive, send)


def install(app: FastAPI, reporter: Reporter) -> None:
    """Make the app answer every expected error with an error response."""

    async def handle(request: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException) and error.status_code == 405:
            return reporter.response(method_not_allowed(request))
        return reporter.response(error)

    for expected in (ServiceError, RequestValidationError, HTTPException):
        app.add_exception_handler(expected, handle)


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
    if error.is_replay:
        headers["Idempotent-Replayed"] = "true"
    if error.discourages_retry:
        headers["X-Should-Retry"] = "false"  # OpenAI's clients obey it; a retry may cost again
    if isinstance(error, GenerationInProgress):
        headers["Location"] = error.location
    if isinstance(error, UploadTimeout):
        headers["Connection"] = "close"  # more of the body is still arriving
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, MethodNotAllowed):
        headers["Allow"] = error.allow
    if isinstance(error, LimitReached):
        headers |= limit_headers(error.allowance)
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
