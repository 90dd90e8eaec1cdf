"""Check a request against what the model can do, before Gemini is asked."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace

from app.domain.catalogue import IMAGE_SIZES, Model
from app.domain.errors import FieldError, InvalidRequest
from app.domain.generation import GenerationRequest, Reference, Role


def validate_request(
    request: GenerationRequest,
    model: Model,
    *,
    vertex: bool = False,
    continues_chat: bool = False,
    max_size: str | None = None,
) -> tuple[GenerationRequest, list[str]]:
    """Return the request as Gemini gets it, and warnings for the caller.

    Defaults are filled in, and fields that the model does not support are removed. A request to a model that is not in
    the catalogue is returned unchanged.

    Args:
        request: what the caller sent.
        model: the model to ask.
        vertex: whether the model is asked on Vertex AI.
        continues_chat: whether the request continues a chat. Then the image keeps the ratio of the chat's last image.
        max_size: largest size for a request that names none.

    Raises:
        InvalidRequest: names every field that the model does not support, and the values that it supports.
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
    size = request.image_size or model.default_image_size(max_size)
    ratio = request.aspect_ratio or (None if request.references or continues_chat else model.default_aspect_ratio())
    return replace(request, aspect_ratio=ratio, image_size=size if model.sends_image_size else None), warnings


def adapt_to_fallback(
    request: GenerationRequest,
    model: Model,
    *,
    vertex: bool = False,
    continues_chat: bool = False,
    max_size: str | None = None,
) -> tuple[GenerationRequest, list[str]] | None:
    """Adapt a request that was validated for one model to the fallback model.

    Fields that the fallback model does not support are removed or get the closest value.

    Args:
        request: validated for the first model.
        model: the fallback model.
        vertex: whether it is asked on Vertex AI.
        continues_chat: as in `validate_request`.
        max_size: as in `validate_request`.

    Returns:
        The request and warnings about the changes; `None` if the image would differ too much from the request.
    """
    changed: list[str] = []
    request = replace(request, thinking_level=_level(request.thinking_level, model, changed))
    if model.is_known and model.image_sizes and request.image_size not in (None, *model.image_sizes):
        size = next((one for one in reversed(_up_to(request.image_size)) if one in model.image_sizes), None)
        request = replace(request, image_size=size)
        changed.append(f"{model.id} was asked for {size or 'its own image size'} instead.")
    if model.is_known and request.include_thoughts and not model.include_thoughts:
        request = replace(request, include_thoughts=False)
        changed.append(f"{model.id} returns no thoughts.")
    try:
        fitted, warnings = validate_request(
            request, model, vertex=vertex, continues_chat=continues_chat, max_size=max_size
        )
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
    yield from _reference_errors(request, model)


def _thinking_errors(request: GenerationRequest, model: Model) -> Iterator[FieldError]:
    level = request.thinking_level
    if level and model.thinking == "none":
        yield FieldError("thinkingLevel", f"{model.id} does not think")
    elif level and model.thinking == "levels" and level not in model.thinking_levels:
        yield FieldError(
            "thinkingLevel", f"{model.id} has {_listed(model.thinking_levels) or 'no levels'}, not {level}"
        )
    if request.include_thoughts and not model.include_thoughts:
        yield FieldError("includeThoughts", f"{model.id} returns no thoughts")


def _reference_errors(request: GenerationRequest, model: Model) -> Iterator[FieldError]:
    count, field = len(request.references), request.references_field
    if model.max_references is not None and count > model.max_references:
        yield FieldError(field, f"{model.id} takes {model.max_references} at most, not {count}")
    if model.references_by_role is None:
        return
    for role, count in _count_by_role(request.references).items():
        if count > model.references_by_role.get(role, 0):
            allowed = _listed(f"{number} {allowed_role}" for allowed_role, number in model.references_by_role.items())
            yield FieldError(field, f"{model.id} takes {allowed or 'no such'} references at most, not {count} {role}")


def _count_by_role(references: tuple[Reference, ...]) -> Counter[Role]:
    """Count the references of each role. Several images of one character, that is with one name, count once."""
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
    """Return the values as an English list; an empty string if there are none."""
    *first, last = list(values) or [""]
    return f"{', '.join(first)} and {last}" if first else last
