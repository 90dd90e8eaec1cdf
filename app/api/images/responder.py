"""Generating the image of a valid request, and choosing its response: JSON, the image's bytes, or events."""

from dataclasses import dataclass, replace
from functools import partial

from fastapi import Request, Response

from app.api.generations.recorded_response import RecordedRequest, UrlOf, recorded_response
from app.api.http.event_stream import EventStreamResponse, Job
from app.api.http.generating import generate
from app.api.http.limits import charge_of, plan_within_limits, reserve
from app.api.http.negotiation import AcceptedFormats
from app.api.http.recording import Recording
from app.api.http.state import request_state
from app.api.images.events import GenerationEvents
from app.api.images.rendering import render
from app.api.images.request import ParsedRequest
from app.domain.generation import Generation
from app.domain.recorded import Order, Outcome, TurnOrder
from app.service.chats.turn import PendingTurn
from app.service.generation.plan import GenerationPlan
from app.service.generation.run import GenerationRun


async def respond(request: Request, run: GenerationRun, parsed: ParsedRequest, recording: Recording) -> Response:
    """Generate the image of a request outside of a chat, recorded if need be. Arguments and errors as below."""
    plan = await plan_within_limits(request.scope, parsed.generation, recording.options.idempotency_key)
    recorded = await respond_recorded(request, recording, parsed, plan)
    return recorded or await respond_plainly(request, run, plan, parsed.formats)


async def respond_plainly(
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
        LimitReached: the request is over a limit of its caller.
        ServiceError: the generation failed, and no event stream has begun.
    """
    run.admit()
    await reserve(request.scope, plan, [run])
    state = request_state(request.scope)
    state["generation_pending"] = False
    make = partial(generate, run, plan, request.scope, turn=turn)
    if formats.events:
        events = GenerationEvents(plan.model.id, with_url=formats.with_url)
        return EventStreamResponse([Job(run, make)], events, state["upload"])
    return render(await make(request.receive), formats, run.fail)


async def respond_recorded(
    request: Request,
    recording: Recording,
    parsed: ParsedRequest,
    plan: GenerationPlan | None = None,
    turn: TurnOrder | None = None,
) -> Response | None:
    """Return the response of a recorded generation; `None` if the request is not recorded.

    Args:
        request: of the caller; its body has been read.
        recording: of the request.
        parsed: the request.
        plan: what to generate. For a turn it is needed only if the caller has limits.
        turn: of a request for a turn of a chat.

    Raises:
        ServiceError: the generation failed, or cannot begin.
    """
    order = Order(
        request_state(request.scope)["caller"],
        replace(parsed.generation, accepted_types=()),
        turn=turn,
        charge=charge_of(request.scope, plan, 1) if plan else None,
        view={"api": "images", "responseFormat": parsed.response_format},
    )
    model = plan.model.id if plan and turn is None else parsed.generation.model
    presentation = _Presentation(parsed.formats, model, parsed.response_format == "url")
    return await recorded_response(
        request, recording, RecordedRequest(order, parsed.generation, presentation, parsed.webhook_url)
    )


@dataclass(frozen=True, slots=True)
class _Presentation:
    """How the native routes show a recorded generation."""

    formats: AcceptedFormats
    model: str | None
    wants_link: bool

    @property
    def links(self) -> bool:
        return self.wants_link and not self.formats.image_types

    @property
    def streams(self) -> bool:
        return self.formats.events

    def render(self, outcomes: list[Outcome], recording: Recording) -> Response:
        assert recording.attachment is not None
        outcome = outcomes[0]
        if not isinstance(outcome, Generation):
            raise outcome
        return render(outcome, self.formats, recording.fail, before_end=recording.attachment.kept)

    def encoder(self, url_of: UrlOf | None) -> GenerationEvents:
        return GenerationEvents(self.model, with_url=self.formats.with_url, url_of=url_of)
