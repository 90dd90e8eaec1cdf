"""Generating the image of a valid request, and choosing its response: JSON, the image's bytes, or events."""

from functools import partial

from fastapi import Request, Response

from app.api.http.event_stream import EventStreamResponse, Job
from app.api.http.generating import generate
from app.api.http.negotiation import AcceptedFormats
from app.api.http.state import request_state
from app.api.images.events import GenerationEvents
from app.api.images.rendering import render
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
    make = partial(generate, run, plan, request.scope, turn=turn)
    if formats.events:
        events = GenerationEvents(plan.model.id, with_url=formats.with_url)
        return EventStreamResponse([Job(run, make)], events, state["upload"])
    return render(await make(request.receive), formats, run.fail)
