"""Responses of the chat routes, as the OpenAPI document describes them."""

import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from fastapi import Request
from pydantic import Field

from app.api.generations.response import RECORDED_RESPONSES
from app.api.http.problem_responses import merge_responses, problem_responses
from app.api.http.schema import ResponseModel
from app.api.images.response import (
    EXAMPLE,
    IMAGE_RESPONSES,
    GenerationRead,
    GroundingRead,
    LinkedGenerationRead,
    LinkedImageRead,
    UsageRead,
)
from app.domain import errors
from app.domain.chat import Chat, Turn
from app.domain.generation import Image, Reference
from app.settings import Settings

BATCH_CHARS = 256 * 1024
"""Turns of a chat are read from the store in batches of this size."""

PIECE_BYTES = 512 * 1024
"""JSON is sent in pieces of this size."""


class LinkedReferenceRead(LinkedImageRead):
    role: Literal["character", "object", "style"] | None
    name: str | None


class TurnProblemRead(ResponseModel):
    code: str
    title: str
    status: int
    detail: str


class TurnRead(ResponseModel):
    turn: int = Field(description="Counted from 1. A chat never uses a number twice.")
    state: Literal["succeeded", "refused", "failed"] = Field(description="Later turns build only on `succeeded` turns.")
    created_at: datetime
    prompt: str
    references: list[LinkedReferenceRead]
    model: str
    model_version: str | None
    image: LinkedImageRead | None
    text: str | None
    finish_reason: str | None
    grounding: GroundingRead | None
    usage: UsageRead | None
    warnings: list[str]
    problem: TurnProblemRead | None = Field(description="Why there is no image.")
    replaced_by: int | None = Field(description="The turn that replaces this one.")
    copied: bool = Field(description="True if the turn was copied from the chat that this one was forked from.")


class SafetyRead(ResponseModel):
    category: str
    threshold: str


class DefaultsRead(ResponseModel):
    """Values for fields that a turn does not set."""

    model: str | None
    aspect_ratio: str | None
    image_size: str | None
    google_search: bool
    image_search: bool
    system_instruction: str | None = Field(
        description="A list of chats has only the first 200 characters, then `…`. `GET /chats/{id}` has the full text."
    )
    thinking_level: str | None
    safety_settings: list[SafetyRead]


class ForkedRead(ResponseModel):
    chat_id: str
    turn: int = Field(description="The last turn that both chats have.")


class ChatSummaryRead(ResponseModel):
    id: str
    url: str
    title: str | None = Field(description="The beginning of the first prompt.")
    created_at: datetime
    updated_at: datetime
    expires_at: datetime | None = Field(description="Each turn postpones it.")
    last_turn: int = Field(description="The number of the latest turn; 0 if there is none.")
    turn_in_progress: bool
    estimated_cost_usd: float = Field(
        description="Cost of the chat's own turns, refused ones included, copied ones not."
    )
    forked_from: ForkedRead | None
    defaults: DefaultsRead


class ChatRead(ChatSummaryRead):
    """A chat with all its turns."""

    turns: list[TurnRead]


class ChatsRead(ResponseModel):
    """A page of chats."""

    chats: list[ChatSummaryRead]
    next_cursor: str | None = Field(description="Pass it as `cursor` for the next page; `null` on the last page.")


class TurnGenerationRead(GenerationRead):
    """The response to a new turn: the image as `/generate-image` returns it, and where it is stored."""

    chat_id: str
    turn: int


class LinkedTurnGenerationRead(LinkedGenerationRead):
    """The response to a new turn, with a link to the image."""

    chat_id: str
    turn: int


_TURN_EXAMPLE = EXAMPLE | {"chatId": "chat_4f7c1e0b9d2a4c6e8f0a1b2c3d4e5f60", "turn": 2}

TURN_RESPONSES = merge_responses(
    IMAGE_RESPONSES
    | {
        200: IMAGE_RESPONSES[200]
        | {
            "model": TurnGenerationRead | LinkedTurnGenerationRead,
            "content": IMAGE_RESPONSES[200]["content"] | {"application/json": {"example": _TURN_EXAMPLE}},
        }
    },
    RECORDED_RESPONSES,
    problem_responses(
        errors.ChatNotFound,
        errors.TurnInProgress,
        errors.LeaseLost,
        errors.StaleTurn,
        errors.ChatLimitReached,
    ),
)
"""Responses of a route that generates the image of a turn."""


