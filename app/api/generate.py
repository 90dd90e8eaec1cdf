"""The three routes that make images."""

import mmap
from dataclasses import dataclass, replace
from functools import partial
from itertools import zip_longest
from typing import Annotated, Any, Self

from fastapi import APIRouter, Depends, Form, Request, Response, UploadFile
from starlette.formparsers import MultiPartParser

from app import errors
from app.api.answers import EXAMPLE, EXPOSED_HEADERS, GROUNDING_EXAMPLE, GenerationRead, answer
from app.api.dependencies import AttendanceDep, ImagesDep, PaceDep, ReferencesDep, SettingsDep, body_of, caller
from app.api.events import Events
from app.api.inline import LiftedRequest, LiftingRoute
from app.api.negotiation import AnswerWanted, Wanted
from app.api.problems import documented
from app.api.sending import Sending
from app.api.wire import FormCreate, GenerationCreate, GenerationOptions
from app.domain import Caller, GenerationRequest, Reference
from app.lifting import Data
from app.service.references import Upload

_BINARY = {"schema": {"type": "string", "contentMediaType": "application/octet-stream"}}
_EVENTS = {
    "schema": {"type": "string"},
    "example": 'event: started\ndata: {"requestId":"req_…","model":"gemini-3-pro-image","attempt":1}\n\n'
    ": still at it\n\nevent: image\ndata: {…}\n\nevent: done\ndata: {}\n\n",
}
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The image: JSON by default, its own bytes for `Accept: image/*`, events for "
        "`text/event-stream`.",
        "model": GenerationRead,
        "content": {
            "application/json": {"example": EXAMPLE},
            "image/jpeg": _BINARY,
            "image/png": _BINARY,
            "text/event-stream": _EVENTS,
        },
        "headers": {name: {"schema": {"type": "string"}} for name in EXPOSED_HEADERS if name != "Retry-After"},
    },
    **documented(
        errors.InvalidJson,
        errors.InvalidForm,
        errors.Unauthorized,
        errors.ForbiddenOrigin,
        errors.NotAcceptable,
        errors.SlowUpload,
        errors.TooLarge,
        errors.UnsupportedMediaType,
        errors.UnsupportedImage,
        errors.InvalidRequest,
        errors.ContentBlocked,
        errors.Recitation,
        errors.NoImage,
        errors.QuotaExhausted,
        errors.Internal,
        errors.UpstreamError,
        errors.UpstreamInvalidResponse,
        errors.UpstreamRejectedCredentials,
        errors.UpstreamBusy,
        errors.UpstreamTimeout,
        errors.Overloaded,
    ),
}


@dataclass(frozen=True, slots=True)
class Asked:
    """A valid request, and the kind of answer it wants."""

    request: GenerationRequest
    wanted: Wanted

    @classmethod
    def of(cls, body: GenerationOptions, references: tuple[Reference, ...], wanted: Wanted) -> Self:
        wanted = replace(wanted, with_url=body.response_format == "data_url")
        return cls(body.to_domain(references, wanted.insisted_types), wanted)


router = APIRouter(
    prefix="/generate-image",
    tags=["images"],
    responses=_ANSWERS,
    default_response_class=Response,
    route_class=LiftingRoute,
    dependencies=[Depends(caller)],
)


async def _from_json(
    body: GenerationCreate, request: Request, wanted: AnswerWanted, references: ReferencesDep
) -> Asked:
    assert isinstance(request, LiftedRequest)
    uploads: list[Upload] = []
    wrong: list[errors.FieldError] = []
    for index, one in enumerate(body.reference_images):
        where, file = f"referenceImages[{index}]", request.file(one.url or one.data or "")
        if one.url is not None and file.declaration is None:
            wrong.append(errors.FieldError(where, "url must be a data URL; this service fetches nothing"))
        elif not file.valid:
            wrong.append(errors.FieldError(where, "is not valid base64, or a data URL of that"))
        uploads.append(Upload(file.data, where, one.role, one.name or None))
    if wrong:
        raise errors.InvalidRequest(wrong)
    return Asked.of(body, await references.take(uploads), wanted)


async def _from_form(
    form: Annotated[FormCreate, Form(media_type="multipart/form-data")],
    wanted: AnswerWanted,
    references: ReferencesDep,
) -> Asked:
    uploads = [
        Upload(await _contents(file), f"images[{index}]", role, name or None)
        for index, (file, role, name) in enumerate(zip_longest(form.images, form.roles, form.names))
    ]
    return Asked.of(form, await references.take(uploads), wanted)


async def _contents(file: UploadFile) -> Data:
    """A large file stays on the disk that the form parser has put it on."""
    if (file.size or 0) <= MultiPartParser.spool_max_size:
        return await file.read()
    return mmap.mmap(file.file.fileno(), 0, access=mmap.ACCESS_READ)


AskedInJson = Annotated[Asked, Depends(_from_json)]
AskedInForm = Annotated[Asked, Depends(_from_form)]


@dataclass(frozen=True, slots=True)
class _Answering:
    """What the three routes do with a valid request."""

    request: Request
    caller: Annotated[Caller, Depends(caller)]
    images: ImagesDep
    attendance: AttendanceDep
    settings: SettingsDep
    pace: PaceDep

    async def answer(self, asked: Asked) -> Response:
        plan = self.images.plan(asked.request, self.caller)
        patience, most = self.settings.slow_caller_seconds, self.settings.deadline_seconds
        sending = Sending(self.pace, patience, most, self.attendance.failed)
        if asked.wanted.events:
            make = partial(self.attendance.make, plan)
            heartbeat = self.settings.heartbeat_seconds
            return Events(make, plan.model.id, sending, with_url=asked.wanted.with_url, heartbeat_seconds=heartbeat)
        return answer(await self.attendance.make(plan, self.request.receive), asked.wanted, sending)


Answering = Annotated[_Answering, Depends()]


@router.post("", dependencies=[Depends(body_of("application/json"))])
async def generate(asked: AskedInJson, answering: Answering) -> Response:
    """Generate an image from a prompt, and from reference images given inline."""
    return await answering.answer(asked)


@router.post("/with-references", dependencies=[Depends(body_of("multipart/form-data"))])
async def generate_with_references(asked: AskedInForm, answering: Answering) -> Response:
    """Generate an image from a prompt and uploaded reference images: editing, compositing, consistent characters."""
    return await answering.answer(asked)


@router.post(
    "/with-search",
    dependencies=[Depends(body_of("application/json"))],
    responses={
        200: _ANSWERS[200]
        | {
            "content": _ANSWERS[200]["content"]
            | {"application/json": {"example": EXAMPLE | {"grounding": GROUNDING_EXAMPLE}}}
        }
    },
)
async def generate_with_search(asked: AskedInJson, answering: Answering) -> Response:
    """Generate an image grounded in Google Search.

    Google obliges you to show `grounding` to whoever wrote the prompt.
    """
    return await answering.answer(replace(asked, request=replace(asked.request, google_search=True)))
