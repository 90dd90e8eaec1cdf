"""The three routes that generate images."""

from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Depends, Form, Request, Response

from app.api.generations.response import RECORDED_RESPONSES
from app.api.http.dependencies import ReferencesDep, RunDep, caller, require_content_type
from app.api.http.generation_route import GenerationRoute
from app.api.http.negotiation import FormatsDep
from app.api.http.problem_responses import merge_responses
from app.api.http.recording import RecordingDep
from app.api.images.references import inline_references, uploaded_references
from app.api.images.request import GenerationCreate, GenerationForm, ParsedRequest
from app.api.images.responder import respond
from app.api.images.response import EXAMPLE, GROUNDING_EXAMPLE, IMAGE_RESPONSES

router = APIRouter(
    prefix="/generate-image",
    tags=["images"],
    responses=merge_responses(IMAGE_RESPONSES, RECORDED_RESPONSES),
    default_response_class=Response,
    route_class=GenerationRoute,
    dependencies=[Depends(caller)],
)


async def _from_json(
    body: GenerationCreate, request: Request, formats: FormatsDep, validator: ReferencesDep
) -> ParsedRequest:
    return body.parsed(await inline_references(body, request, validator), formats)


async def _from_form(
    form: Annotated[GenerationForm, Form(media_type="multipart/form-data")],
    formats: FormatsDep,
    validator: ReferencesDep,
) -> ParsedRequest:
    return form.parsed(await uploaded_references(form, validator), formats)


JsonRequest = Annotated[ParsedRequest, Depends(_from_json)]
FormRequest = Annotated[ParsedRequest, Depends(_from_form)]


@router.post("", dependencies=[Depends(require_content_type("application/json"))])
async def generate(parsed: JsonRequest, request: Request, run: RunDep, recording: RecordingDep) -> Response:
    """Generate an image from a prompt, and from reference images given inline."""
    return await respond(request, run, parsed, recording)


@router.post("/with-references", dependencies=[Depends(require_content_type("multipart/form-data"))])
async def generate_with_references(
    parsed: FormRequest, request: Request, run: RunDep, recording: RecordingDep
) -> Response:
    """Generate an image from a prompt and uploaded reference images: editing, compositing, consistent characters."""
    return await respond(request, run, parsed, recording)


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
async def generate_with_search(parsed: JsonRequest, request: Request, run: RunDep, recording: RecordingDep) -> Response:
    """Generate an image grounded in Google Search.

    Google requires you to show `grounding` to the author of the prompt.
    """
    parsed = replace(parsed, generation=replace(parsed.generation, google_search=True))
    return await respond(request, run, parsed, recording)
