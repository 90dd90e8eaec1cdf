"""A circuit breaker for each model: who is told time and again that there is no capacity stops asking for a while."""

import time
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

_MOST_MODELS = 100


@dataclass(slots=True)
class _Circuit:
    failures: int = 0
    """In a row."""
    opened: float | None = None
    probing: bool = False


class CircuitBreakers:
    """Closed, an attempt passes. Open, it fails at once, until the rest is over; then one at a time tests the water."""

    def __init__(self, failures: int, rest_seconds: float) -> None:
        """
        Args:
            failures: how many in a row open a circuit; 0 leaves all of them closed.
            rest_seconds: how long an open one lets nobody pass.
        """
        self._failures = failures
        self._rest = rest_seconds
        self._circuits: dict[str, _Circuit] = {}

    def open_models(self) -> list[str]:
        return [model for model, circuit in self._circuits.items() if circuit.opened is not None]

    def before_call(self, model: str) -> bool:
        """An attempt is about to be made; `leave` has to follow, with what comes back: whether it tests the water.

        Raises:
            UpstreamBusy: the circuit is open.
        """
        circuit = self._circuits.get(model)
        if circuit is None or circuit.opened is None:
            return False
        left = circuit.opened + self._rest - time.monotonic()
        if left > 0 or circuit.probing:
            raise UpstreamBusy(
                f"{model} has been out of capacity for a while; it is not being asked at the moment.",
                cause="circuit open",
                retry_after=max(1, ceil(left)),
            )
        circuit.probing = True
        return True

    def after_call(self, model: str, failure: BaseException | None, *, probe: bool) -> None:
        """An attempt has ended.

        Args:
            model: whose it was.
            probe: whether it tested the water.
            failure: what came of it; `None` for an image.
        """
        if not self._failures:
            return
        circuit = self._circuits.get(model, _Circuit())
        if probe:
            circuit.probing = False
        if _says_nothing(failure):
            return
        if not _is_shortage(failure):
            self._circuits.pop(model, None)  # closed again, and nothing to remember
            return
        if model not in self._circuits and len(self._circuits) >= _MOST_MODELS:
            return  # callers can name any number of models
        self._circuits[model] = circuit
        circuit.failures += 1
        if circuit.failures >= self._failures and (probe or circuit.opened is None):
            circuit.opened = time.monotonic()


def _is_shortage(failure: BaseException | None) -> bool:
    if type(failure) is UpstreamError:
        return (
            failure.retry_safety is not RetrySafety.NEVER
        )  # an account that is not served will not be the next moment either
    return isinstance(failure, UpstreamBusy | UpstreamTimeout)


def _says_nothing(failure: BaseException | None) -> bool:
    """A caller who has left or is in a hurry, a quota, a bill, a storage of ours say nothing of a model's capacity."""
    if isinstance(failure, UpstreamTimeout):
        return not failure.upstream_was_slow
    about_others = isinstance(failure, QuotaExhausted | BillingExhausted | StorageError)
    return failure is not None and (about_others or not isinstance(failure, ServiceError))
