"""A request that a model can fulfil."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from app.domain.catalogue import Model
from app.domain.chat import Turn
from app.domain.errors import (
    NotAcceptable,
)
from app.domain.generation import Generation, GenerationRequest
from app.lib.base64_json import Content
from app.service.chats.history import select_context


@dataclass(frozen=True, slots=True)
class GenerationPlan:
    """A request that a model can fulfil, and what the caller should know about how."""

    request: GenerationRequest
    model: Model
    warnings: tuple[str, ...] = ()
    chain: tuple[Turn, ...] | None = None
    """The turns of a chat that it builds upon; `None` outside of a chat."""

    def remembering(self, lost: Collection[Content] = (), *, distrusted: bool = False) -> "GenerationPlan":
        """The same with whatever of the chat can go along. See `remembering.recall`."""
        if self.chain is None:
            return self
        chat_context, warnings = select_context(self.chain, self.request, self.model, lost=lost, distrusted=distrusted)
        return replace(
            self,
            request=replace(self.request, chat_context=chat_context),
            warnings=(*self.warnings, *warnings),
        )


def without_alias_warning(warnings: Sequence[str], name: str) -> list[str]:
    """How the fallback was named is nothing to tell whoever asked for another model."""
    return [warning for warning in warnings if not warning.startswith(f"{name} is another name")]


def require_accepted_type(type_: str | None, requested: GenerationRequest) -> None:
    if type_ is None or not requested.accepted_types or type_ in requested.accepted_types:
        return
    raise NotAcceptable(
        f"The image is {type_}; ask for that, for image/* or for application/json.",
        possible=("application/json", type_),
    )


def size_warnings(generation: Generation, request: GenerationRequest, model: Model) -> list[str]:
    """Gemini's sizes are nominal, so only a difference that somebody would see is worth a word."""
    image, warnings = generation.image, []
    ratio = re.fullmatch(r"([1-9]\d*):([1-9]\d*)", request.aspect_ratio or "")
    if request.aspect_ratio and ratio:
        table = model.pixels.get(request.aspect_ratio, {}).get(request.image_size or "")
        expected = table[0] / table[1] if table else int(ratio[1]) / int(ratio[2])
        if abs(image.width / image.height / expected - 1) > 0.05:
            warnings.append(f"Asked for {request.aspect_ratio}, Gemini drew {image.width}×{image.height}.")
    if request.image_size and (sizes := model.pixels.get(request.aspect_ratio or "1:1")):
        pixels = {size: width * height for size, (width, height) in sizes.items()}
        nearest = min(pixels, key=lambda size: abs(pixels[size] - image.width * image.height))
        if nearest != request.image_size:
            warnings.append(f"Asked for {request.image_size}, Gemini drew {image.width}×{image.height}.")
    return warnings
