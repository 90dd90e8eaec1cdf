"""Generating an image: look the model up, refuse what it cannot do, ask Gemini once, check what came."""

import re
from dataclasses import replace

from app.catalogue import Catalogue, Model
from app.domain import Generation, GenerationRequest
from app.errors import NotAcceptable
from app.gemini import Gemini
from app.service import limits


class Images:
    def __init__(self, gemini: Gemini, catalogue: Catalogue, *, vertex: bool = False) -> None:
        self._gemini = gemini
        self._catalogue = catalogue
        self._vertex = vertex

    async def generate(self, requested: GenerationRequest) -> Generation:
        """Ask for one image.

        Raises:
            InvalidRequest: the model cannot do this; nothing was asked of Gemini.
            NotAcceptable: the image is of a type the caller cannot take; told beforehand where the model's is known.
            Refused, UpstreamError: as Gemini decides.
        """
        resolved = self._catalogue.resolve(requested.model or self._catalogue.default)
        model = resolved.model
        _require_acceptable(model.output_type, requested)
        fitted, warnings = limits.fit(requested, model, vertex=self._vertex)
        generation = await self._gemini.generate(fitted, model)
        _require_acceptable(generation.image.mime_type, requested)
        return replace(
            generation,
            warnings=(*resolved.warnings, *warnings, *generation.warnings, *_size_warnings(generation, fitted, model)),
        )


def _require_acceptable(type_: str | None, requested: GenerationRequest) -> None:
    if type_ is None or not requested.accepted_types or type_ in requested.accepted_types:
        return
    raise NotAcceptable(
        f"The image is {type_}; ask for that, for image/* or for application/json.",
        possible=("application/json", type_),
    )


def _size_warnings(generation: Generation, request: GenerationRequest, model: Model) -> list[str]:
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
