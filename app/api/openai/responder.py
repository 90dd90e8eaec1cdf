"""Generating the images of a valid request, all at once, as JSON or events."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from fastapi import Request, Response

from app.api.generations.recorded_response import RecordedRequest, UrlOf, recorded_response
from app.api.http.event_stream import EventStreamResponse, Job
from app.api.http.generating import generate
from app.api.http.limits import charge_of, plan_within_limits, reserve
from app.api.http.recording import Recording
from app.api.http.state import request_state
from app.api.openai.events import ImageEvents
from app.api.openai.parsed import ParsedImageRequest
from app.api.openai.rendering import Result, first_error, render
from app.domain.errors import FieldError, InvalidRequest, ServiceError
from app.domain.generation import Generation
from app.domain.recorded import Order, Outcome
from app.service.generation.run import GenerationRun
from app.settings import Settings


async def respond(
    request: Request, begin: Callable[[], GenerationRun], parsed: ParsedImageRequest, recording: Recording
) -> Response:
    """Generate the images and return those that succeed. Each image has a run and a slot of its own.

    Args:
        request: of the caller; its body has been read.
        begin: begins a run of this request.
        parsed: the request.
        recording: of the request.

    Raises:
        InvalidRequest: no model of Gemini can do it, or the service has fewer places than images.
        Overloaded: there is not space for all images in the queue, or the service stops.
        ServiceError: no image succeeded, and no event stream has begun. It is the first image's error.
    """
    state = request_state(request.scope)
    try:
        plan = await plan_within_limits(request.scope, parsed.generation, recording.options.idempotency_key)
    except InvalidRequest as error:
        raise parsed.with_field_names(error) from error
    _require_places(parsed.count, state["settings"])
    charge = charge_of(request.scope, plan, parsed.count)
    order = Order(state["caller"], parsed.generation, parsed.count, charge=charge, view=parsed.view)
    wanted = RecordedRequest(order, parsed.generation, _Presentation(parsed, request), parsed.webhook_url)
    try:
        recorded = await recorded_response(request, recording, wanted)
    except InvalidRequest as error:
        raise parsed.with_field_names(error) from error
    if recorded is not None:
        return recorded
    runs = [begin() for _ in range(parsed.count)]
    for run in runs:
        run.admit()
    await reserve(request.scope, plan, runs)
    state["generation_pending"] = False
    jobs = [Job(run, partial(generate, run, plan, request.scope)) for run in runs]
    if parsed.stream:
        return EventStreamResponse(jobs, ImageEvents(parsed), state["upload"])
    results = await _results(jobs, request)
    _require_an_image(results, parsed, request)
    return render(results, parsed, partial(_fail, runs))


def _require_an_image(results: Sequence[Result], parsed: ParsedImageRequest, request: Request) -> None:
    """Raise the first error if there is no image. Report the errors that no response reports."""
    errors = [result for result in results if isinstance(result, ServiceError)]
    succeeded = len(errors) < len(results)
    for unreported in errors if succeeded else errors[1:]:
        request_state(request.scope)["reporter"].report(unreported)
    if not succeeded:
        raise parsed.with_field_names(first_error(errors))


@dataclass(frozen=True, slots=True)
class _Presentation:
    """How `/v1` shows a recorded generation."""

    parsed: ParsedImageRequest
    request: Request

    @property
    def links(self) -> bool:
        return self.parsed.wants_link

    @property
    def streams(self) -> bool:
        return self.parsed.stream

    def render(self, outcomes: list[Outcome], recording: Recording) -> Response:
        attachment = recording.attachment
        assert attachment is not None
        _require_an_image(outcomes, self.parsed, self.request)
        return render(outcomes, self.parsed, recording.fail, attachment.created_at, attachment.kept)

    def encoder(self, url_of: UrlOf | None) -> ImageEvents:
        return ImageEvents(self.parsed, url_of)


def _require_places(count: int, settings: Settings) -> None:
    """Raise if so many images never have places at the same time. Clients would repeat a 503 in vain."""
    places = settings.max_in_flight + settings.max_queued
    if count > places:
        raise InvalidRequest([FieldError("n", f"must be at most {places}, the places that this service has")])


async def _results(jobs: list[Job], request: Request) -> list[Result]:
    """Generate all images. A failure does not end the others."""
    found: list[Result] = []
    outcomes = await asyncio.gather(*(job.generate(request.receive) for job in jobs), return_exceptions=True)
    for outcome in outcomes:
        if not isinstance(outcome, Generation | ServiceError):
            raise outcome
        found.append(outcome)
    return found


def _fail(runs: list[GenerationRun], error: ServiceError) -> None:
    for run in runs:
        run.fail(error)
