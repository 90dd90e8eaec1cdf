"""The response to a request whose generation is recorded: the plain one, or 202 for one that goes on."""

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from fastapi import Request, Response
from starlette.types import Receive

from app.api.generations.document import generation_document, result_document
from app.api.generations.links import LinkMaker, link_maker
from app.api.http.event_stream import EventEncoder, EventStreamResponse, Job
from app.api.http.recording import POLL_AFTER_SECONDS, Recording
from app.api.http.state import request_state
from app.domain.errors import Internal, ServiceError, StorageError, StorageUnavailable
from app.domain.generation import Generation, GenerationRequest, Image
from app.domain.progress import ProgressEvent
from app.domain.recorded import Order, Outcome, RecordedGeneration
from app.service.recorded.attachment import Attachment

UrlOf = Callable[[Generation], str]


class Presentation(Protocol):
    """How an API shows the result of one request."""

    @property
    def links(self) -> bool:
        """Whether the response has links in place of the images."""
        ...

    @property
    def streams(self) -> bool:
        """Whether the response is a stream of events."""
        ...

    def render(self, outcomes: list[Outcome], recording: Recording) -> Response:
        """Return the response with the images, or raise the error."""
        ...

    def encoder(self, url_of: UrlOf | None) -> EventEncoder:
        """Return the encoder of the stream. `url_of` returns the link to a generation's image, if links are wanted."""
        ...


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    order: Order
    accepted: GenerationRequest
    """The request of the order with the media types that this caller accepts."""
    presentation: Presentation
    webhook_url: str | None = None


async def recorded_response(request: Request, recording: Recording, wanted: RecordedRequest) -> Response | None:
    """Record the request, and return its response. `None` if the request is not recorded.

    Raises:
        ServiceError: the generation failed, or cannot begin.
    """
    presentation = wanted.presentation
    attachment = await recording.submit(
        wanted.order, wanted.webhook_url, link=presentation.links, streams=presentation.streams
    )
    if attachment is None:
        return None
    if presentation.streams and not recording.options.is_async:
        return await _event_stream(request, recording, wanted)
    with _may_have_cost():
        answer = await recording.answer() if recording.waits else None
        if answer is None:
            return await _accepted(request, recording)
        attachment = recording.attachment or attachment  # another one if the request was submitted again
        deliver = partial(recording.delivery.outcome, answer, request=wanted.accepted, is_replay=attachment.is_replay)
        outcomes = [await deliver(place) for place in range(len(answer.outcomes))]
    has_image = any(isinstance(outcome, Generation) for outcome in outcomes)
    try:
        async with asyncio.timeout_at(recording.deadline):
            # An error that may have cost is stored before the caller gets it, and an image before its link.
            if not has_image:
                await attachment.settled()
            recorded = await stored_images(attachment) if presentation.links and has_image else None
    except TimeoutError:
        if not recording.options.is_async:
            raise recording.in_progress() from None
        with _may_have_cost():
            return await _accepted(request, recording)
    if recorded is not None:
        response = json_response(result_document(recorded, await link_maker(request)))
        response.headers["X-Generation-Id"] = recorded.id
    else:
        response = presentation.render(outcomes, recording)
    response.headers.update(recording.headers)
    if recording.options.is_async:
        response.headers["Preference-Applied"] = f"wait={recording.applied_wait}"
    return response


async def stored_images(attachment: Attachment) -> RecordedGeneration:
    """Return a recorded generation whose images are stored, so that links to them work.

    Raises:
        StorageUnavailable: an image was made and could not be stored.
    """
    with _may_have_cost():
        recorded = await attachment.recorded()
        if not recorded.generations:
            raise StorageUnavailable("The image was made and could not be stored, so there is no link.", part="blobs")
    return recorded


@contextmanager
def _may_have_cost() -> Iterator[None]:
    """Mark errors of the storage inside the block: the generation goes on, or is over, so it may have cost."""
    try:
        yield
    except StorageError as error:
        error.may_have_cost = True
        raise


def json_response(document: dict[str, object], status: int = 200) -> Response:
    return Response(json.dumps(document), status, {"Cache-Control": "no-store"}, "application/json")


async def _accepted(request: Request, recording: Recording) -> Response:
    """Return 202 with the generation's document."""
    assert recording.attachment is not None
    recorded = request_state(request.scope)["recorded"]
    generation = await recorded.get(recording.attachment.id, request_state(request.scope)["caller"])
    recording.attachment.count_replay(generation.outcomes)
    response = json_response(generation_document(generation, await link_maker(request)), 202)
    response.headers.update(recording.headers)
    response.headers["Location"] = recording.path
    response.headers["Preference-Applied"] = "respond-async"
    if not generation.is_final:
        response.headers["Retry-After"] = str(POLL_AFTER_SECONDS)
    return response


async def _event_stream(request: Request, recording: Recording, wanted: RecordedRequest) -> Response:
    links = await link_maker(request) if wanted.presentation.links else None
    images = _StreamedImages(recording, wanted.accepted, links)
    encoder = wanted.presentation.encoder(images.url_of if links else None)
    jobs = [Job(images, partial(images.generate, place)) for place in range(wanted.order.count)]
    upload = request_state(request.scope)["upload"]
    return EventStreamResponse(jobs, encoder, upload, recording.headers)


class _StreamedImages:
    """The images of a recorded generation for a stream of events."""

    def __init__(self, recording: Recording, accepted: GenerationRequest, links: LinkMaker | None) -> None:
        self._recording = recording
        self._accepted = accepted
        self._links = links
        self._urls: dict[str, str] = {}

    async def generate(
        self, place: int, _receive: Receive, listener: Callable[[ProgressEvent], None] | None = None
    ) -> Generation:
        """Return the image with this index once it is stored, or raise its error."""
        recording = self._recording
        assert recording.attachment is not None
        if listener is not None:
            recording.attachment.listen(place, listener)
        answer = await recording.answer()
        assert answer is not None
        is_replay = recording.attachment.is_replay
        outcome = await recording.delivery.outcome(answer, place, self._accepted, is_replay=is_replay)
        if isinstance(outcome, ServiceError):
            await recording.attachment.settled()
            raise outcome
        await recording.attachment.kept()
        if self._links is not None:
            recorded = await stored_images(recording.attachment)
            index = [generation.id for generation in recorded.generations].index(outcome.id)
            self._urls[outcome.id] = self._links.image(recorded, index)
        return outcome

    def url_of(self, generation: Generation) -> str:
        return self._urls[generation.id]

    async def convert(self, image: Image) -> Image:
        return await self._recording.delivery.draft(image, self._accepted)

    def fail(self, error: ServiceError) -> None:
        self._recording.fail(error)

    def unexpected(self, error: Exception) -> ServiceError:
        internal = Internal()
        internal.__cause__ = error
        return internal
