"""Generate one image: resolve the model, check the request, wait for a slot, ask Gemini."""

from contextlib import suppress
from dataclasses import replace
from functools import partial

from app.domain.catalogue import Catalogue
from app.domain.errors import (
    GenerationRefused,
    Internal,
    InvalidRequest,
    InvalidThoughtSignature,
    NotAllowed,
    ServiceError,
    StorageDamaged,
    UpstreamError,
    UpstreamTimeout,
)
from app.domain.generation import Generation, GenerationRequest
from app.domain.limits import UNLIMITED, Limits
from app.domain.progress import GenerationProgress, Stage, Started
from app.domain.spending import Charge
from app.gemini import GeminiClient
from app.service.callers import permissions
from app.service.callers.estimates import estimate_call
from app.service.generation import capabilities
from app.service.generation.output import is_acceptable, require_acceptable
from app.service.generation.plan import (
    GenerationPlan,
    History,
    size_warnings,
    without_alias_warning,
)
from app.service.resilience.admission import Admission
from app.service.resilience.circuit_breaker import CircuitBreakers
from app.service.resilience.retries import Retrier


class ImageService:
    def __init__(
        self,
        gemini: GeminiClient,
        catalogue: Catalogue,
        retrier: Retrier,
        breakers: CircuitBreakers,
        *,
        fallback_model: str | None = None,
        vertex: bool = False,
    ) -> None:
        self._gemini = gemini
        self._catalogue = catalogue
        self._retrier = retrier
        self._breakers = breakers
        self._fallback_model = fallback_model
        self._vertex = vertex

    def plan(
        self, requested: GenerationRequest, limits: Limits = UNLIMITED, history: History | None = None
    ) -> GenerationPlan:
        """Check the request before anything is paid.

        Args:
            requested: what the caller sent.
            limits: of the caller. Without a size in the request, the image is no larger than they allow.
            history: of the chat that the request continues.

        Raises:
            InvalidRequest: the model cannot do this.
            NotAllowed: the caller may not ask for the model, or for an image of this size.
            NotAcceptable: the caller accepts neither the model's image type nor one that it can be converted to.
        """
        resolved = self._catalogue.resolve(requested.model or self._catalogue.default)
        require_acceptable(resolved.model.output_type, requested)
        request, warnings = capabilities.validate_request(
            requested,
            resolved.model,
            vertex=self._vertex,
            continues_chat=history is not None and not history.is_empty,
            max_size=limits.max_size,
        )
        permissions.require_allowed(request, resolved.model, limits, self._catalogue)
        plan = GenerationPlan(request, resolved.model, (*resolved.warnings, *warnings), history, limits)
        if requested.fallback_model and (fallback := self._fallback_plan(plan)) is not None:
            permissions.require_allowed(fallback.request, fallback.model, limits, self._catalogue)
        plan.with_context()  # only for the errors that it raises
        return plan

    def charge(self, plan: GenerationPlan, count: int) -> Charge:
        """Return what a request for so many images takes of its caller's limits."""
        fallback = self._allowed_fallback_plan(plan)
        estimates = [estimate_call(one) for one in (plan, fallback) if one is not None]
        return Charge(count, max(estimates), plan.model.id)

    async def generate(self, plan: GenerationPlan, admission: Admission, progress: GenerationProgress) -> Generation:
        """Wait for the slot, then ask Gemini for the image.

        Raises:
            Overloaded: no slot was free in time, or the service stopped.
            GenerationRefused, UpstreamError, InvalidRequest: Gemini's answer.
            StorageError: the chat's images cannot be read.
            Internal: a bug.
        """
        try:
            async with admission.slot(progress.remaining()):
                generation = await self._ask_candidates(plan, progress)
        except TimeoutError as error:
            raise _deadline_exceeded(progress) from error
        except GenerationRefused as error:
            progress.usage = error.usage
            raise
        except ServiceError:
            raise
        except Exception as error:
            raise Internal from error
        progress.usage = generation.usage
        return replace(generation, attempts=progress.attempts)

    async def _ask_candidates(self, plan: GenerationPlan, progress: GenerationProgress) -> Generation:
        """Ask the model; after some errors, ask again with less of the chat, or ask the fallback model."""
        fallback = self._allowed_fallback_plan(plan)
        shortage: ServiceError | None = None
        try:
            while True:
                try:
                    return await self._ask(plan, progress, has_fallback=fallback is not None)
                except InvalidRequest:
                    if shortage is None:
                        raise
                    raise shortage from None  # the caller's request is valid for the model that the caller named
                except (UpstreamError, StorageDamaged) as error:
                    history = self._reduced_history(plan, error, progress)
                    if history is None and not (fallback is not None and self._fallback_helps(error, progress)):
                        raise
                    if error.may_have_cost and not await progress.allows_repetition():
                        raise
                    if history is not None:
                        plan = replace(plan, history=history)
                    elif fallback is not None:
                        plan, fallback, shortage = fallback, None, error
        finally:
            shortage = None  # its traceback refers to this frame: a reference cycle

    def _reduced_history(
        self, plan: GenerationPlan, error: ServiceError, progress: GenerationProgress
    ) -> History | None:
        if plan.history is None:
            return None
        if isinstance(error, InvalidThoughtSignature) and not self._retrier.has_calls_left(progress):
            return None
        return plan.history.reduced_after(error)

    def _fallback_helps(self, error: ServiceError, progress: GenerationProgress) -> bool:
        return (
            isinstance(error, UpstreamError)
            and error.allows_fallback
            and progress.remaining() > 0
            and self._retrier.has_calls_left(progress)
        )

    async def _ask(self, plan: GenerationPlan, progress: GenerationProgress, *, has_fallback: bool) -> Generation:
        """Ask one model, with retries."""
        plan = plan.with_context()
        before = progress.attempts
        call = partial(self._call, plan, progress)
        generation = await self._retrier.call(call, progress, has_fallback=has_fallback)
        warnings = [one.warning for one in plan.request.references if one.warning]
        warnings += [*plan.warnings, *generation.warnings, *size_warnings(generation, plan.request, plan.model)]
        if (attempts := progress.attempts - before) > 1:
            warnings.append(f"It took {attempts} attempts.")
        return replace(generation, warnings=tuple(warnings))

    async def _call(self, plan: GenerationPlan, progress: GenerationProgress) -> Generation:
        """Make one call to Gemini."""
        if progress.remaining() <= 0:
            raise _deadline_exceeded(progress)
        with self._breakers.guard(plan.model.id):
            await progress.begin_call(plan.model.id)
            progress.notify(Started(plan.model.id, progress.attempts))
            try:
                generation = await self._gemini.generate(plan.request, plan.model, progress)
            except StorageDamaged:
                progress.take_back(plan.model.id)
                raise
            except GenerationRefused as error:
                progress.note_usage(plan.model.id, error.usage)
                raise
            except ServiceError as error:
                if not error.may_have_cost:
                    progress.note_free_call()
                if isinstance(error, InvalidRequest):
                    # Gemini's client names the fields as JSON requests do; a form names them otherwise.
                    raise error.renamed({"referenceImages": plan.request.references_field}) from error
                raise
            progress.note_usage(plan.model.id, generation.usage)
            return generation

    def _allowed_fallback_plan(self, plan: GenerationPlan) -> GenerationPlan | None:
        """Return the plan for the fallback model; `None` without one that the caller may ask."""
        fallback = self._fallback_plan(plan)
        if fallback is not None:
            with suppress(NotAllowed):
                permissions.require_allowed(fallback.request, fallback.model, plan.limits, self._catalogue)
                return fallback
        return None

    def _fallback_plan(self, plan: GenerationPlan) -> GenerationPlan | None:
        """Return the plan for the fallback model; `None` without one that can make an equivalent image."""
        name = plan.request.fallback_model or self._fallback_model
        if name is None:
            return None
        resolved = self._catalogue.resolve(name)
        model = resolved.model
        if model.id == plan.model.id or not is_acceptable(model.output_type, plan.request):
            return None
        adapted = capabilities.adapt_to_fallback(
            plan.request,
            model,
            vertex=self._vertex,
            continues_chat=plan.continues_chat,
            max_size=plan.limits.max_size,
        )
        if adapted is None:
            return None
        request, warnings = adapted
        reason = f"{plan.model.id} is out of capacity; {model.id} answered instead."
        warnings = [reason, *without_alias_warning(resolved.warnings, name), *warnings]
        return replace(plan, request=request, model=model, warnings=tuple(warnings))


def _deadline_exceeded(progress: GenerationProgress) -> UpstreamTimeout:
    return UpstreamTimeout(
        f"The image was not complete within the time limit of {progress.seconds:g} seconds.",
        waited_for=str(Stage.RETRY if progress.attempts else Stage.QUEUE),
        upstream_was_slow=False,
    )
