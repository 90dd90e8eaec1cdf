"""Generating an image: look the model up, refuse what it cannot do, wait for a place, ask Gemini, check what came."""

import logging
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import cast

from app.domain.catalogue import Catalogue, Model
from app.domain.chat import Turn
from app.domain.errors import (
    Internal,
    InvalidRequest,
    NotAcceptable,
    Overloaded,
    ServiceError,
    StorageDamaged,
    UnusableSignatures,
    UpstreamError,
    UpstreamTimeout,
)
from app.domain.generation import Caller, Generation, GenerationRequest
from app.domain.progress import Journey, Stage, Started
from app.gemini import Gemini
from app.lib.base64_json import Content
from app.lib.idle_trim import forget_frames
from app.service.chats.history import recall
from app.service.generation import capabilities
from app.service.resilience.admission import Gate
from app.service.resilience.circuit_breaker import Breakers
from app.service.resilience.retries import Attempts

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Plan:
    """A request that a model can fulfil, and what the caller should know about how."""

    request: GenerationRequest
    model: Model
    warnings: tuple[str, ...] = ()
    chain: tuple[Turn, ...] | None = None
    """The turns of a chat that it builds upon; `None` outside of a chat."""

    def remembering(self, lost: Collection[Content] = (), *, distrusted: bool = False) -> "Plan":
        """The same with whatever of the chat can go along. See `remembering.recall`."""
        if self.chain is None:
            return self
        recollection, warnings = recall(self.chain, self.request, self.model, lost=lost, distrusted=distrusted)
        return replace(
            self,
            request=replace(self.request, recollection=recollection),
            warnings=(*self.warnings, *warnings),
        )


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

    def plan(self, requested: GenerationRequest, caller: Caller, chain: tuple[Turn, ...] | None = None) -> Plan:
        """Refuse whatever can be refused before anything is paid, or waited for.

        Args:
            requested: what is wanted.
            caller: who wants it.
            chain: the turns of a chat that it builds upon.

        Raises:
            InvalidRequest: the model cannot do this.
            NotAcceptable: the image is of a type the caller cannot take, as far as the model's is known.
            Overloaded: there is no room for it.
        """
        resolved = self._catalogue.resolve(requested.model or self._catalogue.default)
        _require_acceptable(resolved.model.output_type, requested)
        with _fields_as_sent(requested):
            fitted, warnings = capabilities.fit(requested, resolved.model, vertex=self._vertex, follows=bool(chain))
            self._gate.require_room(caller.name)
            plan = Plan(fitted, resolved.model, (*resolved.warnings, *warnings), chain)
            plan.remembering()  # for what it refuses
        return plan

    async def make(self, plan: Plan, caller: Caller, journey: Journey) -> Generation:
        """Make the image, of a type that the caller can take.

        Raises:
            Overloaded, Refused, UpstreamError: as `draw`.
            NotAcceptable: the image is of another type.
        """
        generation = await self.draw(plan, caller, journey)
        self.require_acceptable(generation, plan)
        return generation

    async def draw(self, plan: Plan, caller: Caller, journey: Journey) -> Generation:
        """Make the image.

        Raises:
            Overloaded: no place was free in time.
            Refused, UpstreamError: as Gemini decides.
            Internal: a bug.
        """
        try:
            with _fields_as_sent(plan.request):
                async with self._gate.place(caller.name, journey.remaining()):
                    generation = await self._made(plan, journey)
        except TimeoutError as error:
            raise _too_late(journey) from error
        except ServiceError as error:
            error.attempts = journey.attempts or None
            if journey.attempts and isinstance(error, Overloaded):
                error.may_have_cost = True  # it was on its way
            raise
        except Exception as error:
            raise Internal(attempts=journey.attempts) from error
        return replace(generation, attempts=journey.attempts)

    def require_acceptable(self, generation: Generation, plan: Plan) -> None:
        """Refuse to answer with what the caller cannot take, though it is there.

        Raises:
            NotAcceptable: that is so.
        """
        try:
            _require_acceptable(generation.image.mime_type, plan.request)
        except NotAcceptable as error:
            error.attempts, error.may_have_cost = generation.attempts, True
            raise

    async def _made(self, plan: Plan, journey: Journey) -> Generation:
        instead = self._instead(plan)
        try:
            return await self._remembered(plan, journey, another_model=instead is not None)
        except UpstreamError as error:
            if instead is None or not error.of_the_model:
                raise
            if journey.remaining() <= 0 or not self._attempts.left(journey):
                raise
            try:
                return await self._remembered(instead, journey)
            except InvalidRequest:  # nothing that the caller has named, or can change
                raise error from None

    async def _remembered(self, plan: Plan, journey: Journey, *, another_model: bool = False) -> Generation:
        """Attempt it with the chat word for word; with less of it, if Gemini or the storage will not have that."""
        lost: set[Content] = set()
        distrusted = False
        while True:
            try:
                remembering = plan.remembering(lost, distrusted=distrusted)
                return await self._attempted(remembering, journey, another_model=another_model)
            except UnusableSignatures as error:
                if distrusted or plan.chain is None or not self._attempts.left(journey):
                    raise
                log.warning("a chat goes on without its signatures", extra={"cause": error.cause})
                distrusted = True
                forget_frames(error)
            except StorageDamaged as error:
                if error.lost is None or error.lost in lost:
                    raise
                log.error("something of a chat is missing", extra={"cause": error.cause})
                lost.add(cast("Content", error.lost))
                forget_frames(error)

    async def _attempted(self, plan: Plan, journey: Journey, *, another_model: bool) -> Generation:
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
                if isinstance(error, StorageDamaged):
                    journey.take_back(plan.model.id)
                failure = error
                raise
            finally:
                self._breakers.leave(plan.model.id, failure, probe=probe)
                failure = None  # or it would hold this frame, and this frame it

        generation = await self._attempts.make(attempt, journey, another_model=another_model)
        warnings = [one.warning for one in plan.request.references if one.warning]
        warnings += [*plan.warnings, *generation.warnings, *_size_warnings(generation, plan.request, plan.model)]
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
        adapted = capabilities.adapt(plan.request, model, vertex=self._vertex, follows=bool(plan.chain))
        if adapted is None:
            return None
        request, warnings = adapted
        said = f"{plan.model.id} is out of capacity; {model.id} answered instead."
        return Plan(request, model, (said, *_without_alias(resolved.warnings, name), *warnings), plan.chain)


@contextmanager
def _fields_as_sent(request: GenerationRequest) -> Iterator[None]:
    """Whatever is refused inside the block is refused by the names that the caller's fields have."""
    try:
        yield
    except InvalidRequest as error:
        error.rename({"referenceImages": request.references_field})
        raise


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
