"""The three routes that make images."""

from dataclasses import replace

from fastapi import APIRouter, Depends, Response

from app.api.http.dependencies import CallerDep, ImagesDep, body_of, caller
from app.api.http.inline_images import GeneratingRoute
from app.api.http.problems import documented, merged
from app.api.images.references import AskedInForm, AskedInJson
from app.api.images.responder import ANSWERS, Answering
from app.api.images.response import EXAMPLE, GROUNDING_EXAMPLE
from app.domain.errors import StorageFull, StorageUnavailable

router = APIRouter(
    prefix="/generate-image",
    tags=["images"],
    responses=ANSWERS,
    default_response_class=Response,
    route_class=GeneratingRoute,
    dependencies=[Depends(caller)],
)


@router.post("", dependencies=[Depends(body_of("application/json"))])
async def generate(asked: AskedInJson, caller: CallerDep, images: ImagesDep, answering: Answering) -> Response:
    """Generate an image from a prompt, and from reference images given inline."""
    return await answering.answer(images.plan(asked.request, caller), asked.wanted)


@router.post(
    "/with-references",
    dependencies=[Depends(body_of("multipart/form-data"))],
    responses=merged(ANSWERS, documented(StorageUnavailable, StorageFull)),
)
async def generate_with_references(
    asked: AskedInForm, caller: CallerDep, images: ImagesDep, answering: Answering
) -> Response:
    """Generate an image from a prompt and uploaded reference images: editing, compositing, consistent characters."""
    return await answering.answer(images.plan(asked.request, caller), asked.wanted)


@router.post(
    "/with-search",
    dependencies=[Depends(body_of("application/json"))],
    responses={
        200: ANSWERS[200]
        | {
            "content": ANSWERS[200]["content"]
            | {"application/json": {"example": EXAMPLE | {"grounding": GROUNDING_EXAMPLE}}}
        }
    },
)
async def generate_with_search(
    asked: AskedInJson, caller: CallerDep, images: ImagesDep, answering: Answering
) -> Response:
    """Generate an image grounded in Google Search.

    Google obliges you to show `grounding` to whoever wrote the prompt.
    """
    return await answering.answer(images.plan(replace(asked.request, google_search=True), caller), asked.wanted)
