"""Chats: editing turn by turn. The service keeps what Gemini has to hear again; callers send one sentence."""

import base64
import json
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, fields
from functools import partial
from typing import Annotated, Any, cast

from fastapi import APIRouter, Depends, Form, Header, Path, Query, Request, Response
from pydantic import Field, TypeAdapter
from starlette.datastructures import Headers
from starlette.routing import Match
from starlette.types import Scope

from app.api.chats.image_file import Stored, StoredImage
from app.api.chats.response import ChatRead, ChatsRead, batches_of, chat_path, chat_pieces, chat_read, chats_read
from app.api.http import content_type
from app.api.http.dependencies import (
    CallerDep,
    ChatsDep,
    ImagesDep,
    PaceDep,
    ReferencesDep,
    SettingsDep,
    body_of,
    caller,
    made_of,
)
from app.api.http.inline_images import GeneratingRoute, LiftingRoute
from app.api.http.negotiation import AnswerWanted
from app.api.http.problems import GENERATION, documented, merged
from app.api.http.response_writer import Sending
from app.api.http.storage_response import Counted
from app.api.images.references import Asked, inline_references, uploaded_references
from app.api.images.rendering import EXAMPLE, GenerationRead
from app.api.images.request import ChatCreate, ForkCreate, TurnCreate, TurnForm
from app.api.images.responder import ANSWERS, Answering
from app.domain import errors
from app.domain.chat import ChatDefaults
from app.domain.generation import GenerationRequest, Image
from app.service.chats.service import TurnRequest

_ID = r"chat_[0-9a-f]{32}"
_CURSOR = TypeAdapter(
    tuple[Annotated[float, Field(strict=True, allow_inf_nan=False)], Annotated[str, Field(pattern=f"^{_ID}$")]]
)

_COPIES = 4
"""How many times the text of turns is in memory until it is sent: as it was read, as values, and as JSON again."""

_BASE_BYTES = 64 * 1024
"""What an answer takes in memory, however little it says."""

_STORAGE = (errors.StorageDamaged, errors.StorageUnavailable, errors.StorageFull)
_EDGE = (errors.Unauthorized, errors.ForbiddenOrigin, errors.ForbiddenHost)
_TURN_EXAMPLE = EXAMPLE | {"chatId": "chat_4f7c1e0b9d2a4c6e8f0a1b2c3d4e5f60", "turn": 2}


class _Turn(GenerationRead):
    """What a turn answers: the image as `/generate-image` has it, and where it is kept."""

    chat_id: str
    turn: int


_TURN_ANSWERS = merged(
    ANSWERS
    | {
        200: ANSWERS[200]
        | {
            "model": _Turn,
            "content": ANSWERS[200]["content"] | {"application/json": {"example": _TURN_EXAMPLE}},
        }
    },
    documented(
        *_STORAGE,
        errors.ChatNotFound,
        errors.TurnInProgress,
        errors.TurnLost,
        errors.StaleTurn,
        errors.ChatLimitReached,
    ),
)

turning = APIRouter(
    prefix="/chats",
    tags=["chats"],
    route_class=GeneratingRoute,
    default_response_class=Response,
    dependencies=[Depends(caller)],
)
"""The routes that make an image."""

beginning = APIRouter(
    prefix="/chats",
    tags=["chats"],
    route_class=LiftingRoute,
    default_response_class=Response,
    dependencies=[Depends(caller)],
)
"""The routes that make a chat, one of them with an image if there is a prompt for it."""

keeping = APIRouter(
    prefix="/chats",
    tags=["chats"],
    responses=documented(*_EDGE, *_STORAGE, errors.InvalidRequest, errors.HeaderTooLarge, errors.Overloaded),
    dependencies=[Depends(caller)],
)
"""The others."""


async def _chat_id(chat_id: Annotated[str, Path()]) -> str:
    if not re.fullmatch(_ID, chat_id):
        raise errors.ChatNotFound("There is no such chat, or it has expired.")
    return chat_id


ChatId = Annotated[str, Depends(_chat_id)]
Number = Annotated[int, Path(ge=1, le=2**31 - 1, description="Of the turn, from 1 on.")]


async def _closing() -> AsyncGenerator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


Closing = Annotated[AsyncExitStack, Depends(_closing)]


