"""Doing what a valid request asks, and answering in the shape it wants: JSON, the image's own bytes, or events."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from fastapi import Depends, Request, Response
from starlette.types import Receive

from app.api.http.dependencies import AttendanceDep, ImagesDep, PaceDep, SettingsDep, made_of
from app.api.http.negotiation import AcceptedFormats
from app.api.http.problems import GENERATION, problem_responses
from app.api.http.response_writer import WriteOptions, wait_until_gone
from app.api.images.events import EventStreamResponse
from app.api.images.rendering import EXPOSED_HEADERS, render
from app.api.images.response import EXAMPLE, GenerationRead
from app.domain import errors
from app.domain.errors import ServiceError
from app.domain.generation import Generation
from app.domain.progress import ProgressEvent
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
    images: ImagesDep
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
        self.attendance.admit()
        setattr(self.request.state, GENERATION, False)  # from here on the run counts it
        options = WriteOptions(self.scheduler, self.settings.deadline_seconds, self.attendance.fail)
        generate = turn.generate if turn else partial(self.images.generate, plan)

        def keep(work: asyncio.Task[Generation]) -> None:
            """Let a chat turn go on without its caller: it still needs the uploads."""
            assert turn is not None
            turn.detach(work)
            self.request.state.upload.retain()
            work.add_done_callback(lambda _: self.request.state.upload.release())

        async def make(receive: Receive, listener: Callable[[ProgressEvent], None] | None = None) -> Generation:
            gone = partial(wait_until_gone, receive, self.request.scope)
            return await self.attendance.generate(plan, generate, gone, listener, on_detach=keep if turn else None)

        def problem(error: Exception) -> dict[str, Any]:
            expected = error if isinstance(error, ServiceError) else self.attendance.unexpected(error)
            document: dict[str, Any] = self.request.state.reporter.document(expected, self.request.scope)
            return document

        if wanted.events:
            response: Response = EventStreamResponse(
                make,
                problem,
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
