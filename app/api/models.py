"""The route that lists models: what each can do and costs. A client can build a form from it."""

from datetime import date
from typing import Any, Literal

from fastapi import APIRouter, Depends
from pydantic import Field

from app.api.http.dependencies import CatalogueDep, SettingsDep, caller
from app.api.http.problem_responses import problem_responses
from app.api.http.schema import ResponseModel
from app.api.images.request import MAX_PROMPT_CHARS
from app.domain import errors
from app.domain.catalogue import Catalogue, Model
from app.lib.imagefile import MIME_TYPES
from app.settings import Settings

router = APIRouter(
    prefix="/models",
    tags=["models"],
    responses=problem_responses(
        errors.Unauthorized, errors.ForbiddenOrigin, errors.ForbiddenHost, errors.StorageUnavailable
    ),
    dependencies=[Depends(caller)],
)


class ReferencesRead(ResponseModel):
    max: int | None
    by_role: dict[str, int] | None = Field(description="`null` if Google names no limits by role.")


class PricesRead(ResponseModel):
    """US dollars at Google's list price; `null` if the price is unknown."""

    image_output_per_million_tokens: float | None
    text_output_per_million_tokens: float | None
    input_per_million_tokens: float | None
    search_query: float | None
    image: dict[str, float] = Field(description="One image, by image size. Thinking, text and input cost extra.")


class ModelRead(ResponseModel):
    id: str
    name: str
    aliases: list[str]
    status: Literal["active", "deprecated"]
    released: date | None
    retires: date | None = Field(description="The earliest day on which Google may shut the model down.")
    replacement: str | None
    lifecycle: str | None
    aspect_ratios: list[str]
    default_aspect_ratio: str | None
    image_sizes: list[str]
    default_image_size: str | None
    pixels: dict[str, dict[str, tuple[int, int]]] = Field(
        description="Nominal width and height, by aspect ratio and image size."
    )
    output_type: str | None
    references: ReferencesRead
    google_search: bool
    image_search: bool
    thinking: Literal["none", "fixed", "levels"]
    thinking_levels: list[str]
    default_thinking_level: str | None
    include_thoughts: bool
    input_tokens: int | None
    output_tokens: int | None
    image_tokens: dict[str, int]
    prices: PricesRead


class LimitsRead(ResponseModel):
    """Limits of this service for all models."""

    prompt_chars: int
    body_bytes: int
    reference_bytes: int
    references_bytes: int
    reference_pixels: int
    reference_types: list[str]


class ModelsRead(ResponseModel):
    default: str = Field(description="The model for requests without `model`.")
    models: list[ModelRead]
    limits: LimitsRead


def _read(model: Model, catalogue: Catalogue) -> ModelRead:
    by_role = model.references_by_role
    prices = {size: price for size in model.image_sizes if (price := model.image_price(size)) is not None}
    return ModelRead(
        id=model.id,
        name=model.name,
        aliases=[alias.name for alias in catalogue.aliases.values() if alias.target == model.id],
        status=model.status,
        released=model.released,
        retires=model.retires,
        replacement=model.replacement,
        lifecycle=model.lifecycle,
        aspect_ratios=list(model.aspect_ratios),
        default_aspect_ratio=model.default_aspect_ratio(),
        image_sizes=list(model.image_sizes),
        default_image_size=model.default_image_size(),
        pixels={ratio: dict(sizes) for ratio, sizes in model.pixels.items()},
        output_type=model.output_type,
        references=ReferencesRead(
            max=model.max_references,
            by_role=None if by_role is None else {role.value: most for role, most in by_role.items()},
        ),
        google_search=model.google_search,
        image_search=model.image_search,
        thinking=model.thinking,
        thinking_levels=list(model.thinking_levels),
        default_thinking_level=model.thinking_default,
        include_thoughts=model.include_thoughts,
        input_tokens=model.input_tokens,
        output_tokens=model.output_tokens,
        image_tokens=dict(model.image_tokens),
        prices=PricesRead(
            image_output_per_million_tokens=model.prices.image_output,
            text_output_per_million_tokens=model.prices.text_output,
            input_per_million_tokens=model.prices.input,
            search_query=model.prices.search_query,
            image=prices,
        ),
    )


def _listing(catalogue: Catalogue, settings: Settings) -> ModelsRead:
    return ModelsRead(
        default=catalogue.default,
        models=[_read(model, catalogue) for model in catalogue.models.values()],
        limits=LimitsRead(
            prompt_chars=MAX_PROMPT_CHARS,
            body_bytes=settings.max_body_bytes,
            reference_bytes=settings.max_reference_bytes,
            references_bytes=settings.max_references_bytes,
            reference_pixels=settings.max_reference_pixels,
            reference_types=list(MIME_TYPES),
        ),
    )


def _example() -> dict[str, Any]:
    """Return a listing of one model."""
    listing = _listing(Catalogue("gemini-3-pro-image"), Settings.model_construct()).model_dump(
        mode="json", by_alias=True
    )
    return listing | {"models": listing["models"][:1]}


@router.get("", responses={200: {"content": {"application/json": {"example": _example()}}}})
async def list_models(catalogue: CatalogueDep, settings: SettingsDep) -> ModelsRead:
    """List the models with their features, limits and prices. Other well-formed ids are passed to Gemini."""
    return _listing(catalogue, settings)
