"""Generating an image while the caller is connected. All routes that make images use it."""

import asyncio
from collections.abc import Callable
from functools import partial

from starlette.types import Receive, Scope

from app.api.http.response_writer import wait_until_gone
from app.api.http.state import request_state
from app.api.http.uploads import UploadBody
from app.domain.generation import Generation
from app.domain.progress import ProgressEvent
from app.service.chats.turn import PendingTurn
from app.service.generation.plan import GenerationPlan
from app.service.generation.run import GenerationRun


async def generate(
    run: GenerationRun,
    plan: GenerationPlan,
    scope: Scope,
    receive: Receive,
    listener: Callable[[ProgressEvent], None] | None = None,
    *,
    turn: PendingTurn | None = None,
) -> Generation:
    """Generate the image until the caller disconnects.

    Args:
        run: of this generation.
        plan: what to generate.
        scope: of the request; its body has been read.
        receive: of the request.
        listener: receives progress events. With a listener, Gemini is asked for a stream.
        turn: the turn of a chat that stores the image. It is generated to its end if Gemini was asked.

    Raises:
        ServiceError: as `GenerationRun.generate`.
    """
    state = request_state(scope)
    make = turn.generate if turn else partial(state["images"].generate, plan)
    on_detach = partial(_detach, turn, state["upload"]) if turn else None
    return await run.generate(plan, make, partial(wait_until_gone, receive, scope), listener, on_detach=on_detach)


def _detach(turn: PendingTurn, upload: UploadBody, work: asyncio.Task[Generation]) -> None:
    """Let the turn go on without its caller. Its references are still sent to Gemini, and stored."""
    turn.detach(work)
    upload.retain()
    work.add_done_callback(lambda _: upload.release())
