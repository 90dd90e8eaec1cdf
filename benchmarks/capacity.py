"""Compute the capacity for a load: `python -m benchmarks.capacity --per-minute 600 --image-size 2K`.

The formulas use measurements of `make bench` (benchmarks/results) and list prices. deploy/capacity.md explains them.
`--simulate` simulates one hour of requests, to compare with the formulas.
"""

import argparse
import functools
import heapq
import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, fields
from math import ceil
from statistics import fmean, quantiles

from app.domain.catalogue import Catalogue

MB = 1e6
IMAGE_MB = {"512": 0.3, "1K": 0.8, "2K": 3.0, "4K": 10.0}
"""File size of an image of Nano Banana Pro by image size: recorded at 1K, other sizes estimated by pixels."""

SIGNATURES_MB = 3.0
"""Size of a response's two thought signatures together. 0.8 to 2.2 MB each have been recorded."""

ROW_BYTES = 3_200
"""Database size per turn, including indexes. Measured with SQLite over 2,000 turns."""

CPU_BASE, CPU_PER_MB, CPU_PER_UPLOAD_MB = 0.004, 0.0019, 0.0023
"""CPU seconds per image, per MB of the image and per MB of uploads. Measured for JSON with `data` and `url`: 5 ms at
0.6 MB, 41 ms at 20 MB."""

CPU_TURN, CPU_HISTORY_MB = 0.010, 0.0012
"""Additional CPU seconds per chat turn, and per MB of earlier turns that are sent to Gemini."""

TARGET_CPU_USE = 0.6
"""Average CPU use to plan for. The remainder is for bursts and for the failure of a replica."""

PROCESS_MB = 150
"""Memory of the process without images."""
BUFFER_FACTOR = 1.2
"""Memory per byte of `MAX_BUFFERED_BYTES`."""
WIRE_FACTOR = {"bytes": 1.0, "b64": 4 / 3, "data_url": 8 / 3}
"""Bytes sent to the caller per byte of the image, by response format."""


@dataclass(frozen=True, slots=True)
class Load:
    per_minute: float = 60
    image_size: str = "2K"
    drawing_seconds: float = 35
    """Average time that Gemini needs for an image."""
    model: str = "gemini-3-pro-image"
    response_format: str = "data_url"
    """`bytes`, `b64` (JSON with one base64 field) or `data_url` (JSON with both)."""
    caller_mbit: float = 50
    """Bandwidth at which callers read their responses."""
    references_mb: float = 0
    """Uploads per image."""
    chat_share: float = 0
    """Share of the images that are chat turns, 0 to 1."""
    earlier_turns: float = 4
    """Average number of earlier turns that are sent to Gemini with a chat turn."""
    search_queries: float = 0
    """Search queries per image."""

    @property
    def per_second(self) -> float:
        return self.per_minute / 60

    @property
    def image_mb(self) -> float:
        return IMAGE_MB[self.image_size]

    @property
    def history_mb(self) -> float:
        return self.earlier_turns * (self.image_mb + SIGNATURES_MB)

    @property
    def cpu_seconds(self) -> float:
        """CPU seconds per image."""
        turn = self.chat_share * (CPU_TURN + CPU_HISTORY_MB * self.history_mb)
        return CPU_BASE + CPU_PER_MB * self.image_mb + CPU_PER_UPLOAD_MB * self.references_mb + turn

    @property
    def buffered_seconds(self) -> float:
        """Seconds that an image is in memory: from its first byte to the end of the response."""
        return 1.0 + self.image_mb * WIRE_FACTOR[self.response_format] * 8 / self.caller_mbit


@dataclass(frozen=True, slots=True)
class Plan:
    in_flight: float
    """Average number of generations in flight, over all replicas."""
    buffered_mb: float
    """Average size of the images in memory, over all replicas."""
    replicas: int
    memory_mb: int
    """Memory of each replica, with `max_buffered_bytes`."""
    max_buffered_bytes: int
    cpu_use: float
    """Average CPU use of each replica, 0 to 1."""
    egress_gb_per_day: float
    """Traffic to callers and to Google."""
    blobs_gb_per_day: float
    database_mb_per_day: float
    dollars_per_hour: float

    def __str__(self) -> str:
        return "\n".join(f"{one.name:<22}{getattr(self, one.name):>16,.6g}" for one in fields(self))


