"""Generating an image: look the model up, refuse what it cannot do, wait for a place, ask Gemini, check what came."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from app.catalogue import Catalogue, Model
from app.domain import Caller, Generation, GenerationRequest
from app.errors import InvalidRequest, NotAcceptable, Overloaded, ServiceError, UpstreamError, UpstreamTimeout
from app.gemini import Gemini
from app.journey import Journey, Stage, Started
from app.service import limits
from app.service.attempts import Attempts
from app.service.breaker import Breakers
from app.service.gate import Gate


@dataclass(frozen=True, slots=True)
class Plan:
    """A request that a model can fulfil, and what the caller should know about how."""

    request: GenerationRequest
    model: Model
    warnings: tuple[str, ...] = ()


class Images:
    def __init__(
        self,
        gemini: Gemini,
        catalogue: Catalogue,
        gate: Gate,
        attempts: Attempts,
        breakers: Breakers,
        *,
        fallback_model: str | None = None,
        vertex: bool = False,
    ) -> None:
        self._gemini = gemini
        self._catalogue = catalogue
        self._gate = gate
        self._attempts = attempts
        self._breakers = breakers
        self._fallback_model = fallback_model
        self._vertex = vertex

    def plan(self, requested: GenerationRequest, caller: Caller) -> Plan:
        """Refuse whatever can be refused before anything is paid, or waited for.

        Raises:
            InvalidRequest: the model cannot do this.
            NotAcceptable: the image is of a type the caller cannot take, as far as the model's is known.
            Overloaded: there is no room for it.
        """
        resolved = self._catalogue.resolve(requested.model or self._catalogue.default)
        _require_acceptable(resolved.model.output_type, requested)
        fitted, warnings = limits.fit(requested, resolved.model, vertex=self._vertex)
        self._gate.require_room(caller.name)
        return Plan(fitted, resolved.model, (*resolved.warnings, *warnings))

    async def make(self, plan: Plan, caller: Caller, journey: Journey) -> Generation:
        """Make the image.

        Raises:
            Overloaded: no place was free in time.
            Refused, UpstreamError: as Gemini decides.
            NotAcceptable: the image is of a type that the caller cannot take.
        """
        try:
            async with self._gate.place(caller.name, journey.remaining()):
                generation = await self._made(plan, journey)
            _require_acceptable(generation.image.mime_type, plan.request)
        except TimeoutError as error:
            raise _too_late(journey) from error
        except ServiceError as error:
            error.attempts = journey.attempts or None
            if journey.attempts and isinstance(error, Overloaded | NotAcceptable):
                error.may_have_cost = True  # it was on its way, or even there
            raise
        return replace(generation, attempts=journey.attempts)

    async def _made(self, plan: Plan, journey: Journey) -> Generation:
        try:
            return await self._attempted(plan, journey)
        except UpstreamError as error:
            instead = self._instead(plan) if error.of_the_model else None
            if instead is None or journey.remaining() <= 0:
                raise
            try:
                return await self._attempted(instead, journey)
            except InvalidRequest:  # nothing that the caller has named, or can change
                raise error from None

    async def _attempted(self, plan: Plan, journey: Journey) -> Generation:
        before = journey.attempts

        async def attempt() -> Generation:
            if journey.remaining() <= 0:
                raise _too_late(journey)
            probe = self._breakers.enter(plan.model.id)
            failure: BaseException | None = None
            try:
                journey.count(plan.model.id)
                journey.tell(Started(plan.model.id, journey.attempts))
                return await self._gemini.generate(plan.request, plan.model, journey)
            except BaseException as error:
                failure = error
                raise
            finally:
                self._breakers.leave(plan.model.id, failure, probe=probe)
                failure = None  # or it would hold this frame, and this frame it

        generation = await self._attempts.make(attempt, journey)
        warnings = [*plan.warnings, *generation.warnings, *_size_warnings(generation, plan.request, plan.model)]
        if (took := journey.attempts - before) > 1:
            warnings.append(f"It took {took} attempts.")
        return replace(generation, warnings=tuple(warnings))

    def _instead(self, plan: Plan) -> Plan | None:
        """The plan for the fallback model, if there is one that can do what matters of the request."""
        name = plan.request.fallback_model or self._fallback_model
        if name is None:
            return None
        resolved = self._catalogue.resolve(name)
        model = resolved.model
        if model.id == plan.model.id:
            return None
        if model.output_type and plan.request.accepted_types and model.output_type not in plan.request.accepted_types:
            return None
        adapted = limits.adapt(plan.request, model, vertex=self._vertex)
        if adapted is None:
            return None
        request, warnings = adapted
        said = f"{plan.model.id} is out of capacity; {model.id} answered instead."
        return Plan(request, model, (said, *_without_alias(resolved.warnings, name), *warnings))


def _without_alias(warnings: Sequence[str], name: str) -> list[str]:
    """How the fallback was named is nothing to tell whoever asked for another model."""
    return [warning for warning in warnings if not warning.startswith(f"{name} is another name")]


def _too_late(journey: Journey) -> UpstreamTimeout:
    late = UpstreamTimeout(f"There was no image within the {journey.seconds:g} seconds that it may take.")
    late.waited_for = str(Stage.QUEUE if not journey.attempts else Stage.RETRY)
    late.gemini_s = False
    return late


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
