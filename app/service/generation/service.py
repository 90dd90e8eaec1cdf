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
    InvalidThoughtSignature,
    NotAcceptable,
    Overloaded,
    ServiceError,
    StorageDamaged,
    UpstreamError,
    UpstreamTimeout,
)
from app.domain.generation import Caller, Generation, GenerationRequest
from app.domain.progress import GenerationProgress, Stage, Started
from app.gemini import GeminiClient
from app.lib.base64_json import Content
from app.service.generation import capabilities
from app.service.generation.plan import GenerationPlan, require_accepted_type, size_warnings, without_alias_warning
from app.service.resilience.admission import AdmissionController
from app.service.resilience.circuit_breaker import CircuitBreakers
from app.service.resilience.retries import Retrier

log = logging.getLogger(__name__)


class ImageService:
    def __init__(
        self,
        gemini: GeminiClient,
        catalogue: Catalogue,
        admission: AdmissionController,
        attempts: Retrier,
        breakers: CircuitBreakers,
        *,
        fallback_model: str | None = None,
        vertex: bool = False,
    ) -> None:
        self._gemini = gemini
        self._catalogue = catalogue
        self._admission = admission
        self._attempts = attempts
        self._breakers = breakers
        self._fallback_model = fallback_model
        self._vertex = vertex

    def plan(
        self, requested: GenerationRequest, caller: Caller, chain: tuple[Turn, ...] | None = None
    ) -> GenerationPlan:
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
            fitted, warnings = capabilities.validate_request(
                requested, resolved.model, vertex=self._vertex, follows=bool(chain)
            )
            self._admission.check_capacity(caller.name)
            plan = GenerationPlan(fitted, resolved.model, (*resolved.warnings, *warnings), chain)
            plan.remembering()  # for what it refuses
        return plan

    async def make(self, plan: GenerationPlan, caller: Caller, progress: GenerationProgress) -> Generation:
        """Make the image, of a type that the caller can take.

        Raises:
            Overloaded, Refused, UpstreamError: as `draw`.
            NotAcceptable: the image is of another type.
        """
        generation = await self.draw(plan, caller, progress)
        self.require_acceptable(generation, plan)
        return generation

    async def draw(self, plan: GenerationPlan, caller: Caller, progress: GenerationProgress) -> Generation:
        """Make the image.

        Raises:
            Overloaded: no place was free in time.
            Refused, UpstreamError: as Gemini decides.
            Internal: a bug.
        """
        try:
            with _fields_as_sent(plan.request):
                async with self._admission.admit(caller.name, progress.remaining()):
                    generation = await self._made(plan, progress)
        except TimeoutError as error:
            raise _too_late(progress) from error
        except ServiceError as error:
            error.attempts = progress.attempts or None
            if progress.attempts and isinstance(error, Overloaded):
                error.may_have_cost = True  # it was on its way
            raise
        except Exception as error:
            raise Internal(attempts=progress.attempts) from error
        return replace(generation, attempts=progress.attempts)

    def require_acceptable(self, generation: Generation, plan: GenerationPlan) -> None:
        """Refuse to answer with what the caller cannot take, though it is there.

        Raises:
            NotAcceptable: that is so.
        """
        try:
            require_accepted_type(generation.image.mime_type, plan.request)
        except NotAcceptable as error:
            error.attempts, error.may_have_cost = generation.attempts, True
            raise

    async def _made(self, plan: GenerationPlan, progress: GenerationProgress) -> Generation:
        instead = self._instead(plan)
        try:
            return await self._remembered(plan, progress, another_model=instead is not None)
        except UpstreamError as error:
            if instead is None or not error.allows_fallback:
                raise
            if progress.remaining() <= 0 or not self._attempts.left(progress):
                raise
            try:
                return await self._remembered(instead, progress)
            except InvalidRequest:  # nothing that the caller has named, or can change
                raise error from None

    async def _remembered(
        self, plan: GenerationPlan, progress: GenerationProgress, *, another_model: bool = False
    ) -> Generation:
        """Attempt it with the chat word for word; with less of it, if Gemini or the storage will not have that."""
        lost: set[Content] = set()
        distrusted = False
        while True:
            try:
                remembering = plan.remembering(lost, distrusted=distrusted)
                return await self._attempted(remembering, progress, another_model=another_model)
            except InvalidThoughtSignature as error:
                if distrusted or plan.chain is None or not self._attempts.left(progress):
                    raise
                log.warning("a chat goes on without its signatures", extra={"cause": error.cause})
                distrusted = True
            except StorageDamaged as error:
                if error.lost is None or error.lost in lost:
                    raise
                log.error("something of a chat is missing", extra={"cause": error.cause})
                lost.add(cast("Content", error.lost))

    async def _attempted(
        self, plan: GenerationPlan, progress: GenerationProgress, *, another_model: bool
    ) -> Generation:
        before = progress.attempts

        async def attempt() -> Generation:
            if progress.remaining() <= 0:
                raise _too_late(progress)
            probe = self._breakers.before_call(plan.model.id)
            failure: BaseException | None = None
            try:
                progress.count(plan.model.id)
                progress.notify(Started(plan.model.id, progress.attempts))
                return await self._gemini.generate(plan.request, plan.model, progress)
            except BaseException as error:
                if isinstance(error, StorageDamaged):
                    progress.take_back(plan.model.id)
                failure = error
                raise
            finally:
                self._breakers.after_call(plan.model.id, failure, probe=probe)
                failure = None  # or it would hold this frame, and this frame it

        generation = await self._attempts.make(attempt, progress, another_model=another_model)
        warnings = [one.warning for one in plan.request.references if one.warning]
        warnings += [*plan.warnings, *generation.warnings, *size_warnings(generation, plan.request, plan.model)]
        if (took := progress.attempts - before) > 1:
            warnings.append(f"It took {took} attempts.")
        return replace(generation, warnings=tuple(warnings))

    def _instead(self, plan: GenerationPlan) -> GenerationPlan | None:
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
        adapted = capabilities.adapt_to_fallback(plan.request, model, vertex=self._vertex, follows=bool(plan.chain))
        if adapted is None:
            return None
        request, warnings = adapted
        said = f"{plan.model.id} is out of capacity; {model.id} answered instead."
        return GenerationPlan(
            request, model, (said, *without_alias_warning(resolved.warnings, name), *warnings), plan.chain
        )


@contextmanager
def _fields_as_sent(request: GenerationRequest) -> Iterator[None]:
    """Whatever is refused inside the block is refused by the names that the caller's fields have."""
    try:
        yield
    except InvalidRequest as error:
        error.rename({"referenceImages": request.references_field})
        raise


def _too_late(progress: GenerationProgress) -> UpstreamTimeout:
    late = UpstreamTimeout(f"There was no image within the {progress.seconds:g} seconds that it may take.")
    late.waited_for = str(Stage.QUEUE if not progress.attempts else Stage.RETRY)
    late.upstream_was_slow = False
    return late
