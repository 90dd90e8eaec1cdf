"""One circuit breaker per model. After repeated capacity errors, calls to the model fail at once for a while."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil

from app.domain.errors import (
    BillingExhausted,
    QuotaExhausted,
    RetrySafety,
    ServiceError,
    StorageError,
    UpstreamBusy,
    UpstreamError,
    UpstreamTimeout,
)

_MAX_MODELS = 100
"""Limit of circuits with failures, because callers can send any model id."""


@dataclass(slots=True)
class _Circuit:
    failures: int = 0
    """Capacity errors in a row."""
    opened_at: float | None = None
    """Monotonic seconds; `None` while the circuit is closed."""
    probing: bool = False
    """True while a trial call is running."""


class CircuitBreakers:
    """A closed circuit lets calls pass. An open one rejects them, then allows one trial call at a time."""

    def __init__(self, failures: int, open_seconds: float) -> None:
        """
        Args:
            failures: capacity errors in a row that open a circuit; 0 turns circuit breaking off.
            open_seconds: time that an open circuit rejects all calls.
        """
        self._failures = failures
        self._open_seconds = open_seconds
        self._circuits: dict[str, _Circuit] = {}

    def open_models(self) -> list[str]:
        return [model for model, circuit in self._circuits.items() if circuit.opened_at is not None]

    @contextmanager
    def guard(self, model: str) -> Iterator[None]:
        """Make one call to `model` inside the block, and count its result.

        Raises:
            UpstreamBusy: the circuit is open.
        """
        probe = self._before_call(model)
        try:
            yield
        except BaseException as error:
            self._after_call(model, error, probe=probe)
            raise
        self._after_call(model, None, probe=probe)

    def _before_call(self, model: str) -> bool:
        """Return whether this call is a trial call."""
        circuit = self._circuits.get(model)
        if circuit is None or circuit.opened_at is None:
            return False
        left = circuit.opened_at + self._open_seconds - time.monotonic()
        if left > 0 or circuit.probing:
            raise UpstreamBusy(
                f"{model} has had no capacity for several calls in a row; calls to it are paused.",
                cause="circuit open",
                retry_after=max(1, ceil(left)),
            )
        circuit.probing = True
        return True

    def _after_call(self, model: str, error: BaseException | None, *, probe: bool) -> None:
        if not self._failures:
            return
        circuit = self._circuits.get(model, _Circuit())
        if probe:
            circuit.probing = False
        if _is_neutral(error):
            return
        if not _is_capacity_error(error):
            self._circuits.pop(model, None)  # closes the circuit
            return
        if model not in self._circuits and len(self._circuits) >= _MAX_MODELS:
            return
        self._circuits[model] = circuit
        circuit.failures += 1
        if circuit.failures >= self._failures and (probe or circuit.opened_at is None):
            circuit.opened_at = time.monotonic()


def _is_capacity_error(error: BaseException | None) -> bool:
    if type(error) is UpstreamError:
        # RetrySafety.NEVER: for instance an account that Gemini does not serve, which waiting does not change.
        return error.retry_safety is not RetrySafety.NEVER
    return isinstance(error, UpstreamBusy | UpstreamTimeout)


def _is_neutral(error: BaseException | None) -> bool:
    """Return whether the result says nothing about the model's capacity.

    That is so for a disconnect, a short deadline of the caller, a quota, an unpaid bill and a failing storage.
    """
    if isinstance(error, UpstreamTimeout):
        return not error.upstream_was_slow
    other_cause = isinstance(error, QuotaExhausted | BillingExhausted | StorageError)
    return error is not None and (other_cause or not isinstance(error, ServiceError))
