"""The three routes that make images."""

from dataclasses import replace

from fastapi import APIRouter, Depends, Response

from app.api.http.dependencies import ImagesDep, caller, require_content_type
from app.api.http.inline_images import GenerationRoute
from app.api.http.problems import merge_responses, problem_responses
from app.api.images.references import FormRequest, JsonRequest
from app.api.images.responder import IMAGE_RESPONSES, Answering
from app.api.images.response import EXAMPLE, GROUNDING_EXAMPLE
from app.domain.errors import StorageFull, StorageUnavailable

router = APIRouter(
    prefix="/generate-image",
    tags=["images"],
    responses=IMAGE_RESPONSES,
    default_response_class=Response,
    route_class=GenerationRoute,
    dependencies=[Depends(caller)],
)


@router.post("", dependencies=[Depends(require_content_type("application/json"))])
async def generate(asked: JsonRequest, images: ImagesDep, answering: Answering) -> Response:
    """Generate an image from a prompt, and from reference images given inline."""
    return await answering.answer(images.plan(asked.request), asked.wanted)


@router.post(
    "/with-references",
    dependencies=[Depends(require_content_type("multipart/form-data"))],
    responses=merge_responses(IMAGE_RESPONSES, problem_responses(StorageUnavailable, StorageFull)),
)
async def generate_with_references(asked: FormRequest, images: ImagesDep, answering: Answering) -> Response:
    """Generate an image from a prompt and uploaded reference images: editing, compositing, consistent characters."""
    return await answering.answer(images.plan(asked.request), asked.wanted)


@router.post(
    "/with-search",
    dependencies=[Depends(require_content_type("application/json"))],
    responses={
        200: IMAGE_RESPONSES[200]
        | {
            "content": IMAGE_RESPONSES[200]["content"]
            | {"application/json": {"example": EXAMPLE | {"grounding": GROUNDING_EXAMPLE}}}
        }
    },
)
async def generate_with_search(asked: JsonRequest, images: ImagesDep, answering: Answering) -> Response:
    """Generate an image grounded in Google Search.

    Google obliges you to show `grounding` to whoever wrote the prompt.
    """
    return await answering.answer(images.plan(replace(asked.request, google_search=True)), asked.wanted)
