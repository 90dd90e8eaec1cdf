"""Generating an image: look the model up, refuse what it cannot do, wait for a place, ask Gemini, check what came."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import cast

from app.domain.catalogue import Catalogue
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
from app.service.generation import capabilities
from app.service.generation.plan import Plan, require_accepted_type, size_warnings, without_alias_warning
from app.service.resilience.admission import Gate
from app.service.resilience.circuit_breaker import Breakers
from app.service.resilience.retries import Attempts

log = logging.getLogger(__name__)


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
        require_accepted_type(resolved.model.output_type, requested)
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
            require_accepted_type(generation.image.mime_type, plan.request)
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
        warnings += [*plan.warnings, *generation.warnings, *size_warnings(generation, plan.request, plan.model)]
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
        return Plan(request, model, (said, *without_alias_warning(resolved.warnings, name), *warnings), plan.chain)


@contextmanager
def _fields_as_sent(request: GenerationRequest) -> Iterator[None]:
    """Whatever is refused inside the block is refused by the names that the caller's fields have."""
    try:
        yield
    except InvalidRequest as error:
        error.rename({"referenceImages": request.references_field})
        raise


def _too_late(journey: Journey) -> UpstreamTimeout:
    late = UpstreamTimeout(f"There was no image within the {journey.seconds:g} seconds that it may take.")
    late.waited_for = str(Stage.QUEUE if not journey.attempts else Stage.RETRY)
    late.gemini_s = False
    return late