async def _matching(
    request: Request,
    _if_match: Annotated[
        str | None, Header(alias="if-match", description="The number of the latest turn that you know of, in quotes.")
    ] = None,
) -> frozenset[int] | None:
    """The turns that an `If-Match` allows the latest one to be; `None` is any. A tag of something else matches none."""
    if_match = ",".join(request.headers.getlist("if-match")).strip()
    if if_match in ("", "*"):
        return None
    tags = [re.fullmatch(r'\s*(?:W/)?"?(\d{1,10})"?\s*', tag) for tag in if_match.split(",")]
    return frozenset(int(tag[1]) for tag in tags if tag)


Matching = Annotated[frozenset[int] | None, Depends(_matching)]


@dataclass(frozen=True, slots=True)
class _AskedTurn:
    asked: Asked
    turn: TurnRequest

    @classmethod
    def of(cls, asked: Asked, body: TurnCreate | TurnForm, matching: frozenset[int] | None) -> "_AskedTurn":
        after = matching
        if body.after_turn is not None:
            known = frozenset({body.after_turn})
            after = known if matching is None else known & matching
        given = frozenset(body.model_fields_set)
        return cls(asked, TurnRequest(asked.request, given, after, body.replace_turn))


async def _turn_in_json(
    body: TurnCreate, request: Request, wanted: AnswerWanted, references: ReferencesDep, matching: Matching
) -> _AskedTurn:
    asked = Asked.of(body, await inline_references(body, request, references), wanted)
    return _AskedTurn.of(asked, body, matching)


async def _turn_in_form(
    form: Annotated[TurnForm, Form(media_type="multipart/form-data")],
    wanted: AnswerWanted,
    references: ReferencesDep,
    matching: Matching,
) -> _AskedTurn:
    return _AskedTurn.of(Asked.of(form, await uploaded_references(form, references), wanted), form, matching)


