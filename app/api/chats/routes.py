"""Chats: editing turn by turn. The service keeps what Gemini has to hear again; callers send one sentence."""

import base64
import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass, fields
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import Field, TypeAdapter

from app.api.chats.parameters import CHAT_ID_PATTERN, EDGE_ERRORS, STORAGE_ERRORS, ChatId, stored_chats_router
from app.api.chats.request import ChatCreate, ForkCreate
from app.api.chats.response import ChatRead, ChatsRead, batches_of, chat_path, chat_pieces, chat_read, chats_read
from app.api.chats.turns import TURN_RESPONSES, ParsedTurn, Turning, TurnRead
from app.api.http.dependencies import (
    CallerDep,
    ChatsDep,
    ImagesDep,
    PaceDep,
    ReferencesDep,
    SettingsDep,
    caller,
    made_of,
    require_content_type,
)
from app.api.http.inline_images import ExtractingRoute
from app.api.http.negotiation import AnswerWanted
from app.api.http.problems import GENERATION, merge_responses, problem_responses
from app.api.http.response_writer import WriteOptions
from app.api.http.storage_response import StorageResponse
from app.api.images.references import ParsedRequest, inline_references
from app.domain import errors
from app.domain.chat import ChatDefaults
from app.domain.generation import GenerationRequest
from app.service.chats.service import TurnRequest

_CURSOR = TypeAdapter(
    tuple[
        Annotated[float, Field(strict=True, allow_inf_nan=False)], Annotated[str, Field(pattern=f"^{CHAT_ID_PATTERN}$")]
    ]
)

_COPIES = 4
"""How many times the text of turns is in memory until it is sent: as it was read, as values, and as JSON again."""

_BASE_BYTES = 64 * 1024
"""What an answer takes in memory, however little it says."""


creation_router = APIRouter(
    prefix="/chats",
    tags=["chats"],
    route_class=ExtractingRoute,
    default_response_class=Response,
    dependencies=[Depends(caller)],
)
"""The routes that make a chat, one of them with an image if there is a prompt for it."""

router = stored_chats_router()


@dataclass(frozen=True, slots=True)
class _Reading:
    """Answers with chats as JSON, in pieces, counted in the memory for answers."""

    request: Request
    caller: CallerDep
    chats: ChatsDep
    settings: SettingsDep
    scheduler: PaceDep

    async def chat(self, chat_id: str) -> Response:
        """
        Raises:
            ChatNotFound: the caller has none by that id.
        """
        chat, sizes = await self.chats.outline(chat_id, self.caller)
        batches = batches_of(sizes)
        document = chat_read(chat, self.request, self.settings)
        largest = len(chat.defaults.system_instruction or "") + max((size for _, _, size in batches), default=0)
        pieces = chat_pieces(document, batches, partial(self.chats.turns, chat_id, self.caller))
        return self._answer(pieces, _COPIES * largest, {"ETag": f'"{chat.last_turn}"'})

    async def created(self, chat_id: str) -> Response:
        response = await self.chat(chat_id)
        response.status_code = 201
        response.headers["Location"] = chat_path(chat_id, self.request)
        return response

    def listed(self, chats: ChatsRead) -> Response:
        body = json.dumps(chats.model_dump(mode="json", by_alias=True)).encode()
        return self._answer(_single(body), len(body), {"Content-Length": str(len(body))})

    def _answer(self, pieces: AsyncGenerator[bytes], held_bytes: int, headers: dict[str, str]) -> Response:
        options = WriteOptions(self.scheduler, self.settings.deadline_seconds, lambda _: None)
        headers = {"Cache-Control": "no-store", **headers}
        return StorageResponse(pieces, _BASE_BYTES + held_bytes, "application/json", headers, self.request, options)


Reading = Annotated[_Reading, Depends(made_of(_Reading))]


async def _single(body: bytes) -> AsyncGenerator[bytes]:
    yield body


