"""The routes that return the images of a chat."""

from typing import Annotated

from fastapi import Path, Request, Response

from app.api.chats.parameters import ChatId, Number, stored_chats_router
from app.api.http.dependencies import CallerDep, ChatsDep, SettingsDep
from app.api.http.image_copy import FILE_RESPONSES, Width, image_response
from app.api.http.problem_responses import Responses, problem_responses
from app.domain import errors

router = stored_chats_router()

_FILE_RESPONSES: Responses = {
    **FILE_RESPONSES,
    **problem_responses(errors.ChatNotFound, errors.TurnNotFound, errors.RangeNotSatisfiable),
}


@router.head("/{chat_id}/turns/{number}/image", include_in_schema=False)
@router.get("/{chat_id}/turns/{number}/image", response_class=Response, responses=_FILE_RESPONSES)
async def get_turn_image(
    chat_id: ChatId, number: Number, request: Request, caller: CallerDep, chats: ChatsDep, width: Width = None
) -> Response:
    """Get the image of a turn. It never changes, so it can be cached without limit. Ranges and `If-None-Match` work."""
    return image_response(await chats.image(chat_id, caller, number), width, f"turn-{number}", request)


@router.head("/{chat_id}/turns/{number}/references/{place}", include_in_schema=False)
@router.get("/{chat_id}/turns/{number}/references/{place}", response_class=Response, responses=_FILE_RESPONSES)
async def get_turn_reference(
    chat_id: ChatId,
    number: Number,
    place: Annotated[int, Path(ge=1, le=64, description="Position of the reference in its turn, counted from 1.")],
    request: Request,
    caller: CallerDep,
    chats: ChatsDep,
    settings: SettingsDep,
    width: Width = None,
) -> Response:
    """Get a reference image that was uploaded with a turn."""
    image = await chats.reference(chat_id, caller, number, place)
    name = f"turn-{number}-reference-{place}"
    return image_response(image, width, name, request, settings.max_reference_pixels)
