"""One hour of requests at random times, to compare with the formulas."""

import functools
import heapq
import random
from collections import deque
from dataclasses import dataclass
from statistics import fmean, quantiles

from benchmarks.capacity.planning import Load, Plan


@dataclass(frozen=True, slots=True)
class SimulationResult:
    images: int
    in_flight: float
    buffered_mb: float
    peak_in_flight: int
    """Of the busiest replica."""
    peak_buffered_mb: float
    """Of the replica with the most image data."""
    cpu_use: float
    cpu_wait_p99: float
    """Seconds that work waits for the CPU, 99th percentile."""


@functools.lru_cache
def simulate(load: Load, planned: Plan, *, hours: float = 1.0, seed: int = 1) -> SimulationResult:
    """Simulate requests at random times. Each goes to the replica with the fewest generations in flight.

    Drawing times are log-normal, as measured with Gemini: the slowest tenth takes four times the median. A replica uses
    one core and does one piece of work after the other: 20 % of an image's work before the call to Gemini, 80 % after.
    """
    chance = random.Random(seed)  # noqa: S311
    replicas = [_Replica() for _ in range(planned.replicas)]
    end, now, number = 3600 * hours, 0.0, 0
    events: list[tuple[float, int, str, _Replica]] = []
    waits: list[float] = []
    total = _TimeAverage()
    buffered = _TimeAverage()

    def schedule(seconds: float, event: str, replica: _Replica) -> None:
        nonlocal number
        number += 1
        heapq.heappush(events, (now + seconds, number, event, replica))

    schedule(chance.expovariate(load.per_second), "arrival", replicas[0])
    images = 0
    while events:
        now, _, event, replica = heapq.heappop(events)
        if event == "arrival":
            if now > end:
                continue
            schedule(chance.expovariate(load.per_second), "arrival", replicas[0])
            images += 1
            replica = min(replicas, key=lambda one: one.in_flight)
            replica.begin()
            total.add(1, now)
            waits.append(replica.work(now, 0.2 * load.cpu_seconds))
            schedule(waits[-1] + 0.2 * load.cpu_seconds + _drawing(chance, load.drawing_seconds), "drawn", replica)
        elif event == "drawn":
            waits.append(replica.work(now, 0.8 * load.cpu_seconds))
            replica.buffer(load.image_mb)
            buffered.add(load.image_mb, now)
            schedule(waits[-1] + 0.8 * load.cpu_seconds + load.buffered_seconds, "delivered", replica)
        else:
            replica.end(load.image_mb)
            total.add(-1, now)
            buffered.add(-load.image_mb, now)
    return SimulationResult(
        images=images,
        in_flight=total.until(end),
        buffered_mb=buffered.until(end),
        peak_in_flight=max(one.peak_in_flight for one in replicas),
        peak_buffered_mb=max(one.peak_buffered for one in replicas),
        cpu_use=fmean(one.worked for one in replicas) / end,
        cpu_wait_p99=quantiles(waits, n=100)[98],
    )


def _drawing(chance: random.Random, mean: float) -> float:
    sigma = 0.6
    return float(chance.lognormvariate(0, sigma)) * mean / 1.1972  # the distribution's mean


class _Replica:
    def __init__(self) -> None:
        self.in_flight = self.peak_in_flight = 0
        self.buffered = self.peak_buffered = self.worked = self._free_at = 0.0

    def begin(self) -> None:
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)

    def work(self, now: float, seconds: float) -> float:
        """Add work to the queue of the CPU. Return the seconds until it begins."""
        begins = max(now, self._free_at)
        self._free_at = begins + seconds
        self.worked += seconds
        return begins - now

    def buffer(self, megabytes: float) -> None:
        self.buffered += megabytes
        self.peak_buffered = max(self.peak_buffered, self.buffered)

    def end(self, megabytes: float) -> None:
        self.in_flight -= 1
        self.buffered -= megabytes


class _TimeAverage:
    """Average over time of a value that changes in steps."""

    def __init__(self) -> None:
        self._value = self._sum = self._since = 0.0
        self._marks: deque[tuple[float, float]] = deque()

    def add(self, change: float, now: float) -> None:
        self._marks.append((now, change))

    def until(self, end: float) -> float:
        for when, change in self._marks:
            if when > end:
                break
            self._sum += self._value * (when - self._since)
            self._value, self._since = self._value + change, when
        return (self._sum + self._value * (end - self._since)) / end
