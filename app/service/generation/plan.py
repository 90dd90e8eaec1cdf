"""A request that the model can fulfil, and the checks of what it produced."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from app.domain.catalogue import Model
from app.domain.errors import ServiceError
from app.domain.generation import ChatContext, Generation, GenerationRequest
from app.domain.limits import UNLIMITED, Limits
from app.service.generation.output import require_acceptable, stored_as

_RATIO_TOLERANCE = 0.05


class History(Protocol):
    """The earlier turns of a chat that a request builds on."""

    @property
    def is_empty(self) -> bool: ...

    def select_context(self, request: GenerationRequest, model: Model) -> tuple[ChatContext, list[str]]:
        """Return what to send of the turns, and warnings for the caller.

        Raises:
            InvalidRequest: the request's references leave no space for the newest image of the chat.
            StorageDamaged: no image of the chat is left in the storage.
        """
        ...

    def reduced_after(self, error: ServiceError) -> "History | None":
        """Return the history without what caused `error`; `None` if a smaller history cannot help."""
        ...


@dataclass(frozen=True, slots=True)
class GenerationPlan:
    """A request that fits the model, with defaults filled in."""

    request: GenerationRequest
    model: Model
    warnings: tuple[str, ...] = ()
    """For the caller."""
    history: History | None = None
    """`None` for a request outside of a chat."""
    limits: Limits = UNLIMITED
    """Of the caller."""

    @property
    def continues_chat(self) -> bool:
        return self.history is not None and not self.history.is_empty

    def with_context(self) -> "GenerationPlan":
        """Return the plan with the chat's context in its request. Raises as `History.select_context`."""
        if self.history is None:
            return self
        chat_context, warnings = self.history.select_context(self.request, self.model)
        return replace(
            self,
            request=replace(self.request, chat_context=chat_context),
            warnings=(*self.warnings, *warnings),
        )

    def require_accepted(self, generation: Generation) -> None:
        """Check that the caller accepts the image's media type, which the image may be converted to.

        Raises:
            NotAcceptable: the caller does not.
        """
        require_acceptable(generation.image.mime_type, self.request, stored_as(generation))


def without_alias_warning(warnings: Sequence[str], name: str) -> list[str]:
    """Remove the warning about the fallback model's alias: the caller named another model."""
    return [warning for warning in warnings if not warning.startswith(f"{name} is another name")]


def size_warnings(generation: Generation, request: GenerationRequest, model: Model) -> list[str]:
    """Return warnings if the image's ratio or size differs visibly. Gemini's pixel sizes are nominal."""
    image, warnings = generation.image, []
    ratio = re.fullmatch(r"([1-9]\d*):([1-9]\d*)", request.aspect_ratio or "")
    if request.aspect_ratio and ratio:
        table = model.pixels.get(request.aspect_ratio, {}).get(request.image_size or "")
        expected = table[0] / table[1] if table else int(ratio[1]) / int(ratio[2])
        if abs(image.width / image.height / expected - 1) > _RATIO_TOLERANCE:
            warnings.append(f"Asked for {request.aspect_ratio}, Gemini drew {image.width}×{image.height}.")
    if request.image_size and (sizes := model.pixels.get(request.aspect_ratio or "1:1")):
        pixels = {size: width * height for size, (width, height) in sizes.items()}
        nearest = min(pixels, key=lambda size: abs(pixels[size] - image.width * image.height))
        if nearest != request.image_size:
            warnings.append(f"Asked for {request.image_size}, Gemini drew {image.width}×{image.height}.")
    return warnings
