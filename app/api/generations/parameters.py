"""Parameters and headers of the generation routes."""

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends, Header, Path, Query, Request

from app.api.generations.links import LinkMaker, Purpose, link_maker
from app.api.http.signed_links import has_signature
from app.api.http.state import request_state
from app.domain.errors import GenerationNotFound
from app.domain.recorded import RecordedGeneration

GENERATION_ID_PATTERN = r"gen_[0-9a-f]{32}"


async def _generation_id(generation_id: Annotated[str, Path()]) -> str:
    if not re.fullmatch(GENERATION_ID_PATTERN, generation_id):
        raise GenerationNotFound("There is no such generation, or it was deleted.")
    return generation_id


async def _last_event(
    header: Annotated[
        str | None, Header(alias="last-event-id", description="Id of the last event that you have.")
    ] = None,
    query: Annotated[str | None, Query(alias="lastEventId", description="The same as the header.")] = None,
) -> int:
    """Return the id of the last event that the caller has; 0 for none."""
    last = header or query or ""
    return int(last) if re.fullmatch(r"[1-9]", last) else 0


GenerationId = Annotated[str, Depends(_generation_id)]
LinksDep = Annotated[LinkMaker, Depends(link_maker)]
LastEvent = Annotated[int, Depends(_last_event)]
Expires = Annotated[str | None, Query(description="Of a signed link: the Unix time at which it expires.")]
Signature = Annotated[str | None, Query(description="Of a signed link, which works without a key.")]


async def requested_generation(purpose: Purpose, id_: str, request: Request, links: LinkMaker) -> RecordedGeneration:
    """Return the generation if the caller owns it, or if the request has a signed link to it.

    Raises:
        InvalidLink, ExpiredLink: the link is not valid, or not any more.
        GenerationNotFound: there is none, or it belongs to another caller.
    """
    state = request_state(request.scope)
    if has_signature(request.scope):
        links.check(purpose, id_, request.query_params)
        return await state["recorded"].get_linked(id_)
    return await state["recorded"].get(id_, state["caller"])


async def wait_for_change(
    generation: RecordedGeneration,
    is_awaited: Callable[[RecordedGeneration], bool],
    read: Callable[[], Awaitable[RecordedGeneration]],
    request: Request,
    seconds: float,
) -> RecordedGeneration:
    """Return the generation when `is_awaited` is false, after so many seconds, or when the service stops.

    Args:
        generation: as it is now.
        is_awaited: whether to wait longer if the generation is in this state.
        read: reads the generation again.
        request: of the caller.
        seconds: the most to wait.
    """
    state, time = request_state(request.scope), asyncio.get_running_loop().time
    end = time() + seconds
    while is_awaited(generation) and (left := end - time()) > 0:
        heartbeat = state["settings"].heartbeat_seconds
        await state["recorded"].changed(generation.id, generation.status, min(left, heartbeat))
        generation = await read()
        if state["admission"].draining:
            break
    return generation


def entity_tag(generation: RecordedGeneration, links: LinkMaker) -> str:
    """Return a tag that changes with the state of a generation, and before the links in its document expire."""
    seen = (
        generation.status.value,
        generation.started_at,
        generation.finished_at,
        generation.attempts,
        generation.is_converted,
        links.expires_at(generation),
    )
    return f'"{hashlib.sha256(repr(seen).encode()).hexdigest()[:32]}"'
