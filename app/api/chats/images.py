"""The routes that return the images of a chat."""

from typing import Annotated

from fastapi import Path, Query, Request, Response

from app.api.chats.image_copy import ImageCopyResponse
from app.api.chats.image_file import ImageFileResponse
from app.api.chats.parameters import ChatId, Number, stored_chats_router
from app.api.http.dependencies import CallerDep, ChatsDep, SettingsDep
from app.api.http.problem_responses import Responses, problem_responses
from app.domain import errors
from app.domain.generation import Image

router = stored_chats_router()

_FILE_RESPONSES: Responses = {
    200: {"description": "The file.", "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}},
    206: {"description": "The requested range."},
    304: {"description": "The caller has the file already."},
    **problem_responses(errors.ChatNotFound, errors.TurnNotFound, errors.RangeNotSatisfiable),
}


Width = Annotated[
    int | None,
    Query(
        ge=16,
        le=2048,
        description="Get a smaller copy with this width in pixels, of the same type. An image that is not wider is "
        "returned as it is. Applies to PNG, JPEG and WebP.",
    ),
]


@router.head("/{chat_id}/turns/{number}/image", include_in_schema=False)
@router.get("/{chat_id}/turns/{number}/image", response_class=Response, responses=_FILE_RESPONSES)
async def get_turn_image(
    chat_id: ChatId, number: Number, request: Request, caller: CallerDep, chats: ChatsDep, width: Width = None
) -> Response:
    """Get the image of a turn. It never changes, so it can be cached without limit. Ranges and `If-None-Match` work."""
    return _file_or_copy(await chats.image(chat_id, caller, number), width, f"turn-{number}", request)


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
    return _file_or_copy(image, width, name, request, settings.max_reference_pixels)


def _file_or_copy(
    image: Image, width: int | None, name: str, request: Request, max_pixels: int | None = None
) -> Response:
    """Return the stored file, or a smaller copy if the caller asks for one that is smaller."""
    if width is None or width >= image.width:
        return ImageFileResponse(image, name, request)
    return ImageCopyResponse(image, width, name, request, max_pixels)
