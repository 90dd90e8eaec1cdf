"""Failures as RFC 9457 problem documents.

`report` is the one way from an exception to what is said of it: the document and headers for the caller, the entry for
the log. Routes, event streams and middleware reach it through a `Reporter`, the server below them directly.
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
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Scope

from app.api.chats.request import ChatCreate, ForkCreate, TurnCreate, TurnForm
from app.api.images.request import ReferenceCreate, SafetySettingCreate
from app.domain.errors import (
    CallerDisconnected,
    CallerError,
    ChatLimitReached,
    ContentBlocked,
    FieldError,
    Internal,
    InvalidJson,
    InvalidRequest,
    MethodNotAllowed,
    NoImage,
    NotAcceptable,
    NotFound,
    QuotaExhausted,
    RangeNotSatisfiable,
    ServiceError,
    StaleTurn,
    StorageDamaged,
    StorageFull,
    StorageUnavailable,
    TooLarge,
    Unauthorized,
    UploadTimeout,
)
from app.domain.generation import Usage
from app.lib import logs
from app.lib.idle_trim import clear_traceback_frames

log = logging.getLogger(__name__)

MAX_ERRORS = 20
"""Wrong fields that a problem names; a body can hold any number of them."""

MEDIA_TYPE = "application/problem+json"

GENERATION = "asks_for_generation"
"""Name of the request's state that is true while an image is asked for, but its generation has not begun: from then on
the generation is counted."""

_BODIES = (ChatCreate, TurnCreate, TurnForm, ForkCreate, ReferenceCreate, SafetySettingCreate)
_FIELDS = {to_camel(name) for body in _BODIES for name in body.model_fields} | {"body", "cursor", "limit", "number"}
_SAID_BETTER = {
    "string_pattern_mismatch": "has characters that do not belong there",
    "extra_forbidden": "there is no such field",
    "missing": "is required",
}


class Problem(BaseModel):
    """What every failure answers with, as `application/problem+json` (RFC 9457)."""

    model_config = ConfigDict(alias_generator=to_camel, extra="allow")

    type: str = Field(description="A URN that names the kind of problem.")
    title: str
    status: int
    detail: str = Field(description="One sentence for whoever called.")
    code: str = Field(description="Stable; the thing to branch on.")
    request_id: str
    error: str = Field(description="The same sentence as `detail`.")
    retry_after: int | None = Field(None, description="Seconds, where there is a point in coming back.")


@dataclass(frozen=True, slots=True)
class LogEntry:
    level: int
    message: str
    extra: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Report:
    """What is said of a failure: to the caller, and in the log."""

    status: int
    document: dict[str, Any]
    headers: dict[str, str]
    entry: LogEntry


def report(error: ServiceError, request_id: str, *, log_sensitive: bool) -> Report:
    """What is said of `error`.

    Args:
        error: a failure; `as_service_error` makes one of any exception.
        request_id: the request's.
        log_sensitive: whether the log may quote Gemini's words and messages of exceptions.
    """
    return Report(error.status, _document(error, request_id), _headers(error), _log_entry(error, log_sensitive))


class Reporter:
    """Reports failures: writes the log entry, and returns what the caller is told."""

    def __init__(self, *, log_sensitive: bool) -> None:
        self._log_sensitive = log_sensitive

    def document(self, error: Exception, scope: Scope) -> dict[str, Any]:
        """Log `error`; returns its problem document, for an answer that has begun already."""
        return self._logged(error, scope).document

    def response(self, error: Exception, scope: Scope) -> Response:
        """Log `error`; returns its problem document as an answer."""
        told = self._logged(error, scope)
        # Lone surrogates, which a detail could hold from the request, are escaped; so every document is valid UTF-8.
        return Response(json.dumps(told.document), told.status, told.headers, MEDIA_TYPE)

    def _logged(self, error: Exception, scope: Scope) -> Report:
        expected = as_service_error(error)
        _count_refusal(expected, scope)
        told = report(expected, logs.request_id.get(), log_sensitive=self._log_sensitive)
        log.log(told.entry.level, told.entry.message, extra=told.entry.extra)
        clear_traceback_frames(error)  # they refer to the request and its images
        return told


def install(app: FastAPI, reporter: Reporter) -> None:
    """Answer every expected failure of the app with a problem document, and log it."""

    async def handle(request: Request, error: Exception) -> Response:
        return reporter.response(error, request.scope)

    for expected in (ServiceError, RequestValidationError, HTTPException):
        app.add_exception_handler(expected, handle)


def as_service_error(error: Exception) -> ServiceError:
    """`error` as one of the failures that callers know; what nobody expected is `Internal`, with `error` behind it."""
    match error:
        case ServiceError():
            return error
        case RequestValidationError():
            return _from_validation(error)
        case HTTPException():
            return _from_http(error)
    return _unexpected(error)


def _unexpected(error: Exception) -> ServiceError:
    broken = Internal()
    broken.__cause__ = error
    return broken


def _count_refusal(error: ServiceError, scope: Scope) -> None:
    """Count a request for a generation that failed before it became one, through no fault of its caller's."""
    state = scope.get("state", {})
    if state.get(GENERATION) and not isinstance(error, CallerError | CallerDisconnected):
        state["metrics"].record_rejection(error.code)


