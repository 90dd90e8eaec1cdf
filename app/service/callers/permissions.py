"""Which models and sizes a caller may ask for."""

from app.domain.catalogue import IMAGE_SIZES, Catalogue, Model
from app.domain.errors import NotAllowed
from app.domain.generation import GenerationRequest
from app.domain.limits import Limits


def require_allowed(request: GenerationRequest, model: Model, limits: Limits, catalogue: Catalogue) -> None:
    """Check a request that has been validated for the model.

    Raises:
        NotAllowed: the caller may not ask for the model, or for an image of this size; or the caller
            has a budget, and the price of the image is unknown.
    """
    if limits.models and model.id not in {catalogue.resolve(name).model.id for name in limits.models}:
        raise NotAllowed(f"This key may ask for {', '.join(limits.models)}, not for {model.id}.")
    size = model.size_of(request.image_size)
    if limits.max_size is not None:
        if size not in IMAGE_SIZES:
            raise NotAllowed(f"This key may ask for images up to {limits.max_size}. Name a smaller imageSize.")
        if IMAGE_SIZES.index(size) > IMAGE_SIZES.index(limits.max_size):
            raise NotAllowed(f"This key may ask for images up to {limits.max_size}, not for {size}.")
    if limits.budget is not None and (not model.image_tokens or model.prices.image_output is None):
        raise NotAllowed(f"This key has a budget, and what {model.id} costs is not known.")
