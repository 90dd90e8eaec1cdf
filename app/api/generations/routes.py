"""The routes of recorded generations: their documents, images and events, and deleting them."""

from dataclasses import replace
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Request, Response

from app.api.chats.parameters import EDGE_ERRORS, STORAGE_ERRORS
from app.api.generations.document import generation_document
from app.api.generations.events import LAST_EVENT, GenerationEventsResponse
from app.api.generations.links import generation_path
from app.api.generations.parameters import (
    GENERATION_ID_PATTERN,
    Expires,
    GenerationId,
    LastEvent,
    LinksDep,
    Signature,
    entity_tag,
    requested_generation,
    wait_for_change,
)
from app.api.generations.response import (
    EVENTS_RESPONSES,
    GENERATION_RESPONSES,
    RecordedGenerationsRead,
)
from app.api.http.cursors import read_cursor, write_cursor
from app.api.http.dependencies import CallerDep, RecordedDep, SettingsDep, caller, caller_unless_signed
from app.api.http.image_copy import FILE_RESPONSES, Width, image_response
from app.api.http.image_file import matches
from app.api.http.preferences import preferred_wait
from app.api.http.problem_responses import problem_responses
from app.api.http.recording import POLL_AFTER_SECONDS
from app.api.http.response_writer import while_connected
from app.api.http.signed_links import has_signature
from app.api.http.storage_response import StorageResponse
from app.domain import errors
from app.domain.recorded import RecordedGeneration

_ERRORS = problem_responses(
    *EDGE_ERRORS, *STORAGE_ERRORS, errors.InvalidRequest, errors.HeaderTooLarge, errors.Overloaded
)

router = APIRouter(prefix="/generations", tags=["generations"], responses=_ERRORS, dependencies=[Depends(caller)])

links_router = APIRouter(
    prefix="/generations",
    tags=["generations"],
    responses=problem_responses(
        *EDGE_ERRORS,
        errors.InvalidLink,
        errors.ExpiredLink,
        *STORAGE_ERRORS,
        errors.GenerationNotFound,
        errors.InvalidRequest,
        errors.HeaderTooLarge,
        errors.Overloaded,
    ),
    dependencies=[Depends(caller_unless_signed)],
)
"""The routes that signed links lead to."""

_FILE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Cross-Origin-Resource-Policy": "cross-origin",
}
"""A browser that opens the file as a page runs nothing in it. Its type is always one of the service's image types."""


@router.get("", response_model=RecordedGenerationsRead)
async def list_generations(
    caller: CallerDep,
    recorded: RecordedDep,
    links: LinksDep,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[str | None, Query(max_length=200, description="`nextCursor` of the previous page.")] = None,
) -> Response:
    """List your recorded generations, newest first."""
    found = await recorded.page(caller, limit + 1, read_cursor(cursor, GENERATION_ID_PATTERN))
    page, more = found[:limit], len(found) > limit
    document = {
        "generations": [generation_document(generation, links) for generation in page],
        "nextCursor": write_cursor(page[-1].created_at, page[-1].id) if more else None,
    }
    return StorageResponse.json(document, {"Cache-Control": "no-store"})


