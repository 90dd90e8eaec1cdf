"""The file format of a generation's images: which one the caller gets, and its conversion."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace

from app.domain.errors import NotAcceptable, ServiceError, UpstreamInvalidResponse, UpstreamTimeout
from app.domain.generation import Generation, GenerationRequest, Image, Output
from app.domain.progress import GenerationProgress, Stage
from app.lib.byte_budget import Reservation
from app.service.conversion import CONVERTIBLE_TYPES, ConversionFailed, ImageConverter, Target

_DEFAULT_QUALITY = 90
"""For JPEG and WebP: no difference to the original is visible at normal size."""

_LOSSY = ("image/jpeg", "image/webp")


def delivered_type(type_: str, request: GenerationRequest) -> str:
    """Return the media type that the caller gets of an image that Gemini made as `type_`."""
    if request.output.mime_type:
        return request.output.mime_type
    if not request.accepted_types or type_ in request.accepted_types:
        return type_
    return next((one for one in CONVERTIBLE_TYPES if one in request.accepted_types), type_)


def is_acceptable(type_: str | None, request: GenerationRequest) -> bool:
    """Return whether the caller accepts an image that Gemini makes as `type_`, converted if necessary.

    Args:
        type_: `None` if it is not known yet.
        request: of the caller.
    """
    type_ = type_ or request.output.mime_type
    return type_ is None or not request.accepted_types or delivered_type(type_, request) in request.accepted_types


def require_acceptable(
    type_: str | None, request: GenerationRequest, extra_members: Mapping[str, object] | None = None
) -> None:
    """Check that the caller accepts the image. Arguments as for `is_acceptable`.

    Raises:
        NotAcceptable: the caller does not.
    """
    if is_acceptable(type_, request):
        return
    detail, possible = f"The image is {type_}", list(dict.fromkeys((str(type_), *CONVERTIBLE_TYPES)))
    if request.output.mime_type:
        detail, possible = f"outputFormat asks for {request.output.mime_type}", [request.output.mime_type]
    raise NotAcceptable(
        f"{detail}. Accept {' or '.join(possible)}, image/* or application/json.",
        possible=("application/json", *possible),
        extra_members=extra_members,
    )


def stored_as(generation: Generation) -> dict[str, object]:
    """Return the members of a problem document that say where a chat stores the image."""
    return {"chatId": generation.chat_id, "turn": generation.turn} if generation.chat_id else {}


def target_for(image: Image, request: GenerationRequest) -> Target | None:
    """Return what to convert the image to; `None` if the caller gets Gemini's own file."""
    type_, quality = delivered_type(image.mime_type, request), request.output.quality
    if type_ == image.mime_type and (quality is None or type_ not in _LOSSY):
        return None
    return Target(type_, quality or _DEFAULT_QUALITY)


def needs_conversion(generation: Generation, request: GenerationRequest) -> bool:
    """Return whether an image is converted, or gets a warning because it is not."""
    wanted = any(target_for(image, request) for image in (generation.image, *generation.drafts))
    return wanted or request.output.quality is not None


@dataclass(frozen=True, slots=True)
class OutputConversion:
    """Converts the images of one generation."""

    converter: ImageConverter
    request: GenerationRequest
    progress: GenerationProgress

    async def generation(self, generation: Generation) -> Generation:
        """Return the generation with its images as the caller gets them, and warnings.

        Afterwards exactly the returned images are counted in the generation's memory.

        Raises:
            UpstreamInvalidResponse: the image cannot be decoded.
            UpstreamTimeout: the conversion was not complete at the deadline.
        """
        self.progress.enter(Stage.CONVERSION)
        memory = self.progress.memory
        try:
            image = await self.image(generation.image, memory)
        except ServiceError as error:
            error.extra_members = stored_as(generation)
            raise
        drafts = []
        warnings = [*generation.warnings, *_warnings(generation.image, image, self.request)]
        for draft in generation.drafts:
            try:
                drafts.append(await self.image(draft, memory))
            except UpstreamInvalidResponse:
                warnings.append("A draft cannot be decoded and was left out.")
        generation = replace(generation, image=image, drafts=tuple(drafts), warnings=tuple(warnings))
        memory.resize(generation.held_bytes)
        return generation

    async def image(self, image: Image, memory: Reservation) -> Image:
        """Return one image as the caller gets it. Raises as `generation`.

        Args:
            image: from Gemini.
            memory: holds the bytes of a converted image from then on.
        """
        target = target_for(image, self.request)
        if target is None:
            return image
        if image.mime_type not in CONVERTIBLE_TYPES:
            raise UpstreamInvalidResponse(f"Gemini's image is {image.mime_type}, which cannot be converted.")
        try:
            async with asyncio.timeout_at(self.progress.deadline):
                return await self.converter.convert(image, target, memory)
        except ConversionFailed as error:
            raise UpstreamInvalidResponse("Gemini's image cannot be converted.", cause=str(error)) from error
        except TimeoutError as error:
            raise UpstreamTimeout(
                f"The image was not converted within the time limit of {self.progress.seconds:g} seconds.",
                waited_for=str(Stage.CONVERSION),
                upstream_was_slow=False,
                may_have_cost=True,
            ) from error


def _warnings(original: Image, image: Image, request: GenerationRequest) -> list[str]:
    if image is not original:
        what = f"The image was converted from {_name(original)} to {_name(image)}"
        if image.mime_type == original.mime_type:
            what = f"The image was compressed again as {_name(image)}"
        return [f"{what}. It has no Content Credentials (C2PA) any more, with which Google says where it comes from."]
    if request.output.quality is not None:
        return [f"The quality has no effect: the image is {_name(image)}."]
    return []


def _name(image: Image) -> str:
    return {"image/png": "PNG", "image/jpeg": "JPEG", "image/webp": "WebP"}.get(image.mime_type, image.mime_type)


async def deliver(
    generation: Generation,
    request: GenerationRequest,
    converter: ImageConverter,
    memory: Reservation,
    seconds: float,
    *,
    is_converted: bool,
) -> Generation:
    """Return a recorded generation with its images as one caller gets them.

    Args:
        generation: its images may be in the store.
        request: with the media types that this caller accepts.
        converter: converts images.
        memory: holds the bytes of converted images from then on.
        seconds: time limit of the conversion.
        is_converted: whether the images have the format that `request.output` asks for.

    Raises:
        NotAcceptable: the caller does not accept the image.
        UpstreamInvalidResponse, UpstreamTimeout: the image cannot be converted.
    """
    wanted = replace(request, output=Output()) if is_converted else request
    require_acceptable(generation.image.mime_type, wanted, stored_as(generation))
    if not needs_conversion(generation, wanted):
        return generation
    return await OutputConversion(converter, wanted, GenerationProgress(seconds, memory)).generation(generation)
