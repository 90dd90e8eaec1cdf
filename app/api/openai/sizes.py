"""OpenAI's `size` and `quality` as an aspect ratio and an image size of Gemini, and back."""

import math
import re

from app.domain.catalogue import Model
from app.domain.catalogue.pixels import GEMINI_3, Size

SIZE_PATTERN = r"^(auto|[1-9][0-9]{0,4}x[1-9][0-9]{0,4})$"

_QUALITIES = {"low": "1K", "medium": "2K", "high": "4K"}
_FINER = {"xhigh": "high", "max": "high"}
"""Qualities of OpenAI's newest models beyond Gemini's largest image size."""


def parse_size(size: str | None) -> Size | None:
    """Return width and height; `None` for `auto`, or without a size."""
    match = re.fullmatch(r"(\d+)x(\d+)", size or "")
    return (int(match[1]), int(match[2])) if match else None


def fit_size(size: Size, model: Model) -> tuple[str, str]:
    """Return the aspect ratio and the image size that are nearest to a size in pixels.

    The ratio is that of a nominal size of the model or of the Gemini 3 models, if the size is one of them. Otherwise it
    is the nearest of all ratios, also of those that the model lacks: the caller then gets an error instead of a
    picture of another shape. The image size is the nearest one by area that the model has.
    """
    ratio = next((ratio for ratio, sizes in _pixels(model).items() if size in sizes.values()), None)
    ratio = ratio or min(GEMINI_3, key=lambda one: _distance(_ratio(size), _ratio(GEMINI_3[one]["1K"])))
    sizes = model.image_sizes or tuple(GEMINI_3[ratio])
    table = GEMINI_3[ratio] | dict(_pixels(model)[ratio])
    return ratio, min(sizes, key=lambda one: _distance(_area(size), _area(table[one])))


def size_of_quality(quality: str | None, model: Model) -> str | None:
    """Return the image size for `low`, `medium` or `high`, or the model's nearest smaller one; `None` for others."""
    wanted = _QUALITIES.get(_FINER.get(quality or "", quality or ""))
    if wanted is None or not model.image_sizes or wanted in model.image_sizes:
        return wanted
    smaller = [size for size in model.image_sizes if _area(GEMINI_3["1:1"][size]) < _area(GEMINI_3["1:1"][wanted])]
    return smaller[-1] if smaller else model.image_sizes[0]


def quality_of_size(size: Size) -> str:
    """Return the quality whose image size is nearest to a size in pixels."""
    nominal = {quality: GEMINI_3["1:1"][image_size] for quality, image_size in _QUALITIES.items()}
    return min(nominal, key=lambda quality: _distance(_area(size), _area(nominal[quality])))


def _pixels(model: Model) -> dict[str, dict[str, Size]]:
    """Return the nominal sizes of the Gemini 3 models and, before them, those of the model."""
    own = {ratio: dict(sizes) for ratio, sizes in model.pixels.items()}
    return {ratio: GEMINI_3.get(ratio, {}) | own.get(ratio, {}) for ratio in [*own, *GEMINI_3]}


def _distance(one: float, other: float) -> float:
    return abs(math.log(one / other))


def _ratio(size: Size) -> float:
    return size[0] / size[1]


def _area(size: Size) -> int:
    return size[0] * size[1]
