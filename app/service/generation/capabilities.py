"""What a model can do, held against what was asked, before any money is spent."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace

from app.domain.catalogue import IMAGE_SIZES, Model
from app.domain.errors import FieldError, InvalidRequest
from app.domain.generation import GenerationRequest, Reference, Role


def validate_request(
    request: GenerationRequest, model: Model, *, vertex: bool = False, follows: bool = False
) -> tuple[GenerationRequest, list[str]]:
    """The request as Gemini gets it: checked, defaults filled in, knobs that the model lacks left out.

    A model that is not in the catalogue gets what the caller sent and nothing else.

    Args:
        request: what the caller sent.
        model: who is asked.
        vertex: whether it is asked on Vertex.
        follows: whether it follows an image of the same chat, whose ratio it takes then.

    Raises:
        InvalidRequest: with every field that is beyond the model, and what it allows instead.
    """
    if not model.is_known:
        return request, []
    errors = list(_errors(request, model, vertex))
    if errors:
        raise InvalidRequest(errors)
    warnings = []
    if request.thinking_level and model.thinking == "fixed":
        warnings.append(f"thinkingLevel has no effect: {model.id} always thinks.")
        request = replace(request, thinking_level=None)
    size = request.image_size or model.default_image_size()
    ratio = request.aspect_ratio or (None if request.references or follows else model.default_aspect_ratio())
    return replace(request, aspect_ratio=ratio, image_size=size if model.sends_image_size else None), warnings


def adapt_to_fallback(
    request: GenerationRequest, model: Model, *, vertex: bool = False, follows: bool = False
) -> tuple[GenerationRequest, list[str]] | None:
    """A request that was fit for one model, for another one: knobs that this one lacks are left out, or come closest.

    Args:
        request: what was fit for the first model.
        model: the second one.
        vertex: whether it is asked on Vertex.
        follows: see `fit`.

    Returns:
        The request and what has changed; `None` if the image would be something else than what was asked for.
    """
    changed: list[str] = []
    request = replace(request, thinking_level=_level(request.thinking_level, model, changed))
    if model.is_known and model.image_sizes and request.image_size not in (None, *model.image_sizes):
        size = next((one for one in reversed(_up_to(request.image_size)) if one in model.image_sizes), None)
        request = replace(request, image_size=size)
        changed.append(f"{model.id} draws at {size or 'a size of its own'}.")
    if model.is_known and request.include_thoughts and not model.include_thoughts:
        request = replace(request, include_thoughts=False)
        changed.append(f"{model.id} has no thoughts to show.")
    try:
        fitted, warnings = validate_request(request, model, vertex=vertex, follows=follows)
    except InvalidRequest:
        return None
    return fitted, [*changed, *warnings]


def _level(level: str | None, model: Model, changed: list[str]) -> str | None:
    if level is None or not model.is_known or (model.thinking == "levels" and level in model.thinking_levels):
        return level
    changed.append(f"thinkingLevel does not apply to {model.id}.")
    return None


def _up_to(size: str | None) -> tuple[str, ...]:
    return IMAGE_SIZES[: IMAGE_SIZES.index(size) + 1] if size in IMAGE_SIZES else ()


def _errors(request: GenerationRequest, model: Model, vertex: bool) -> Iterator[FieldError]:
    ratios = model.aspect_ratios + (model.vertex_aspect_ratios if vertex else ())
    if request.aspect_ratio and ratios and request.aspect_ratio not in ratios:
        yield FieldError("aspectRatio", f"{model.id} has {_listed(ratios)}, not {request.aspect_ratio}")
    if request.image_size and model.image_sizes and request.image_size not in model.image_sizes:
        yield FieldError("imageSize", f"{model.id} has {_listed(model.image_sizes)}, not {request.image_size}")
    if request.google_search and not model.google_search:
        yield FieldError("googleSearch", f"{model.id} cannot search the web")
    if request.image_search and not model.image_search:
        yield FieldError("imageSearch", f"{model.id} cannot search for images")
    yield from _thinking_errors(request, model)
    yield from _reference_errors(request.references, model)


def _thinking_errors(request: GenerationRequest, model: Model) -> Iterator[FieldError]:
    level = request.thinking_level
    if level and model.thinking == "none":
        yield FieldError("thinkingLevel", f"{model.id} does not think")
    elif level and model.thinking == "levels" and level not in model.thinking_levels:
        yield FieldError(
            "thinkingLevel", f"{model.id} has {_listed(model.thinking_levels) or 'no levels'}, not {level}"
        )
    if request.include_thoughts and not model.include_thoughts:
        yield FieldError("includeThoughts", f"{model.id} has no thoughts to show")


def _reference_errors(references: tuple[Reference, ...], model: Model) -> Iterator[FieldError]:
    if model.max_references is not None and len(references) > model.max_references:
        yield FieldError("referenceImages", f"{model.id} takes {model.max_references} at most, not {len(references)}")
    if model.references_by_role is None:
        return
    for role, count in _subjects(references).items():
        most = model.references_by_role.get(role, 0)
        if count > most:
            allowed = _listed(f"{number} {allowed_role}" for allowed_role, number in model.references_by_role.items())
            message = f"{model.id} takes {allowed or 'no such'} references at most, not {count} {role}"
            yield FieldError("referenceImages", message)


def _subjects(references: tuple[Reference, ...]) -> Counter[Role]:
    """How many of each role. Several images of one character, told by its name, are one."""
    counted: Counter[Role] = Counter()
    known: set[str] = set()
    for reference in references:
        if reference.role is None or (reference.role is Role.CHARACTER and reference.name in known):
            continue
        if reference.role is Role.CHARACTER and reference.name:
            known.add(reference.name)
        counted[reference.role] += 1
    return counted


def _listed(values: Iterable[str]) -> str:
    """The values in words; an empty text if there are none."""
    *first, last = list(values) or [""]
    return f"{', '.join(first)} and {last}" if first else last