def plan(load: Load, *, max_in_flight: int = 1000) -> Plan:
    """Return the capacity for a load."""
    in_flight = load.per_second * (load.drawing_seconds + load.buffered_seconds)
    buffered = load.per_second * load.buffered_seconds * load.image_mb
    by_cpu = load.per_second * load.cpu_seconds / TARGET_CPU_USE
    by_slots = in_flight / (max_in_flight * 0.7)
    replicas = max(2, ceil(by_cpu), ceil(by_slots))
    uploads = load.per_second * load.drawing_seconds * load.references_mb
    # Three times the average, for bursts and for the failure of a replica. Half of the limit is for uploads.
    max_buffered = max(200, 2 * 3 * max(buffered, uploads) / replicas, 12 * load.image_mb)
    day = 86_400 * load.per_second
    to_google = load.references_mb + load.chat_share * load.history_mb
    model = Catalogue(load.model).resolve(load.model).model
    price = (model.image_price(load.image_size) or 0) + load.search_queries * (model.prices.search_query or 0)
    return Plan(
        in_flight=in_flight,
        buffered_mb=buffered,
        replicas=replicas,
        memory_mb=ceil(PROCESS_MB + BUFFER_FACTOR * max_buffered),
        max_buffered_bytes=int(max_buffered * MB),
        cpu_use=load.per_second * load.cpu_seconds / replicas,
        egress_gb_per_day=day * (load.image_mb * WIRE_FACTOR[load.response_format] + to_google * 4 / 3) / 1000,
        blobs_gb_per_day=day * load.chat_share * (load.image_mb + SIGNATURES_MB) / 1000,
        database_mb_per_day=day * load.chat_share * ROW_BYTES / MB,
        dollars_per_hour=3600 * load.per_second * price,
    )


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


EXAMPLE_LOADS = (
    Load(per_minute=60, image_size="2K", drawing_seconds=35, chat_share=0.5),
    Load(per_minute=600, image_size="1K", drawing_seconds=25, response_format="bytes", caller_mbit=20),
    Load(per_minute=100_000 / 60, image_size="4K", drawing_seconds=60, response_format="bytes", chat_share=0.2),
)
"""A team, a product, and 100,000 images per hour."""


def table() -> Iterator[str]:
    """Return the lines of the table in deploy/capacity.md."""
    yield (
        "| load | replicas | memory per replica | in flight | simulated | CPU use | simulated | buffered, MB "
        "| simulated | wait for CPU, p99 |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for load in EXAMPLE_LOADS:
        planned = plan(load)
        found = simulate(load, planned)
        yield (
            f"| {load.per_minute:,.0f} per minute, {load.image_size} | {planned.replicas} | {planned.memory_mb:,} MB "
            f"| {planned.in_flight:,.0f} | {found.in_flight:,.0f}, max. {found.peak_in_flight:,} per replica "
            f"| {planned.cpu_use:.0%} | {found.cpu_use:.0%} | {planned.buffered_mb:,.0f} "
            f"| {found.buffered_mb:,.0f}, max. {found.peak_buffered_mb:,.0f} per replica "
            f"| {1000 * found.cpu_wait_p99:.0f} ms |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.capacity", description=__doc__)
    for one in fields(Load):
        parser.add_argument(f"--{one.name.replace('_', '-')}", type=type(one.default), default=one.default)
    parser.add_argument("--simulate", action="store_true", help="also simulate one hour")
    parser.add_argument("--table", action="store_true", help="print the table of deploy/capacity.md")
    given = vars(parser.parse_args())
    simulated, as_table = given.pop("simulate"), given.pop("table")
    if as_table:
        print("\n".join(table()))
        return
    load = Load(**given)
    planned = plan(load)
    print(planned)
    if simulated:
        print(f"\n{simulate(load, planned)}")


if __name__ == "__main__":
    main()
