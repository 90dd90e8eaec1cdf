"""Run one generation for a caller: cancel it on disconnect, enforce the deadline, log it and record its metrics.

`GenerationRun._stop` decides what happens to work whose caller has disconnected. A chat turn that Gemini has been asked
for is finished and stored; all other work is cancelled.
"""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from app.domain.caller import Caller
from app.domain.errors import (
    CallerDisconnected,
    CallerTooSlow,
    Internal,
    NotAcceptable,
    Overloaded,
    ServiceError,
)
from app.domain.generation import Generation, Image
from app.domain.progress import CallGuard, GenerationProgress, ProgressEvent, Stage
from app.domain.spending import ImageCost
from app.lib.byte_budget import Reservation
from app.service.callers.bills import Bill
from app.service.conversion import ImageConverter
from app.service.generation.log import log_generation
from app.service.generation.output import OutputConversion, needs_conversion
from app.service.generation.plan import GenerationPlan
from app.service.metrics import Metrics
from app.service.resilience.admission import Admission, AdmissionController

Generate = Callable[[Admission, GenerationProgress], Coroutine[Any, Any, Generation]]
Work = asyncio.Task[Generation]

_ERRORS_OF_THIS_SERVICE = (Overloaded, NotAcceptable, Internal)
"""Errors that do not depend on Gemini's answer. If Gemini was asked before one of them, it may have been paid."""


