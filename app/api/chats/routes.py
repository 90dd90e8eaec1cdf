"""The routes for chats: images edited turn by turn. The service stores what Gemini needs again for the next turn."""

from collections.abc import AsyncGenerator
from dataclasses import fields
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response

from app.api.chats.parameters import CHAT_ID_PATTERN, EDGE_ERRORS, STORAGE_ERRORS, ChatId, stored_chats_router
from app.api.chats.request import ChatCreate, ForkCreate
from app.api.chats.response import (
    TURN_RESPONSES,
    ChatRead,
    ChatsRead,
    LinkedTurnGenerationRead,
    TurnGenerationRead,
    batches_of,
    chat_path,
    chat_pieces,
    chat_read,
    chats_read,
)
from app.api.chats.turns import ExitStackDep, ParsedTurn, respond_with_recorded_turn, respond_with_turn
from app.api.http.cursors import read_cursor, write_cursor
from app.api.http.dependencies import (
    CallerDep,
    ChatsDep,
    ImagesDep,
    ReferencesDep,
    RunDep,
    SettingsDep,
    caller,
    require_content_type,
)
from app.api.http.generation_route import ExtractingRoute
from app.api.http.limits import plan_within_limits, reserve
from app.api.http.negotiation import FormatsDep
from app.api.http.problem_responses import merge_responses, problem_responses
from app.api.http.recording import Recording, RecordingDep
from app.api.http.state import request_state
from app.api.http.storage_response import StorageResponse
from app.api.images.references import inline_references
from app.domain import errors
from app.domain.caller import Caller
from app.domain.chat import ChatDefaults
from app.domain.generation import GenerationRequest
from app.service.chats.service import ChatService, TurnRequest

_COPIES = 4
"""Copies of the turns' text in memory until it is sent: as read from the store, as values, and as JSON twice."""

_BASE_BYTES = 64 * 1024
"""Memory that even the shortest response takes."""

creation_router = APIRouter(
    prefix="/chats",
    tags=["chats"],
    route_class=ExtractingRoute,
    default_response_class=Response,
    dependencies=[Depends(caller)],
)
"""The routes that create a chat. `POST /chats` generates an image if it has a prompt."""

router = stored_chats_router()


async def _chat_response(chat_id: str, request: Request, chats: ChatService, caller: Caller) -> Response:
    """Return a chat with all its turns as JSON, in pieces that are read while it is sent.

    Raises:
        ChatNotFound: the caller has no chat with this id.
    """
    chat, sizes = await chats.outline(chat_id, caller)
    batches = batches_of(sizes)
    document = chat_read(chat, request, request_state(request.scope)["settings"])
    largest = len(chat.defaults.system_instruction or "") + max((size for _, _, size in batches), default=0)
    pieces = chat_pieces(document, batches, partial(chats.turns, chat_id, caller))
    return _json_response(pieces, _COPIES * largest, {"ETag": f'"{chat.last_turn}"'})


async def _created(chat_id: str, request: Request, chats: ChatService, caller: Caller) -> Response:
    return _with_location(await _chat_response(chat_id, request, chats, caller), chat_id, request)


def _with_location(response: Response, chat_id: str, request: Request) -> Response:
    response.status_code = 201
    response.headers["Location"] = chat_path(chat_id, request)
    return response


def _json_response(pieces: AsyncGenerator[bytes], held_bytes: int, headers: dict[str, str]) -> Response:
    headers = {"Cache-Control": "no-store", **headers}
    return StorageResponse(pieces, _BASE_BYTES + held_bytes, "application/json", headers)


