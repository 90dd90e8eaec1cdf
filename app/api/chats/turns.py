"""The routes that add a turn to a chat."""

import re
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, Form, Header, Request, Response

from app.api.chats.parameters import ChatId
from app.api.chats.request import TurnCreate, TurnForm
from app.api.chats.response import TURN_RESPONSES
from app.api.http.dependencies import CallerDep, ChatsDep, ReferencesDep, RunDep, caller, require_content_type
from app.api.http.generation_route import FormRoute, GenerationRoute
from app.api.http.limits import plan_within_limits
from app.api.http.negotiation import FormatsDep
from app.api.http.recording import Recording, RecordingDep
from app.api.http.state import request_state
from app.api.images.references import inline_references, uploaded_references
from app.api.images.request import ParsedRequest
from app.api.images.responder import respond_plainly, respond_recorded
from app.domain.caller import Caller
from app.domain.chat import ChatDefaults
from app.domain.errors import CallerError
from app.domain.recorded import TurnOrder
from app.service.chats.service import ChatService, TurnRequest
from app.service.generation.plan import GenerationPlan
from app.service.generation.run import GenerationRun

router = APIRouter(
    prefix="/chats",
    tags=["chats"],
    route_class=GenerationRoute,
    default_response_class=Response,
    dependencies=[Depends(caller)],
)


@dataclass(frozen=True, slots=True)
class ParsedTurn:
    """A valid request for a turn."""

    turn: TurnRequest
    parsed: ParsedRequest


async def _expected_turns(
    request: Request,
    _if_match: Annotated[
        str | None, Header(alias="if-match", description="The number of the latest turn that you know, in quotes.")
    ] = None,
) -> frozenset[int] | None:
    """Return the turns that `If-Match` allows as the latest turn. `None` allows any; tags that are no numbers match no
    turn."""
    if_match = ",".join(request.headers.getlist("if-match")).strip()
    if if_match in ("", "*"):
        return None
    tags = [re.fullmatch(r'\s*(?:W/)?"?(\d{1,10})"?\s*', tag) for tag in if_match.split(",")]
    return frozenset(int(tag[1]) for tag in tags if tag)


ExpectedTurns = Annotated[frozenset[int] | None, Depends(_expected_turns)]


async def _from_json(
    body: TurnCreate, request: Request, formats: FormatsDep, validator: ReferencesDep, expected: ExpectedTurns
) -> ParsedTurn:
    return _parsed_turn(body, body.parsed(await inline_references(body, request, validator), formats), expected)


async def _from_form(
    form: Annotated[TurnForm, Form(media_type="multipart/form-data")],
    formats: FormatsDep,
    validator: ReferencesDep,
    expected: ExpectedTurns,
) -> ParsedTurn:
    return _parsed_turn(form, form.parsed(await uploaded_references(form, validator), formats), expected)


def _parsed_turn(body: TurnCreate | TurnForm, parsed: ParsedRequest, expected: frozenset[int] | None) -> ParsedTurn:
    if body.after_turn is not None:
        after = frozenset({body.after_turn})
        expected = after if expected is None else after & expected
    given = frozenset(body.model_fields_set)
    return ParsedTurn(TurnRequest(parsed.generation, given, expected, body.replace_turn), parsed)


async def _exit_stack() -> AsyncGenerator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


ExitStackDep = Annotated[AsyncExitStack, Depends(_exit_stack)]
"""A stack that is closed after the response has been sent."""


async def respond_with_turn(
    request: Request,
    run: GenerationRun,
    stack: AsyncExitStack,
    chats: ChatService,
    caller: Caller,
    chat_id: str,
    turn: ParsedTurn,
) -> Response:
    """Add a turn to a chat and return its image. The lease of the chat is released when `stack` is closed."""
    pending = await chats.begin(chat_id, caller, turn.turn)
    stack.push_async_callback(pending.close_if_attached)
    return await respond_plainly(request, run, pending.plan, turn.parsed.formats, pending)