@router.get("/{generation_id}", responses=GENERATION_RESPONSES | problem_responses(errors.GenerationNotFound))
async def get_generation(
    generation_id: GenerationId,
    request: Request,
    caller: CallerDep,
    recorded: RecordedDep,
    links: LinksDep,
    settings: SettingsDep,
    _prefer: Annotated[
        str | None,
        Header(
            alias="prefer",
            description="`wait=N`: answer when the generation is over, or after N seconds. With `If-None-Match`: when "
            "its state has changed.",
        ),
    ] = None,
    if_none_match: Annotated[str | None, Header(description="An `ETag` that you have.")] = None,
) -> Response:
    """Get a generation: its state, and its result or problem."""

    def is_awaited(generation: RecordedGeneration) -> bool:
        known = if_none_match is None or matches(if_none_match, entity_tag(generation, links))
        return known and not generation.is_final

    generation = await recorded.get(generation_id, caller)
    wait = preferred_wait(request.headers)
    seconds = min(wait or 0, int(settings.deadline_seconds))
    if seconds and is_awaited(generation):
        read = partial(recorded.get, generation_id, caller)
        changed = wait_for_change(generation, is_awaited, read, request, seconds)
        generation = await while_connected(changed, request.receive)
    etag = entity_tag(generation, links)
    headers = {"ETag": f"W/{etag}", "Cache-Control": "private, no-cache"}
    if wait is not None:
        headers["Preference-Applied"] = f"wait={seconds}"
    if not generation.is_final:
        headers["Retry-After"] = str(POLL_AFTER_SECONDS)
    if matches(if_none_match, etag):
        return Response(status_code=304, headers=headers)
    return StorageResponse.json(generation_document(generation, links), headers)


@router.delete(
    "/{generation_id}",
    status_code=204,
    responses=problem_responses(errors.GenerationNotFound, errors.AlreadyAsked),
)
async def delete_generation(generation_id: GenerationId, caller: CallerDep, recorded: RecordedDep) -> None:
    """Cancel a generation before Gemini is asked, or forget one that is over, with its images.

    While the image is being made it is too late: it will be paid for and kept.
    """
    await recorded.delete(generation_id, caller)


@links_router.head("/{generation_id}/image", include_in_schema=False)
@links_router.get(
    "/{generation_id}/image",
    response_class=Response,
    responses=FILE_RESPONSES
    | problem_responses(
        errors.GenerationNotFound, errors.ImageNotFound, errors.GenerationInProgress, errors.RangeNotSatisfiable
    ),
)
async def get_generation_image(
    generation_id: GenerationId,
    request: Request,
    links: LinksDep,
    width: Width = None,
    index: Annotated[int, Query(ge=0, le=63, description="Position of the image in the result, from 0.")] = 0,
    _expires: Annotated[Expires, Query(alias="expires")] = None,
    _signature: Annotated[Signature, Query(alias="signature")] = None,
) -> Response:
    """Get an image of a generation. It never changes, so it can be cached without limit.

    Ranges and `If-None-Match` work. With a signed link, no key is needed.
    """
    generation = await requested_generation("image", generation_id, request, links)
    if not generation.is_final:
        raise errors.GenerationInProgress(
            "The image is still being made.",
            location=generation_path(generation_id, request),
            retry_after=POLL_AFTER_SECONDS,
        )
    if index >= len(generation.generations):
        raise errors.ImageNotFound("This generation has no image, or not so many.")
    name = f"{generation_id}-{index + 1}" if index else generation_id
    response = image_response(generation.generations[index].image, width, name, request)
    response.headers.update(_FILE_HEADERS)
    return response


@links_router.get("/{generation_id}/events", response_class=Response, responses=EVENTS_RESPONSES)
async def get_generation_events(
    generation_id: GenerationId,
    request: Request,
    recorded: RecordedDep,
    links: LinksDep,
    last_event: LastEvent,
    _expires: Annotated[Expires, Query(alias="expires")] = None,
    _signature: Annotated[Signature, Query(alias="signature")] = None,
) -> Response:
    """Watch a generation: an event for each state, with the document at that time. The stream ends with the generation.

    A browser's `EventSource` can use the signed link.
    """
    generation = await requested_generation("events", generation_id, request, links)
    if generation.is_final and last_event >= LAST_EVENT:
        return Response(status_code=204, headers={"Cache-Control": "no-store"})
    if has_signature(request.scope):
        links = replace(links, latest=float(request.query_params["expires"]))
    read = partial(recorded.get_linked, generation_id)  # the caller may read this generation
    return GenerationEventsResponse(generation, last_event, read, partial(recorded.changed, generation_id), links)