@creation_router.post(
    "",
    status_code=201,
    dependencies=[Depends(require_content_type("application/json"))],
    responses=merge_responses(
        {status: about for status, about in TURN_RESPONSES.items() if status not in (200, 404, 409, 412)},
        problem_responses(errors.ChatLimitReached),
        {
            201: {
                **TURN_RESPONSES[200],
                "model": ChatRead | TurnRead,
                "description": "The chat; with a prompt, its turn.",
            }
        },
    ),
)
async def create_chat(
    body: ChatCreate,
    request: Request,
    wanted: AnswerWanted,
    references: ReferencesDep,
    caller: CallerDep,
    images: ImagesDep,
    chats: ChatsDep,
    reading: Reading,
    turning: Turning,
) -> Response:
    """Begin a chat. With a `prompt` its first turn is made at once, and is the answer."""
    if body.prompt is None:
        images.plan(_idle(body.defaults()))
        chat = await chats.create(caller, body.defaults())
        return await reading.created(chat.id)
    setattr(request.state, GENERATION, True)
    asked = ParsedRequest.of(body, await inline_references(body, request, references), wanted)
    images.plan(asked.request)  # an invalid first turn must not leave an empty chat behind, nor must a full queue
    turning.answering.attendance.admit()
    chat = await chats.create(caller, body.defaults(), asked.request)
    first = ParsedTurn(asked, TurnRequest(asked.request, frozenset(body.model_fields_set)))
    return await turning.add(chat.id, first, status=201, headers={"Location": chat_path(chat.id, request)})


def _idle(defaults: ChatDefaults) -> GenerationRequest:
    """A request with nothing but what a chat has for all of its turns, to see whether a model can do that."""
    return GenerationRequest(prompt="-", **{one.name: getattr(defaults, one.name) for one in fields(defaults)})


@router.get("", response_model=ChatsRead)
async def list_chats(
    request: Request,
    caller: CallerDep,
    chats: ChatsDep,
    settings: SettingsDep,
    reading: Reading,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[str | None, Query(max_length=200, description="`nextCursor` of the page before.")] = None,
) -> Response:
    """List your chats, without their turns, the last changed first."""
    found = await chats.page(caller, limit + 1, _read_cursor(cursor))
    page, more = found[:limit], len(found) > limit
    after = _cursor(page[-1].updated_at, page[-1].id) if more else None
    return reading.listed(chats_read(page, after, request, settings))


def _cursor(updated_at: float, id_: str) -> str:
    return base64.urlsafe_b64encode(json.dumps([updated_at, id_]).encode()).decode().rstrip("=")


def _read_cursor(cursor: str | None) -> tuple[float, str] | None:
    if not cursor:
        return None
    try:
        place = _CURSOR.validate_json(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except ValueError as error:
        raise errors.InvalidRequest([errors.FieldError("cursor", "is none that this service gave out")]) from error
    return place


@router.get("/{chat_id}", response_model=ChatRead, responses=problem_responses(errors.ChatNotFound))
async def get_chat(chat_id: ChatId, reading: Reading) -> Response:
    """Get a chat with all its turns: prompts, texts, links to the images, what each cost."""
    return await reading.chat(chat_id)


@router.delete("/{chat_id}", status_code=204, responses=problem_responses(errors.ChatNotFound, errors.TurnInProgress))
async def delete_chat(chat_id: ChatId, caller: CallerDep, chats: ChatsDep) -> None:
    """Forget a chat. Its images are gone from the store within a quarter of an hour, unless a fork has them too."""
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
    caller: CallerDep,
    chats: ChatsDep,
    reading: Reading,
    body: ForkCreate | None = None,
) -> Response:
    """Go back and try another way: a new chat that begins like this one. This one stays as it is."""
    chat = await chats.fork(chat_id, caller, body.from_turn if body else None)
    return await reading.created(chat.id)
