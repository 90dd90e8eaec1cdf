"""A valid `/v1/images` request in the terms of the domain."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic.alias_generators import to_camel

from app.api.openai.model_names import gemini_model
from app.api.openai.request import ImageOptions
from app.api.openai.sizes import fit_size, parse_size, size_of_quality
from app.domain.catalogue import Catalogue
from app.domain.errors import FieldError, InvalidRequest, ServiceError
from app.domain.generation import GenerationRequest, Output, Reference
from app.domain.recorded import Order

Operation = Literal["image_generation", "image_edit"]

_FIELD_NAMES = {to_camel(name): name for name in ImageOptions.model_fields}
"""Names of the fields by the names that the native routes have for them."""


@dataclass(frozen=True, slots=True)
class ParsedImageRequest:
    """A valid request for one or more images."""

    generation: GenerationRequest
    operation: Operation
    """Prefix of the names of its events."""
    count: int
    stream: bool
    partial_images: int
    """The most drafts to send for each image."""
    size: str | None
    """As the caller sent it."""
    field_names: Mapping[str, str]
    """The caller's names of the fields, by our names."""
    wants_link: bool = False
    """Whether the response has links in place of the images."""
    webhook_url: str | None = None

    @property
    def view(self) -> dict[str, Any]:
        """What `from_order` needs besides the request, as JSON for `Order.view`."""
        return {
            "api": "openai",
            "operation": self.operation,
            "stream": self.stream,
            "partialImages": self.partial_images,
            "size": self.size,
            "fieldNames": dict(self.field_names),
            "links": self.wants_link,
        }

    @classmethod
    def from_order(cls, order: Order) -> "ParsedImageRequest":
        """Return the request that was ordered."""
        view = order.view
        return cls(
            order.request,
            view["operation"],
            order.count,
            view.get("stream", False),
            view.get("partialImages", 0),
            view["size"],
            view["fieldNames"],
            view["links"],
        )

    def with_field_name(self, warning: str) -> str:
        """Return a warning with the name that the caller's field has, if it begins with a field."""
        name, space, rest = warning.partition(" ")
        return self.field_names.get(name, name) + space + rest

    def with_field_names(self, error: ServiceError) -> ServiceError:
        """Return the error with the names that the caller's fields have."""
        return error.renamed(self.field_names) if isinstance(error, InvalidRequest) else error


def parse(
    body: ImageOptions,
    operation: Operation,
    references: tuple[Reference, ...],
    catalogue: Catalogue,
    aliases: Mapping[str, str],
    *,
    references_field: str = "image",
) -> ParsedImageRequest:
    """Return the request in our terms.

    Args:
        body: as the caller sent it.
        operation: which route was called.
        references: the images to edit.
        catalogue: of this service.
        aliases: `OPENAI_MODEL_ALIASES`.
        references_field: the caller's name of the images to edit.

    Raises:
        InvalidRequest: fields contradict each other.
    """
    model = gemini_model(body.model, aliases)
    ratio, image_size, names = _choose_size(body, model, catalogue)
    generation = GenerationRequest(
        prompt=body.prompt,
        model=model and model.removeprefix("models/"),
        fallback_model=body.fallback_model and body.fallback_model.removeprefix("models/"),
        aspect_ratio=ratio,
        image_size=image_size,
        references=references,
        references_field=references_field,
        google_search=body.google_search,
        image_search=body.image_search,
        system_instruction=body.system_instruction,
        thinking_level=body.thinking_level,
        include_drafts=bool(body.partial_images),
        seed=body.seed,
        output=Output(body.output_format and f"image/{body.output_format}", _quality(body.output_compression)),
    )
    names = _FIELD_NAMES | names
    return ParsedImageRequest(
        generation,
        operation,
        body.n,
        body.stream,
        body.partial_images or 0,
        body.size,
        names,
        body.response_format == "url",
        body.webhook_url,
    )


def _quality(compression: int | None) -> int | None:
    """Return the quality of the image; `None` for 100, which asks for no compression besides Gemini's."""
    return None if compression in (None, 100) else max(1, compression)


def _choose_size(
    body: ImageOptions, model: str | None, catalogue: Catalogue
) -> tuple[str | None, str | None, dict[str, str]]:
    """Return the aspect ratio, the image size, and the names of the fields that they come from."""
    found = catalogue.resolve(model or catalogue.default).model
    size = parse_size(body.size)
    if size is None:
        quality_size = None if body.image_size else size_of_quality(body.quality, found)
        names = {"aspectRatio": "aspect_ratio", "imageSize": "quality" if quality_size else "image_size"}
        return body.aspect_ratio, body.image_size or quality_size, names
    ratio, image_size = fit_size(size, found)
    errors = [
        FieldError(name, f"is {given}, but size {body.size} means {fitted}")
        for name, given, fitted in (
            ("aspect_ratio", body.aspect_ratio, ratio),
            ("image_size", body.image_size, image_size),
        )
        if given not in (None, fitted)
    ]
    if errors:
        raise InvalidRequest(errors)
    return ratio, image_size, {"aspectRatio": "size", "imageSize": "size"}