class GenerationRun:
    """One generation, from admission to the end of its response."""

    def __init__(
        self,
        controller: AdmissionController,
        caller: Caller,
        memory: Reservation,
        converter: ImageConverter,
        seconds: float,
        metrics: Metrics,
        log_error: Callable[[Exception], object],
        bill: Bill,
        admission: Admission | None = None,
    ) -> None:
        """
        Args:
            controller: decides whether the generation may start.
            caller: who asked.
            memory: reservation for Gemini's response. Released when the run ends.
            converter: makes the file format that the caller asks for.
            seconds: time limit, from the end of the request's body to the image.
            metrics: where the generation is recorded.
            log_error: logs an error that no response can report.
            bill: where the cost is booked.
            admission: a slot that the generation has already.
        """
        self._controller = controller
        self._caller = caller
        self._memory = memory
        self._draft_memory = converter.reserve()
        self._converter = converter
        self._seconds = seconds
        self._metrics = metrics
        self._log_error = log_error
        self.bill = bill
        """Where the cost is booked. It can be replaced before `generate`."""
        self._admission = admission
        self._plan: GenerationPlan | None = None
        self._progress: GenerationProgress | None = None
        self._generation: Generation | None = None
        self._failure: ServiceError | None = None
        self._disconnected_in: str | None = None
        self._detached: Work | None = None
        self._has_image = False

    def admit(self, *, patient: bool = False) -> Admission:
        """Enter the queue, or take a free slot. A second call changes nothing.

        Call this before the response begins and before anything is stored, so that a full queue is a plain problem.

        Args:
            patient: as in `AdmissionController.admit`.

        Raises:
            Overloaded: the queue is full, the expected wait is too long, or the service stops.
        """
        if self._admission is None:
            self._admission = self._controller.admit(self._caller.name, patient=patient)
        return self._admission

    async def generate(
        self,
        plan: GenerationPlan,
        generate: Generate,
        caller_gone: Callable[[], Coroutine[Any, Any, ServiceError]],
        listener: Callable[[ProgressEvent], None] | None = None,
        *,
        on_detach: Callable[[Work], None] | None = None,
        guard: CallGuard | None = None,
    ) -> Generation:
        """Generate the image while the caller is connected.

        Args:
            plan: what to generate.
            generate: does it.
            caller_gone: returns once the caller has disconnected, with the error to raise then.
            listener: receives progress events.
            on_detach: receives the running work if the caller disconnects after Gemini was asked. The work then goes
                on without the caller. Without `on_detach` it is cancelled.
            guard: decides on the calls to Gemini; by default the guard of the bill.

        Raises:
            CallerDisconnected, CallerTooSlow: the caller disconnected before the image was complete.
            NotAcceptable: the caller does not accept the image's media type.
            UpstreamInvalidResponse, UpstreamTimeout: the image cannot be converted. A turn is stored by then.
            ServiceError: the generation failed; `Internal` is a bug.
        """
        admission = self.admit()
        self._plan = plan
        self._progress = GenerationProgress(self._seconds, self._memory, listener, guard or self.bill.guard)
        try:
            with self._controller.delivering():
                work = partial(self._billed, partial(generate, admission, self._progress))
                generation = self._generation = await self._while_connected(work, caller_gone, on_detach)
                plan.require_accepted(generation)
                if needs_conversion(generation, plan.request):
                    conversion = partial(self._conversion().generation, generation)
                    generation = self._generation = await self._while_connected(conversion, caller_gone, None)
        except ServiceError as error:
            self.fail(error)
            raise
        except Exception as error:
            raise self.unexpected(error) from error
        except BaseException as error:
            self.fail(Internal(cause=type(error).__name__))
            raise
        self._progress.enter(Stage.RESPONSE)
        return generation

    async def _billed(self, generate: Callable[[], Coroutine[Any, Any, Generation]]) -> Generation:
        """Book the cost once the generation has ended, also if it was cancelled."""
        try:
            generation = await generate()
            self._has_image = True
            return generation
        finally:
            await self.bill.settle(self.cost)

    @property
    def cost(self) -> ImageCost:
        """What the image has cost so far."""
        progress, plan = self._progress, self._plan
        if progress is None or plan is None:
            return ImageCost("")
        model = progress.answered_by or plan.model.id
        return ImageCost(model, int(self._has_image), progress.tokens, progress.micro_usd, progress.unknown_calls)

    @property
    def has_slot(self) -> bool:
        """Whether a slot is granted, so that the generation can begin at once."""
        return self._admission is not None and self._admission.is_granted

    @property
    def attempts(self) -> int:
        """Calls to Gemini so far."""
        return self._progress.attempts if self._progress else 0

    async def convert(self, image: Image) -> Image:
        """Return an image of the running generation, such as a draft, in the format that its caller asks for.

        Raises:
            UpstreamInvalidResponse: the image cannot be decoded.
            UpstreamTimeout: the conversion was not complete at the deadline.
        """
        return await self._conversion().image(image, self._draft_memory)

    def _conversion(self) -> OutputConversion:
        assert self._plan
        assert self._progress
        return OutputConversion(self._converter, self._plan.request, self._progress)

    async def _while_connected(
        self,
        start: Callable[[], Coroutine[Any, Any, Generation]],
        caller_gone: Callable[[], Coroutine[Any, Any, ServiceError]],
        on_detach: Callable[[Work], None] | None,
    ) -> Generation:
        gone = asyncio.create_task(caller_gone())
        work: Work | None = None
        try:
            await asyncio.sleep(0)  # lets `gone` find a caller who has left already: then nothing is begun
            if not gone.done():
                work = asyncio.create_task(start())
                await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            disconnected = work is None or not work.done()
            gone.cancel()  # before the next `await`, which another cancellation can end; changes nothing if it is done
            if work is not None and disconnected:
                await self._stop(work, on_detach)
            await asyncio.wait({gone})
        try:
            if work is None or disconnected:
                raise gone.result()
            return work.result()
        finally:
            del work, gone  # they hold the error, whose traceback holds this frame: a reference cycle

    async def _stop(self, work: Work, on_detach: Callable[[Work], None] | None) -> None:
        """Detach the work if it has been paid and will be stored; otherwise cancel it."""
        if on_detach is not None and self._progress is not None and self._progress.attempts:
            self._detached = work
            on_detach(work)
            return
        work.cancel()
        await asyncio.wait({work})
        if not work.cancelled():
            work.exception()  # retrieved, so that asyncio does not log it

    def fail(self, error: ServiceError) -> None:
        """Record the first error as the outcome, and set its calls and whether it may have cost.

        Later errors are ignored: they are consequences of the first.
        """
        if self._failure is not None:
            return
        self._failure = error
        progress = self._progress
        if progress is None:
            return
        error.attempts = progress.attempts or None
        # An earlier call may have been billed, even if the last one certainly cost nothing.
        if progress.ambiguous_failures or (progress.attempts and isinstance(error, _ERRORS_OF_THIS_SERVICE)):
            error.may_have_cost = True
        if isinstance(error, CallerDisconnected | CallerTooSlow):
            self._disconnected_in = str(progress.stage)

    def unexpected(self, error: Exception) -> ServiceError:
        """Record a bug as the outcome. Return the error to report to the caller."""
        internal = Internal()
        internal.__cause__ = error
        self.fail(internal)
        return internal

    def finish(self) -> None:
        """Release memory, log the generation and record its metrics.

        Called when the response has been sent. For detached work this is done when the work ends.
        """
        work, self._detached = self._detached, None
        if work is None:
            self._finish()
        else:
            work.add_done_callback(self._finish_detached)

    def _finish_detached(self, work: Work) -> None:
        if not work.cancelled():
            error = work.exception()
            self._generation = work.result() if error is None else None
            if isinstance(error, Exception):
                self._log_error(error)
        self._finish()

    def _finish(self) -> None:
        self._memory.resize(0)
        self._draft_memory.resize(0)
        self.bill.close()
        if self._admission is not None:
            self._admission.release()
        progress, plan = self._progress, self._plan
        if progress is None or plan is None:
            return
        progress.enter(progress.stage)
        generation = self._generation
        outcome = self._failure.code if self._failure else "ok"
        model = generation.model if generation else plan.model.id
        log_generation(self._caller.name, model, outcome, progress, generation, self._failure, self._disconnected_in)
        self._metrics.record_generation(self._caller.name, model, outcome, progress, self._disconnected_in)
        self._generation = self._failure = None
