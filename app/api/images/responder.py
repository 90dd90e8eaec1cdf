"""Generating the image of a valid request, and choosing its response: JSON, the image's bytes, or events."""

import asyncio
from collections.abc import Callable
from functools import partial

from fastapi import Request, Response
from starlette.types import Receive, Scope

from app.api.http.negotiation import AcceptedFormats
from app.api.http.response_writer import wait_until_gone
from app.api.http.state import request_state
from app.api.http.uploads import UploadBody
from app.api.images.events import EventStreamResponse
from app.api.images.rendering import render
from app.domain.generation import Generation
from app.domain.progress import ProgressEvent
from app.service.chats.turn import PendingTurn
from app.service.generation.plan import GenerationPlan
from app.service.generation.run import GenerationRun


async def respond(
    request: Request,
    run: GenerationRun,
    plan: GenerationPlan,
    formats: AcceptedFormats,
    turn: PendingTurn | None = None,
) -> Response:
    """Generate the image and return it in the format that the caller prefers. Events start before the generation.

    Args:
        request: of the caller; its body has been read.
        run: of this request.
        plan: what to generate.
        formats: what the caller accepts.
        turn: the turn of a chat that stores the image.

    Raises:
        Overloaded: the queue is full, or the service stops.
        ServiceError: the generation failed, and no event stream has begun.
    """
    run.admit()
    state = request_state(request.scope)
    state["generation_pending"] = False
    generate = partial(_generate, run, plan, turn, request.scope)
    if formats.events:
        return EventStreamResponse(generate, run, plan.model.id, state["upload"], with_url=formats.with_url)
    return render(await generate(request.receive), formats, run.fail)


async def _generate(
    run: GenerationRun,
    plan: GenerationPlan,
    turn: PendingTurn | None,
    scope: Scope,
    receive: Receive,
    listener: Callable[[ProgressEvent], None] | None = None,
) -> Generation:
    """Generate the image until the caller disconnects. A turn is generated to its end if Gemini was asked."""
    state = request_state(scope)
    generate = turn.generate if turn else partial(state["images"].generate, plan)
    on_detach = partial(_detach, turn, state["upload"]) if turn else None
    return await run.generate(plan, generate, partial(wait_until_gone, receive, scope), listener, on_detach=on_detach)


def _detach(turn: PendingTurn, upload: UploadBody, work: asyncio.Task[Generation]) -> None:
    """Let the turn go on without its caller. Its references are still sent to Gemini, and stored."""
    turn.detach(work)
    upload.retain()
    work.add_done_callback(lambda _: upload.release())