async def respond_with_recorded_turn(
    request: Request,
    recording: Recording,
    chat_id: str | None,
    turn: ParsedTurn,
    defaults: ChatDefaults | None = None,
) -> Response | None:
    """Add a turn to a chat as a recorded generation; return `None` if the request is not recorded.

    Args:
        request: of the caller; its body has been read.
        recording: of the request.
        chat_id: id of the chat; `None` for a chat that is created with this turn.
        turn: the turn.
        defaults: of the chat to create.

    Raises:
        ChatNotFound: the caller has no chat with this id.
    """
    wanted, state = turn.turn, request_state(request.scope)
    if recording.options.is_async and chat_id is not None:
        await state["chats"].outline(chat_id, state["caller"])  # a queued turn needs a chat
    expected = None if wanted.expected_last_turns is None else frozenset(wanted.expected_last_turns)
    order = TurnOrder(chat_id, wanted.given, defaults, expected, wanted.replace_turn)
    plan = await _plan_for_charge(request, recording, chat_id, turn)
    return await respond_recorded(request, recording, turn.parsed, plan, turn=order)


async def _plan_for_charge(
    request: Request, recording: Recording, chat_id: str | None, turn: ParsedTurn
) -> GenerationPlan | None:
    """Return what the turn will generate as the chat is now, if its caller has limits and it is recorded.

    Raises:
        ServiceError: the turn cannot be made, and the caller has not asked for it before with the same key.
    """
    state, key, requested = request_state(request.scope), recording.options.idempotency_key, turn.parsed.generation
    caller = state["caller"]
    if not caller.limits.need_reservation or not recording.is_wanted(link=turn.parsed.response_format == "url"):
        return None
    if chat_id is None:
        return await plan_within_limits(request.scope, requested, key)
    try:
        return await state["chats"].preview(chat_id, caller, turn.turn)
    except CallerError:
        if not await state["recorded"].has_key(caller, key):
            raise
        return state["images"].plan(requested)


async def _add_turn_with_files(
    chat_id: ChatId,
    parsed: Annotated[ParsedTurn, Depends(_from_form)],
    request: Request,
    caller: CallerDep,
    chats: ChatsDep,
    run: RunDep,
    stack: ExitStackDep,
    recording: RecordingDep,
) -> Response:
    recorded = await respond_with_recorded_turn(request, recording, chat_id, parsed)
    return recorded or await respond_with_turn(request, run, stack, chats, caller, chat_id, parsed)


router.add_api_route(
    "/{chat_id}/turns",
    _add_turn_with_files,
    methods=["POST"],
    include_in_schema=False,  # the JSON route describes both
    route_class_override=FormRoute,
)


@router.post(
    "/{chat_id}/turns",
    dependencies=[Depends(require_content_type("application/json", or_form=True))],
    responses=TURN_RESPONSES,
    openapi_extra={
        "requestBody": {"content": {"multipart/form-data": {"schema": {"$ref": "#/components/schemas/TurnForm"}}}}
    },
)
async def add_turn(
    chat_id: ChatId,
    parsed: Annotated[ParsedTurn, Depends(_from_json)],
    request: Request,
    caller: CallerDep,
    chats: ChatsDep,
    run: RunDep,
    stack: ExitStackDep,
    recording: RecordingDep,
) -> Response:
    """Ask for a change. Gemini gets all earlier turns of the chat with their images; you send only what is new.

    A chat generates one turn at a time; during this time other requests for a turn get 409. A turn that Gemini refuses
    is stored, and later turns do not build on it. If you disconnect after Gemini was asked, the turn is finished and
    stored.
    """
    recorded = await respond_with_recorded_turn(request, recording, chat_id, parsed)
    return recorded or await respond_with_turn(request, run, stack, chats, caller, chat_id, parsed)