def _document(error: ServiceError, request_id: str) -> dict[str, Any]:
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
        headers["X-Should-Retry"] = "false"  # OpenAI's clients heed it: the same again may cost again
    if isinstance(error, UploadTimeout):
        headers["Connection"] = "close"  # the rest of the body is still on its way
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
        "fields": ",".join(map(_known, members.get("errors", ()))) or None,
        "quote": error.upstream_message if log_sensitive else None,
    }
    serious = error.status >= 500 or error.status == 429
    return LogEntry(logging.WARNING if serious else logging.INFO, f"problem {error.code}", extra)


def problem_responses(*errors: type[ServiceError]) -> dict[int | str, dict[str, Any]]:
    """What a route's OpenAPI entry says of its failures, for `responses=`."""
    by_status: dict[int, list[type[ServiceError]]] = {}
    for error in errors:
        by_status.setdefault(error.status, []).append(error)
    return {
        status: {
            "description": "; ".join(f"`{error.code}`: {error.title}" for error in group),
            "content": {
                MEDIA_TYPE: {
                    "schema": {"$ref": "#/components/schemas/Problem"},
                    "examples": {error.code: {"value": _example(error)} for error in group},
                }
            },
        }
        for status, group in by_status.items()
    }


def merge_responses(*documents: dict[int | str, dict[str, Any]]) -> dict[int | str, dict[str, Any]]:
    """What a route's OpenAPI entry says of its failures, where several descriptions have the same status."""
    merge_responses: dict[int | str, dict[str, Any]] = {}
    for document in documents:
        for status, about in document.items():
            if status in merge_responses and MEDIA_TYPE in about.get("content", {}):
                before = merge_responses[status]
                (old,), (new,) = before["content"].values(), about["content"].values()
                merge_responses[status] = {
                    "description": f"{before['description']}; {about['description']}",
                    "content": {MEDIA_TYPE: old | {"examples": old["examples"] | new["examples"]}},
                }
            else:
                merge_responses[status] = about
    return merge_responses


_USED = Usage(prompt_tokens=12, output_tokens=208, thoughts_tokens=208, total_tokens=220, estimated_cost_usd=0.00252)
_EXAMPLES: tuple[ServiceError, ...] = (
    Internal(),
    InvalidRequest([FieldError("aspectRatio", "gemini-3-pro-image has 1:1, 16:9 and 21:9, not 8:1")]),
    NotAcceptable("The image is image/jpeg; ask for that.", possible=("application/json", "image/jpeg")),
    ContentBlocked(
        "Unable to show the generated image.", finish_reason="IMAGE_SAFETY", model="gemini-3-pro-image", usage=_USED
    ),
    NoImage(
        "Gemini answered in words, without an image.",
        finish_reason="STOP",
        text="I would rather describe it.",
        model="gemini-3-pro-image",
        usage=_USED,
    ),
    QuotaExhausted("Gemini's quota for this service is used up for the moment.", scope="minute"),
    StaleTurn("The latest turn of this chat is 4.", last_turn=4),
    ChatLimitReached(
        "You have 10,000 chats, and the limit is 10,000. Delete chats that you no longer need.",
        limit="chats",
        most=10_000,
    ),
    StorageUnavailable("The chat database does not answer, or answers with an error.", part="database", retry_after=10),
    StorageFull("The image store is full. Nothing more can be saved.", part="blobs", retry_after=10),
    StorageDamaged("An image of this chat is missing from the image store.", part="blobs"),
    RangeNotSatisfiable("The file has 1,024 bytes.", size=1024),
)


def _example(class_: type[ServiceError]) -> dict[str, Any]:
    fitting = (error for error in _EXAMPLES if type(error) is class_)
    return _document(next(fitting, None) or class_(f"{class_.title}."), "req_1d0f6c6be5a04b1e9d53a1d0a4a5c7fb")


def _known(error: dict[str, str]) -> str:
    """A field's name for the log. An unknown name is the caller's own text, perhaps a prompt, and is not logged."""
    names = re.split(r"\[\d+\]\.?|\.", error["field"])
    if all(name in _FIELDS for name in names if name):
        return error["field"]
    return names[0] if names[0] in _FIELDS else "?"


def _from_validation(error: RequestValidationError) -> ServiceError:
    found: Sequence[Any] = error.errors()
    if any(tuple(one["loc"]) == ("body",) and one["type"] == "missing" for one in found):
        return InvalidJson("The body is empty; send a JSON object.")
    return InvalidRequest([FieldError(_field(one["loc"]), _message(one)) for one in found[:MAX_ERRORS]])


def _field(location: Sequence[str | int]) -> str:
    """`("body", "referenceImages", 0, "data")` as `referenceImages[0].data`."""
    name = ""
    for part in location[1:]:
        name += f"[{part}]" if isinstance(part, int) else f".{part}" if name else str(part)
    return name[:200] or "body"


def _message(found: dict[str, Any]) -> str:
    message = _SAID_BETTER.get(found["type"]) or str(found["msg"]).removeprefix("Value error, ")
    if message.startswith("Expected UploadFile"):
        return "must be a file"
    return message[:1].lower() + message[1:]


def _from_http(error: HTTPException) -> ServiceError:
    if isinstance(error.__cause__, ServiceError):
        return error.__cause__  # FastAPI makes a 400 of whatever is raised while it reads a body
    if isinstance(error.__cause__, ClientDisconnect):
        return CallerDisconnected("The caller left before the body was there.")
    if error.status_code == 404:
        return NotFound("There is no such route; /docs lists them.")
    if error.status_code == 405:
        allow = (error.headers or {}).get("Allow", "")
        return MethodNotAllowed(f"This route takes {allow or 'another method'}.", allow=allow)
    if error.status_code == 413:
        return TooLarge("The request body is larger than this service takes.")
    return _unexpected(error)
