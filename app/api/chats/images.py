"""The routes that return a chat's images."""

from dataclasses import dataclass
from typing import Annotated, Any, cast

from fastapi import Depends, Path, Request, Response

from app.api.chats.image_file import ImageFileResponse, SeekableContent
from app.api.chats.parameters import ChatId, Number, stored_chats_router
from app.api.http.dependencies import (
    CallerDep,
    ChatsDep,
    PaceDep,
    SettingsDep,
    made_of,
)
from app.api.http.problems import problem_responses
from app.api.http.response_writer import WriteOptions
from app.domain import errors
from app.domain.generation import Image

router = stored_chats_router()

_FILE: dict[int | str, dict[str, Any]] = {
    200: {"description": "The file.", "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}},
    206: {"description": "The range that was asked for."},
    304: {"description": "The caller has it already."},
    **problem_responses(errors.ChatNotFound, errors.TurnNotFound, errors.RangeNotSatisfiable),
}


@dataclass(frozen=True, slots=True)
class _Showing:
    """Answers with a stored image."""

    request: Request
    settings: SettingsDep
    scheduler: PaceDep

    def show(self, image: Image, name: str) -> Response:
        options = WriteOptions(self.scheduler, self.settings.deadline_seconds, lambda _: None)
        return ImageFileResponse(image, cast("SeekableContent", image.content), name, self.request, options)


Showing = Annotated[_Showing, Depends(made_of(_Showing))]


@router.head("/{chat_id}/turns/{number}/image", include_in_schema=False)
@router.get("/{chat_id}/turns/{number}/image", response_class=Response, responses=_FILE)
async def get_turn_image(
    chat_id: ChatId, number: Number, caller: CallerDep, chats: ChatsDep, showing: Showing
) -> Response:
    """Get what a turn has drawn. It never changes: cache it as long as you like. Ranges and `If-None-Match` work."""
    return showing.show(await chats.image(chat_id, caller, number), f"turn-{number}")


@router.head("/{chat_id}/turns/{number}/references/{place}", include_in_schema=False)
@router.get("/{chat_id}/turns/{number}/references/{place}", response_class=Response, responses=_FILE)
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
