"""Failures as RFC 9457 problem documents. The only place where a `ServiceError` becomes bytes."""

import json
import logging
import re
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from app import logs
from app.api.wire import ChatCreate, ForkCreate, TurnCreate, TurnForm
from app.domain import Usage
from app.errors import (
    CallerLeft,
    ContentBlocked,
    FieldError,
    Internal,
    InvalidJson,
    InvalidRequest,
    MethodNotAllowed,
    NoImage,
    NotAcceptable,
    NotFound,
    Overloaded,
    QuotaExhausted,
    RangeNotSatisfiable,
    ServiceError,
    SlowUpload,
    StaleTurn,
    StorageDamaged,
    StorageError,
    StorageFull,
    StorageUnavailable,
    TooLarge,
    Unauthorized,
)

log = logging.getLogger(__name__)

MAX_ERRORS = 20
"""Wrong fields that a problem names; a body can hold any number of them."""

MEDIA_TYPE = "application/problem+json"

_BODIES = (ChatCreate, TurnCreate, TurnForm, ForkCreate)
_FIELDS = {to_camel(name) for body in _BODIES for name in body.model_fields} | {"body", "cursor", "limit", "number"}
_EXPECTED = {404, 405, 413}
"""The statuses that Starlette and FastAPI answer with of their own accord."""

_ON_A_FORM = {"referenceImages": "images"}
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


def install(app: FastAPI, *, log_sensitive: bool) -> None:
    """Answer every expected failure of the app with a problem document, and log it."""

    async def service_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, ServiceError)
        if isinstance(error, Overloaded | StorageError) and not error.counted:
            request.state.metrics.refuse(error.code)
        if isinstance(error, InvalidRequest) and request.headers.get("content-type", "").startswith("multipart/"):
            error = error.renamed(_ON_A_FORM)
        return _logged(error, log_sensitive)

    async def validation_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return _logged(_from_validation(error), log_sensitive)

    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        cause = error.__cause__  # FastAPI makes a 400 of whatever is raised while it reads a body
        if isinstance(cause, ServiceError):
            return await service_error(request, cause)
        if isinstance(cause, ClientDisconnect):
            return _logged(CallerLeft("The caller left before the body was there."), log_sensitive)
        if error.status_code not in _EXPECTED:
            log.error("unexpected: %s", logs.where(error, quote=log_sensitive))
        return _logged(_from_http(error), log_sensitive)

    app.add_exception_handler(ServiceError, service_error)
    app.add_exception_handler(RequestValidationError, validation_error)
    app.add_exception_handler(HTTPException, http_error)


def document(error: ServiceError, request_id: str) -> dict[str, Any]:
    """What a problem document says."""
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
        **error.about,
    }


def response(error: ServiceError) -> Response:
    """The problem document for `error`, with the request id of the request under way."""
    headers = {"Cache-Control": "no-store"}
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    if error.attempts is not None:
        headers["X-Upstream-Attempts"] = str(error.attempts)
    if error.discourages_retry:
        headers["X-Should-Retry"] = "false"  # OpenAI's clients heed it: the same again may cost again
    if isinstance(error, SlowUpload):
        headers["Connection"] = "close"  # the rest of the body is still on its way
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, MethodNotAllowed):
        headers["Allow"] = error.allow
    if isinstance(error, RangeNotSatisfiable):
        headers["Content-Range"] = f"bytes */{error.size}"
    # Lone surrogates, which a detail could hold from the request, are escaped; so every document is valid UTF-8.
    content = json.dumps(document(error, logs.request_id.get()))
    return Response(content, error.status, headers, MEDIA_TYPE)


def documented(*errors: type[ServiceError]) -> dict[int | str, dict[str, Any]]:
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


def merged(*documents: dict[int | str, dict[str, Any]]) -> dict[int | str, dict[str, Any]]:
    """What a route's OpenAPI entry says of its failures, where several descriptions have the same status."""
    merged: dict[int | str, dict[str, Any]] = {}
    for document in documents:
        for status, about in document.items():
            if status in merged and MEDIA_TYPE in about.get("content", {}):
                before = merged[status]
                (old,), (new,) = before["content"].values(), about["content"].values()
                merged[status] = {
                    "description": f"{before['description']}; {about['description']}",
                    "content": {MEDIA_TYPE: old | {"examples": old["examples"] | new["examples"]}},
                }
            else:
                merged[status] = about
    return merged


_USED = Usage(prompt_tokens=12, output_tokens=208, thoughts_tokens=208, total_tokens=220, estimated_cost_usd=0.00252)
_EXAMPLES: tuple[ServiceError, ...] = (
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
    StorageUnavailable("The database of chats does not answer, or not as it should.", part="database", retry_after=10),
    StorageFull("The store of images is full; nothing more can be kept.", part="blobs", retry_after=10),
    StorageDamaged("An image of this chat is missing from the store of images.", part="blobs"),
    RangeNotSatisfiable("The file has 1,024 bytes.", size=1024),
)


def _example(class_: type[ServiceError]) -> dict[str, Any]:
    fitting = (error for error in _EXAMPLES if type(error) is class_)
    return document(next(fitting, None) or class_(f"{class_.title}."), "req_1d0f6c6be5a04b1e9d53a1d0a4a5c7fb")


def note(error: ServiceError, *, log_sensitive: bool = False) -> None:
    """Write a failure into the log."""
    quote = {"quote": error.quote} if log_sensitive and error.quote else {}
    members = error.members()
    log.log(
        logging.WARNING if error.status >= 500 or error.status == 429 else logging.INFO,
        "problem %s",
        error.code,
        extra={
            "cause": error.cause,
            "finishReason": members.get("finishReason"),
            "blockReason": members.get("blockReason"),
            "fields": ",".join(map(_known, members.get("errors", ()))) or None,
        }
        | quote,
    )


def _logged(error: ServiceError, log_sensitive: bool) -> Response:
    note(error, log_sensitive=log_sensitive)
    return response(error)


def _known(error: dict[str, str]) -> str:
    """A field's name for the log. One that we do not know is the caller's own text, a prompt perhaps."""
    name = re.split(r"[\[.]", error["field"])[0]
    return error["field"] if name in _FIELDS else "?"


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
    if error.status_code == 404:
        return NotFound("There is no such route; /docs lists them.")
    if error.status_code == 405:
        allow = (error.headers or {}).get("Allow", "")
        return MethodNotAllowed(f"This route takes {allow or 'another method'}.", allow=allow)
    if error.status_code == 413:
        return TooLarge("The request body is larger than this service takes.")
    return Internal("Something broke in this service; its log knows more.", cause=f"HTTP {error.status_code}")
