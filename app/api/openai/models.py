"""The list of image models in OpenAI's format."""

import calendar
from typing import Annotated

from fastapi import APIRouter, Depends, Path

from app.api.http.dependencies import CatalogueDep, SettingsDep, caller
from app.api.openai.model_names import gemini_model
from app.api.openai.response import OpenAIModelRead, OpenAIModelsRead, error_responses
from app.domain.catalogue import Model
from app.domain.errors import ModelNotFound

router = APIRouter(
    prefix="/v1/models",
    tags=["openai"],
    responses=error_responses(401, 403, 503),
    dependencies=[Depends(caller)],
)


@router.get("")
async def list_openai_models(catalogue: CatalogueDep) -> OpenAIModelsRead:
    """List the image models. `GET /models` has their features, limits and prices."""
    return OpenAIModelsRead(data=[_read(model.id, model) for model in catalogue.models.values()])


@router.get("/{model_id}", responses=error_responses(404))
async def get_openai_model(
    model_id: Annotated[str, Path(description="An id, an alias, or the name of an OpenAI model.")],
    catalogue: CatalogueDep,
    settings: SettingsDep,
) -> OpenAIModelRead:
    """Get a model under the name that a request can give."""
    name = gemini_model(model_id, settings.openai_model_aliases) or catalogue.default
    model = catalogue.resolve(name).model
    if not model.is_known:
        raise ModelNotFound("There is no such image model; GET /v1/models lists them.")
    return _read(model_id, model)


def _read(id_: str, model: Model) -> OpenAIModelRead:
    return OpenAIModelRead(id=id_, created=calendar.timegm(model.released.timetuple()) if model.released else 0)
