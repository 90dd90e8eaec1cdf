"""The routes that add a turn to a chat."""

import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, Form, Header, Request, Response
from starlette.datastructures import Headers
from starlette.routing import Match
from starlette.types import Scope

from app.api.chats.parameters import STORAGE_ERRORS, ChatId
from app.api.chats.request import TurnCreate, TurnForm
from app.api.http import content_type
from app.api.http.dependencies import (
    CallerDep,
    ChatsDep,
    ReferencesDep,
    caller,
    made_of,
    require_content_type,
)
from app.api.http.inline_images import GenerationRoute
from app.api.http.negotiation import AnswerWanted
from app.api.http.problems import merge_responses, problem_responses
from app.api.images.references import ParsedRequest, inline_references, uploaded_references
from app.api.images.responder import IMAGE_RESPONSES, Answering
from app.api.images.response import EXAMPLE, GenerationRead
from app.domain import errors
from app.service.chats.service import TurnRequest

_TURN_EXAMPLE = EXAMPLE | {"chatId": "chat_4f7c1e0b9d2a4c6e8f0a1b2c3d4e5f60", "turn": 2}


class TurnRead(GenerationRead):
    """What a turn answers: the image as `/generate-image` has it, and where it is kept."""

    chat_id: str
    turn: int


TURN_RESPONSES = merge_responses(
    IMAGE_RESPONSES
    | {
        200: IMAGE_RESPONSES[200]
        | {
            "model": TurnRead,
            "content": IMAGE_RESPONSES[200]["content"] | {"application/json": {"example": _TURN_EXAMPLE}},
        }
    },
    problem_responses(
        *STORAGE_ERRORS,
        errors.ChatNotFound,
        errors.TurnInProgress,
        errors.LeaseLost,
        errors.StaleTurn,
        errors.ChatLimitReached,
    ),
)


router = APIRouter(
    prefix="/chats",
    tags=["chats"],
    route_class=GenerationRoute,
    default_response_class=Response,
    dependencies=[Depends(caller)],
)
"""The routes that make an image."""


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
class ParsedTurn:
    asked: ParsedRequest
    turn: TurnRequest

    @classmethod
    def of(cls, asked: ParsedRequest, body: TurnCreate | TurnForm, matching: frozenset[int] | None) -> "ParsedTurn":
        after = matching
        if body.after_turn is not None:
            known = frozenset({body.after_turn})
            after = known if matching is None else known & matching
        given = frozenset(body.model_fields_set)
        return cls(asked, TurnRequest(asked.request, given, after, body.replace_turn))


async def _turn_in_json(
    body: TurnCreate, request: Request, wanted: AnswerWanted, references: ReferencesDep, matching: Matching
) -> ParsedTurn:
    asked = ParsedRequest.of(body, await inline_references(body, request, references), wanted)
    return ParsedTurn.of(asked, body, matching)


async def _turn_in_form(
    form: Annotated[TurnForm, Form(media_type="multipart/form-data")],
    wanted: AnswerWanted,
    references: ReferencesDep,
    matching: Matching,
) -> ParsedTurn:
    return ParsedTurn.of(ParsedRequest.of(form, await uploaded_references(form, references), wanted), form, matching)


class _FormRoute(GenerationRoute):
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
        self, chat_id: str, asked: ParsedTurn, *, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> Response:
        turn = await self.chats.begin(chat_id, self.caller, asked.turn)
        self.closing.push_async_callback(turn.close_if_attached)
        wanted = asked.asked.wanted
        return await self.answering.answer(turn.plan, wanted, turn=turn, status=status, headers=headers)


Turning = Annotated[_Turning, Depends(made_of(_Turning))]


async def _turn_with_files(
    chat_id: ChatId, asked: Annotated[ParsedTurn, Depends(_turn_in_form)], turning: Turning
) -> Response:
    return await turning.add(chat_id, asked)


router.add_api_route(
    "/{chat_id}/turns",
    _turn_with_files,
    methods=["POST"],
    include_in_schema=False,  # the route below describes both
    route_class_override=_FormRoute,
)


@router.post(
    "/{chat_id}/turns",
    dependencies=[Depends(require_content_type("application/json"))],
    responses=TURN_RESPONSES,
    openapi_extra={
        "requestBody": {"content": {"multipart/form-data": {"schema": {"$ref": "#/components/schemas/TurnForm"}}}}
    },
)
async def add_turn(chat_id: ChatId, asked: Annotated[ParsedTurn, Depends(_turn_in_json)], turning: Turning) -> Response:
    """Ask for a change. Gemini is told everything that was said and drawn in the chat; you send what is new.

    One turn at a time: meanwhile others are answered 409. A turn that Gemini refused is on record, and later ones do
    not build upon it. If you leave while Gemini draws, the turn is finished and kept all the same.
    """
    return await turning.add(chat_id, asked)