@creation_router.post(
    "",
    status_code=201,
    dependencies=[Depends(require_content_type("application/json"))],
    responses=merge_responses(
        {status: about for status, about in TURN_RESPONSES.items() if status not in (200, 404, 409, 412)},
        problem_responses(errors.ChatLimitReached, errors.GenerationInProgress, errors.GenerationCancelled),
        {
            201: {
                **TURN_RESPONSES[200],
                "model": ChatRead | TurnGenerationRead | LinkedTurnGenerationRead,
                "description": "The chat; with a prompt, its turn.",
            }
        },
    ),
)
async def create_chat(
    body: ChatCreate,
    request: Request,
    formats: FormatsDep,
    validator: ReferencesDep,
    caller: CallerDep,
    images: ImagesDep,
    chats: ChatsDep,
    run: RunDep,
    stack: ExitStackDep,
    recording: RecordingDep,
) -> Response:
    """Create a chat. With a `prompt`, its first turn is generated at once and returned."""
    if body.prompt is None:
        images.plan(_defaults_only(body.defaults()), caller.limits)
        chat = await chats.create(caller, body.defaults())
        return await _created(chat.id, request, chats, caller)
    request_state(request.scope)["generation_pending"] = True
    parsed = body.parsed(await inline_references(body, request, validator), formats)
    first = ParsedTurn(TurnRequest(parsed.generation, frozenset(body.model_fields_set)), parsed)
    # An invalid first turn, a full queue or a limit is an error before the chat is created.
    plan = await plan_within_limits(request.scope, parsed.generation, recording.options.idempotency_key)
    recorded = await respond_with_recorded_turn(request, recording, None, first, body.defaults())
    if recorded is not None:
        return _as_created(recorded, recording, request)
    run.admit()
    await reserve(request.scope, plan, [run])
    chat = await chats.create(caller, body.defaults(), parsed.generation)
    response = await respond_with_turn(request, run, stack, chats, caller, chat.id, first)
    return _with_location(response, chat.id, request)


def _as_created(response: Response, recording: Recording, request: Request) -> Response:
    """Return the response to a recorded first turn with the status and the address of its chat, once there is one."""
    if response.status_code == 202:
        return response
    assert recording.attachment is not None
    response.status_code = 201
    chat_id = response.headers.get("X-Chat-Id") or recording.attachment.chat_id
    return _with_location(response, chat_id, request) if chat_id else response


def _defaults_only(defaults: ChatDefaults) -> GenerationRequest:
    """Return a request with only the defaults of a chat, to check them against the model."""
    return GenerationRequest(prompt="-", **{field.name: getattr(defaults, field.name) for field in fields(defaults)})


@router.get("", response_model=ChatsRead)
async def list_chats(
    request: Request,
    caller: CallerDep,
    chats: ChatsDep,
    settings: SettingsDep,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[str | None, Query(max_length=200, description="`nextCursor` of the previous page.")] = None,
) -> Response:
    """List your chats without their turns. The last changed chat is first."""
    found = await chats.page(caller, limit + 1, read_cursor(cursor, CHAT_ID_PATTERN))
    page, more = found[:limit], len(found) > limit
    after = write_cursor(page[-1].updated_at, page[-1].id) if more else None
    document = chats_read(page, after, request, settings)
    return StorageResponse.json(document.model_dump(mode="json", by_alias=True), {"Cache-Control": "no-store"})


@router.get("/{chat_id}", response_model=ChatRead, responses=problem_responses(errors.ChatNotFound))
async def get_chat(chat_id: ChatId, request: Request, caller: CallerDep, chats: ChatsDep) -> Response:
    """Get a chat with all its turns: prompts, texts, links to the images, and costs."""
    return await _chat_response(chat_id, request, chats, caller)


@router.delete("/{chat_id}", status_code=204, responses=problem_responses(errors.ChatNotFound, errors.TurnInProgress))
async def delete_chat(chat_id: ChatId, caller: CallerDep, chats: ChatsDep) -> None:
    """Delete a chat. Its images are removed from the store within 15 minutes, unless a fork has them too."""
    await chats.remove(chat_id, caller)


@creation_router.post(
    "/{chat_id}/fork",
    status_code=201,
    dependencies=[Depends(require_content_type("application/json", optional=True))],
    response_model=ChatRead,
    responses=problem_responses(
        *EDGE_ERRORS,
        *STORAGE_ERRORS,
        errors.InvalidJson,
        errors.InvalidRequest,
        errors.ChatNotFound,
        errors.ChatLimitReached,
        errors.UploadTimeout,
        errors.HeaderTooLarge,
        errors.TooLarge,
        errors.UnsupportedMediaType,
        errors.Overloaded,
    ),
)
async def fork_chat(
    chat_id: ChatId,
    request: Request,
    caller: CallerDep,
    chats: ChatsDep,
    body: ForkCreate | None = None,
) -> Response:
    """Create a new chat that starts with the turns of this one. This chat does not change."""
    chat = await chats.fork(chat_id, caller, body.from_turn if body else None)
    return await _created(chat.id, request, chats, caller)
