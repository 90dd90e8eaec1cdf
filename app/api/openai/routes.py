"""The routes of OpenAI's Images API."""

from collections.abc import AsyncGenerator
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from app.api.generations.response import ACCEPTED_RESPONSE
from app.api.http.dependencies import CatalogueDep, ReferencesDep, RunsDep, SettingsDep, caller, require_content_type
from app.api.http.forms import FORM_LIMITS
from app.api.http.generation_route import FormRoute, GenerationRoute
from app.api.http.recording import RecordingDep
from app.api.openai import edit_images
from app.api.openai.parsed import ParsedImageRequest, parse
from app.api.openai.request import ImageEditCreate, ImageGenerationCreate, ImageOptions
from app.api.openai.responder import respond
from app.api.openai.response import IMAGES_RESPONSES, error_responses
from app.domain.errors import NotFound

router = APIRouter(
    prefix="/v1/images",
    tags=["openai"],
    responses=IMAGES_RESPONSES | ACCEPTED_RESPONSE,
    default_response_class=Response,
    route_class=GenerationRoute,
    dependencies=[Depends(caller)],
)


async def _generation(
    body: ImageGenerationCreate, catalogue: CatalogueDep, settings: SettingsDep
) -> ParsedImageRequest:
    return parse(body, "image_generation", (), catalogue, settings.openai_model_aliases)


async def _json_edit(
    body: ImageEditCreate,
    request: Request,
    validator: ReferencesDep,
    catalogue: CatalogueDep,
    settings: SettingsDep,
) -> ParsedImageRequest:
    references = await validator.validate(edit_images.inline_uploads(body, request))
    aliases = settings.openai_model_aliases
    return parse(body, "image_edit", references, catalogue, aliases, references_field="images")


async def _form_edit(
    request: Request, validator: ReferencesDep, catalogue: CatalogueDep, settings: SettingsDep
) -> AsyncGenerator[ParsedImageRequest]:
    """Yield the edit. Its files stay open until the response has been sent."""
    async with request.form(**FORM_LIMITS) as form:
        options = edit_images.form_options(form)
        references = await validator.validate(edit_images.form_uploads(form))
        yield parse(options, "image_edit", references, catalogue, settings.openai_model_aliases)


@router.post("/generations", dependencies=[Depends(require_content_type("application/json"))])
async def create_image(
    parsed: Annotated[ParsedImageRequest, Depends(_generation)],
    request: Request,
    begin: RunsDep,
    recording: RecordingDep,
) -> Response:
    """Generate images from a prompt, as OpenAI's clients ask for them."""
    return await respond(request, begin, parsed, recording)


async def _edit_image_with_files(
    parsed: Annotated[ParsedImageRequest, Depends(_form_edit)],
    request: Request,
    begin: RunsDep,
    recording: RecordingDep,
) -> Response:
    return await respond(request, begin, parsed, recording)


router.add_api_route(
    "/edits",
    _edit_image_with_files,
    methods=["POST"],
    include_in_schema=False,  # the JSON route describes both
    route_class_override=FormRoute,
)


def _edit_form() -> dict[str, object]:
    """Return the schema of the form."""
    schema = ImageOptions.model_json_schema()
    image = {"type": "array", "items": {"type": "string", "format": "binary"}, "description": "PNG, JPEG, WebP, HEIC."}
    return schema | {"properties": {"image": image, **schema["properties"]}, "required": ["image", "prompt"]}


@router.post(
    "/edits",
    dependencies=[Depends(require_content_type("application/json", or_form=True))],
    responses=error_responses(503, 507),
    openapi_extra={"requestBody": {"content": {"multipart/form-data": {"schema": _edit_form()}}}},
)
async def edit_image(
    parsed: Annotated[ParsedImageRequest, Depends(_json_edit)],
    request: Request,
    begin: RunsDep,
    recording: RecordingDep,
) -> Response:
    """Edit or combine images, as OpenAI's clients ask for it: as a form with files, or JSON with data URLs."""
    return await respond(request, begin, parsed, recording)


@router.post("/variations", include_in_schema=False)
async def vary_image() -> Response:
    raise NotFound("Gemini makes no variations of an image. Use /v1/images/edits with a prompt.")
