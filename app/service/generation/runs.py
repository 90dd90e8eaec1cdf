"""Begins generation runs. It holds what all runs of the process share."""

from collections.abc import Callable

from app.domain.caller import Caller
from app.lib.byte_budget import ByteBudget, Reservation
from app.service.callers.spending import CallerSpending
from app.service.conversion import ImageConverter
from app.service.generation.run import GenerationRun
from app.service.metrics import Metrics
from app.service.resilience.admission import Admission, AdmissionController


class GenerationRuns:
    def __init__(
        self,
        controller: AdmissionController,
        response_memory: ByteBudget,
        converter: ImageConverter,
        metrics: Metrics,
        log_error: Callable[[Exception], object],
        spending: CallerSpending,
    ) -> None:
        """
        Args:
            controller: decides when a generation may start.
            response_memory: for Gemini's responses.
            converter: makes the file formats that callers ask for.
            metrics: where generations are recorded.
            log_error: logs an error that no response can report.
            spending: books what images cost.
        """
        self.controller = controller
        self._response_memory = response_memory
        self._converter = converter
        self._metrics = metrics
        self._log_error = log_error
        self._spending = spending

    def begin(self, caller: Caller, seconds: float, admission: Admission | None = None) -> GenerationRun:
        """Return a new run. Its `finish` must be called.

        Args:
            caller: who asked.
            seconds: time limit.
            admission: a slot that the run has already.
        """
        return GenerationRun(
            self.controller,
            caller,
            Reservation(self._response_memory),
            self._converter,
            seconds,
            self._metrics,
            log_error=self._log_error,
            bill=self._spending.unreserved(caller),
            admission=admission,
        )
