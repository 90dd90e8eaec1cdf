"""Path parameters, documented errors and a router factory that the chat routes share."""

import re
from typing import Annotated

from fastapi import APIRouter, Depends, Path

from app.api.http.dependencies import caller
from app.api.http.problem_responses import problem_responses
from app.domain import errors

CHAT_ID_PATTERN = r"chat_[0-9a-f]{32}"

STORAGE_ERRORS = (errors.StorageDamaged, errors.StorageUnavailable, errors.StorageFull)

EDGE_ERRORS = (errors.Unauthorized, errors.ForbiddenOrigin, errors.ForbiddenHost)


def stored_chats_router() -> APIRouter:
    """Return a router for routes that read or change stored chats without asking Gemini."""
    return APIRouter(
        prefix="/chats",
        tags=["chats"],
        responses=problem_responses(
            *EDGE_ERRORS, *STORAGE_ERRORS, errors.InvalidRequest, errors.HeaderTooLarge, errors.Overloaded
        ),
        dependencies=[Depends(caller)],
    )


async def _chat_id(chat_id: Annotated[str, Path()]) -> str:
    if not re.fullmatch(CHAT_ID_PATTERN, chat_id):
        raise errors.ChatNotFound("There is no such chat, or it has expired.")
    return chat_id


ChatId = Annotated[str, Depends(_chat_id)]
Number = Annotated[int, Path(ge=1, le=2**31 - 1, description="Number of the turn, counted from 1.")]