class _FormRoute(GeneratingRoute):
    """Shares its path with a route for JSON."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, child = super().matches(scope)
        if match is Match.FULL and content_type.media_type(Headers(scope=scope)) != content_type.FORM:
            return Match.NONE, {}
        return match, child


@dataclass(frozen=True, slots=True)
class _Turning:
    """What is done with a turn, however it was written."""

    caller: CallerDep
    chats: ChatsDep
    answering: Answering
    closing: Closing

    async def add(
        self, chat_id: str, asked: _AskedTurn, *, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> Response:
        turn = await self.chats.begin(chat_id, self.caller, asked.turn)
        self.closing.push_async_callback(turn.give_up)
        wanted = asked.asked.wanted
        return await self.answering.answer(turn.plan, wanted, turn=turn, status=status, headers=headers)


Turning = Annotated[_Turning, Depends(made_of(_Turning))]


async def _turn_with_files(
    chat_id: ChatId, asked: Annotated[_AskedTurn, Depends(_turn_in_form)], turning: Turning
) -> Response:
    return await turning.add(chat_id, asked)


turning.add_api_route(
    "/{chat_id}/turns",
    _turn_with_files,
    methods=["POST"],
    include_in_schema=False,  # the route below describes both
    route_class_override=_FormRoute,
)


@turning.post(
    "/{chat_id}/turns",
    dependencies=[Depends(body_of("application/json"))],
    responses=_TURN_ANSWERS,
    openapi_extra={
        "requestBody": {"content": {"multipart/form-data": {"schema": {"$ref": "#/components/schemas/TurnForm"}}}}
    },
)
async def add_turn(chat_id: ChatId, asked: Annotated[_AskedTurn, Depends(_turn_in_json)], turning: Turning) -> Response:
    """Ask for a change. Gemini is told everything that was said and drawn in the chat; you send what is new.

    One turn at a time: meanwhile others are answered 409. A turn that Gemini refused is on record, and later ones do
    not build upon it. If you leave while Gemini draws, the turn is finished and kept all the same.
    """
    return await turning.add(chat_id, asked)


@dataclass(frozen=True, slots=True)
class _Reading:
    """Answers with chats as JSON, in pieces, counted in the memory for answers."""

    request: Request
    caller: CallerDep
    chats: ChatsDep
    settings: SettingsDep
    pace: PaceDep

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
        sending = Sending(self.pace, self.settings.deadline_seconds, lambda _: None)
        headers = {"Cache-Control": "no-store", **headers}
        return Counted(pieces, _BASE_BYTES + held_bytes, "application/json", headers, self.request, sending)


Reading = Annotated[_Reading, Depends(made_of(_Reading))]


async def _single(body: bytes) -> AsyncGenerator[bytes]:
    yield body


@beginning.post(
    "",
    status_code=201,
    dependencies=[Depends(body_of("application/json"))],
    responses=merged(
        {status: about for status, about in _TURN_ANSWERS.items() if status not in (200, 404, 409, 412)},
        documented(errors.ChatLimitReached),
        {201: {**_TURN_ANSWERS[200], "model": ChatRead | _Turn, "description": "The chat; with a prompt, its turn."}},
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
        images.plan(_idle(body.defaults()), caller, ())
        chat = await chats.create(caller, body.defaults())
        return await reading.created(chat.id)
    setattr(request.state, GENERATION, True)
    asked = Asked.of(body, await inline_references(body, request, references), wanted)
    images.plan(asked.request, caller, ())  # what is wrong with the first turn is said before there is a chat
    chat = await chats.create(caller, body.defaults(), asked.request)
    first = _AskedTurn(asked, TurnRequest(asked.request, frozenset(body.model_fields_set)))
    return await turning.add(chat.id, first, status=201, headers={"Location": chat_path(chat.id, request)})


def _idle(defaults: ChatDefaults) -> GenerationRequest:
    """A request with nothing but what a chat has for all of its turns, to see whether a model can do that."""
    return GenerationRequest(prompt="-", **{one.name: getattr(defaults, one.name) for one in fields(defaults)})


@keeping.get("", response_model=ChatsRead)
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


@keeping.get("/{chat_id}", response_model=ChatRead, responses=documented(errors.ChatNotFound))
async def get_chat(chat_id: ChatId, reading: Reading) -> Response:
    """Get a chat with all its turns: prompts, texts, links to the images, what each cost."""
    return await reading.chat(chat_id)


@keeping.delete("/{chat_id}", status_code=204, responses=documented(errors.ChatNotFound, errors.TurnInProgress))
async def delete_chat(chat_id: ChatId, caller: CallerDep, chats: ChatsDep) -> None:
    """Forget a chat. Its images are gone from the store within a quarter of an hour, unless a fork has them too."""
    await chats.remove(chat_id, caller)


@beginning.post(
    "/{chat_id}/fork",
    status_code=201,
    dependencies=[Depends(body_of("application/json", optional=True))],
    response_model=ChatRead,
    responses=documented(
        *_EDGE,
        *_STORAGE,
        errors.InvalidJson,
        errors.InvalidRequest,
        errors.ChatNotFound,
        errors.ChatLimitReached,
        errors.SlowUpload,
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


_FILE: dict[int | str, dict[str, Any]] = {
    200: {"description": "The file.", "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}},
    206: {"description": "The range that was asked for."},
    304: {"description": "The caller has it already."},
    **documented(errors.ChatNotFound, errors.TurnNotFound, errors.RangeNotSatisfiable),
}


@dataclass(frozen=True, slots=True)
class _Showing:
    """Answers with a stored image."""

    request: Request
    settings: SettingsDep
    pace: PaceDep

    def show(self, image: Image, name: str) -> Response:
        sending = Sending(self.pace, self.settings.deadline_seconds, lambda _: None)
        return StoredImage(image, cast("Stored", image.content), name, self.request, sending)


Showing = Annotated[_Showing, Depends(made_of(_Showing))]


@keeping.head("/{chat_id}/turns/{number}/image", include_in_schema=False)
@keeping.get("/{chat_id}/turns/{number}/image", response_class=Response, responses=_FILE)
async def get_turn_image(
    chat_id: ChatId, number: Number, caller: CallerDep, chats: ChatsDep, showing: Showing
) -> Response:
    """Get what a turn has drawn. It never changes: cache it as long as you like. Ranges and `If-None-Match` work."""
    return showing.show(await chats.image(chat_id, caller, number), f"turn-{number}")


@keeping.head("/{chat_id}/turns/{number}/references/{place}", include_in_schema=False)
@keeping.get("/{chat_id}/turns/{number}/references/{place}", response_class=Response, responses=_FILE)
async def get_turn_reference(
    chat_id: ChatId,
    number: Number,
    place: Annotated[int, Path(ge=1, le=64, description="Of the upload within its turn, from 1 on.")],
    caller: CallerDep,
    chats: ChatsDep,
    showing: Showing,
) -> Response:
    """Get an image that was uploaded with a turn."""
    image = await chats.reference(chat_id, caller, number, place)
    return showing.show(image, f"turn-{number}-reference-{place}")