def chat_read(chat: Chat, request: Request, settings: Settings) -> ChatRead:
    """Return the document of a chat without its turns. Links include the path prefix that the caller uses."""
    return ChatRead(**_summary(chat, request, settings), turns=[])


def batches_of(sizes: Sequence[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """Divide the turns of a chat into batches that are read and sent one after the other.

    Args:
        sizes: number and size in characters of each turn.

    Returns:
        For each batch the first and the last number, and its size: at most `BATCH_CHARS`, unless it is a single turn.
    """
    batches: list[tuple[int, int, int]] = []
    for number, size in sizes:
        if batches and batches[-1][2] + size <= BATCH_CHARS:
            first, _, before = batches[-1]
            batches[-1] = first, number, before + size
        else:
            batches.append((number, number, size))
    return batches


async def chat_pieces(
    chat: ChatRead, batches: Sequence[tuple[int, int, int]], turns: Callable[[int, int], Awaitable[list[Turn]]]
) -> AsyncGenerator[bytes]:
    """Yield the JSON document of a chat in pieces. Each batch of turns is read when it is due.

    Args:
        chat: the chat without its turns.
        batches: of its turns.
        turns: reads the turns from a first to a last number.
    """
    text = json.dumps(chat.model_dump(mode="json", by_alias=True))
    if not batches:
        yield text.encode()
        return
    before = text.removesuffix("]}")
    for first, last, _ in batches:
        read = [_turn_read(turn, chat.url).model_dump(mode="json", by_alias=True) for turn in await turns(first, last)]
        after = "]}" if last == batches[-1][1] else ", "
        encoded = f"{before}{json.dumps(read)[1:-1]}{after}".encode()
        del read
        before = ""
        for start in range(0, len(encoded), PIECE_BYTES):
            yield encoded[start : start + PIECE_BYTES]


def chats_read(chats: Sequence[Chat], next_cursor: str | None, request: Request, settings: Settings) -> ChatsRead:
    summaries = [ChatSummaryRead(**_summary(chat, request, settings)) for chat in chats]
    return ChatsRead(chats=summaries, next_cursor=next_cursor)


def chat_path(chat_id: str, request: Request) -> str:
    """Return the path of a chat, with the path prefix that the caller of this request uses."""
    return f"{request.scope.get('root_path', '').rstrip('/')}/chats/{chat_id}"


def _summary(chat: Chat, request: Request, settings: Settings) -> dict[str, Any]:
    ttl = settings.chat_ttl.total_seconds()
    return {
        "id": chat.id,
        "url": chat_path(chat.id, request),
        "title": chat.title,
        "created_at": _time(chat.created_at),
        "updated_at": _time(chat.updated_at),
        "expires_at": _time(chat.updated_at + ttl) if ttl else None,
        "last_turn": chat.last_turn,
        "turn_in_progress": chat.in_progress,
        "estimated_cost_usd": round(chat.cost_usd, 6),
        "forked_from": ForkedRead(chat_id=chat.forked_from, turn=chat.forked_at or 0) if chat.forked_from else None,
        "defaults": DefaultsRead.model_validate(chat.defaults),
    }


def _turn_read(turn: Turn, chat_url: str) -> TurnRead:
    url = f"{chat_url}/turns/{turn.number}"
    references = [_reference(one, f"{url}/references/{index}") for index, one in enumerate(turn.references, start=1)]
    return TurnRead(
        turn=turn.number,
        state=turn.state.value,
        created_at=_time(turn.created_at),
        prompt=turn.prompt,
        references=references,
        model=turn.model,
        model_version=turn.model_version,
        image=LinkedImageRead(**_image(turn.image, f"{url}/image")) if turn.image else None,
        text=turn.text,
        finish_reason=turn.finish_reason,
        grounding=GroundingRead.model_validate(turn.grounding) if turn.grounding else None,
        usage=UsageRead.model_validate(turn.usage) if turn.usage else None,
        warnings=list(turn.warnings),
        problem=TurnProblemRead.model_validate(dict(turn.problem)) if turn.problem else None,
        replaced_by=turn.replaced_by,
        copied=turn.copied,
    )


def _reference(reference: Reference, url: str) -> LinkedReferenceRead:
    role = reference.role.value if reference.role else None
    return LinkedReferenceRead(**_image(reference.image, url), role=role, name=reference.name)


def _image(image: Image, url: str) -> dict[str, Any]:
    return {"url": url, "mime_type": image.mime_type, "width": image.width, "height": image.height}


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
