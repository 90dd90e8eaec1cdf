"""Doing what a valid request asks, and answering in the shape it wants: JSON, the image's own bytes, or events."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from fastapi import Depends, Request, Response

from app.api.http.dependencies import AttendanceDep, PaceDep, SettingsDep, made_of
from app.api.http.negotiation import Wanted
from app.api.http.problems import documented
from app.api.http.response_writer import Sending
from app.api.images.events import Events
from app.api.images.rendering import EXPOSED_HEADERS, answer
from app.api.images.response import EXAMPLE, GenerationRead
from app.domain import errors
from app.service.chats.turn import OpenTurn
from app.service.generation.plan import Plan

_BINARY = {"schema": {"type": "string", "contentMediaType": "application/octet-stream"}}
_EVENTS = {
    "schema": {"type": "string"},
    "example": 'event: started\ndata: {"requestId":"req_…","model":"gemini-3-pro-image","attempt":1}\n\n'
    ": still at it\n\nevent: image\ndata: {…}\n\nevent: done\ndata: {}\n\n",
}
ANSWERS: dict[int | str, dict[str, Any]] = {
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
        errors.ForbiddenHost,
        errors.NotAcceptable,
        errors.SlowUpload,
        errors.HeaderTooLarge,
        errors.TooLarge,
        errors.UnsupportedMediaType,
        errors.UnsupportedImage,
        errors.InvalidRequest,
        errors.ContentBlocked,
        errors.Recitation,
        errors.NoImage,
        errors.QuotaExhausted,
        errors.BillingExhausted,
        errors.Internal,
        errors.UpstreamError,
        errors.UpstreamInvalidResponse,
        errors.UpstreamRejectedCredentials,
        errors.UpstreamBusy,
        errors.UpstreamTimeout,
        errors.Overloaded,
    ),
}
"""What the OpenAPI document says of a route that makes an image."""


@dataclass(frozen=True, slots=True)
class _Answering:
    request: Request
    attendance: AttendanceDep
    settings: SettingsDep
    pace: PaceDep

    async def answer(
        self,
        plan: Plan,
        wanted: Wanted,
        *,
        turn: OpenTurn | None = None,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """Make the image.

        Args:
            plan: what to make.
            wanted: the shape of the answer.
            turn: of a chat, where it is kept.
            status: of a good answer.
            headers: further ones.
        """
        sending = Sending(self.pace, self.settings.deadline_seconds, self.attendance.failed)
        make = partial(self.attendance.make, plan, turn=turn)
        if wanted.events:
            response: Response = Events(
                make,
                self.attendance.problem,
                plan.model.id,
                sending,
                with_url=wanted.with_url,
                heartbeat_seconds=self.settings.heartbeat_seconds,
            )
        else:
            response = answer(await make(self.request.receive), wanted, sending)
        response.status_code = status
        response.headers.update(headers or {})
        return response


Answering = Annotated[_Answering, Depends(made_of(_Answering))]
