"""Doing what a valid request asks, and answering in the shape it wants: JSON, the image's own bytes, or events."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from fastapi import Depends, Request, Response

from app.api.http.dependencies import AttendanceDep, PaceDep, SettingsDep, made_of
from app.api.http.negotiation import AcceptedFormats
from app.api.http.problems import problem_responses
from app.api.http.response_writer import WriteOptions
from app.api.images.events import EventStreamResponse
from app.api.images.rendering import EXPOSED_HEADERS, render
from app.api.images.response import EXAMPLE, GenerationRead
from app.domain import errors
from app.service.chats.turn import PendingTurn
from app.service.generation.plan import GenerationPlan

_BINARY = {"schema": {"type": "string", "contentMediaType": "application/octet-stream"}}
_EVENTS = {
    "schema": {"type": "string"},
    "example": 'event: started\ndata: {"requestId":"req_…","model":"gemini-3-pro-image","attempt":1}\n\n'
    ": still at it\n\nevent: image\ndata: {…}\n\nevent: done\ndata: {}\n\n",
}
IMAGE_RESPONSES: dict[int | str, dict[str, Any]] = {
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
    **problem_responses(
        errors.InvalidJson,
        errors.InvalidForm,
        errors.Unauthorized,
        errors.ForbiddenOrigin,
        errors.ForbiddenHost,
        errors.NotAcceptable,
        errors.UploadTimeout,
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
class ImageResponder:
    request: Request
    attendance: AttendanceDep
    settings: SettingsDep
    scheduler: PaceDep

    async def answer(
        self,
        plan: GenerationPlan,
        wanted: AcceptedFormats,
        *,
        turn: PendingTurn | None = None,
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
        options = WriteOptions(self.scheduler, self.settings.deadline_seconds, self.attendance.fail)
        make = partial(self.attendance.make, plan, turn=turn)
        if wanted.events:
            response: Response = EventStreamResponse(
                make,
                self.attendance.problem,
                plan.model.id,
                options,
                with_url=wanted.with_url,
                heartbeat_seconds=self.settings.heartbeat_seconds,
            )
        else:
            response = render(await make(self.request.receive), wanted, options)
        response.status_code = status
        response.headers.update(headers or {})
        return response


Answering = Annotated[ImageResponder, Depends(made_of(ImageResponder))]
