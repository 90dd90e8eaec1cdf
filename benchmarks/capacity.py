"""How much it takes to serve so many images: `python -m benchmarks.capacity --per-minute 600 --image-size 2K`.

The formulas rest on what `make bench` has measured (benchmarks/results) and on list prices; deploy/capacity.md explains
them. `--simulate` plays an hour of arrivals, image by image, and says how far the formulas are off.
"""

import argparse
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
"""Files of Nano Banana Pro: recorded at 1K, estimated by pixels beyond."""

SIGNATURES_MB = 3.0
"""Of an answer's two thought signatures: 0.8 to 2.2 MB each have been recorded."""

ROW_BYTES = 3_200
"""A turn's rows, with their indexes, in SQLite; measured over 2,000 turns."""

CPU_BASE, CPU_PER_MB, CPU_PER_UPLOADED_MB = 0.004, 0.0019, 0.0023
"""Seconds of one core for an image as JSON with both fields: 5 ms at 0.6 MB, 41 ms at 20 MB."""

CPU_TURN, CPU_HISTORY_MB = 0.010, 0.0012
"""What a turn of a chat takes beyond that, and each megabyte of earlier turns that goes along."""

HEADROOM = 0.6
"""How busy a core should be on average: arrivals come in bursts, and a replica may be gone."""

PROCESS_MB = 150
HELD_FACTOR = 1.2
WIRE = {"bytes": 1.0, "b64": 4 / 3, "data_url": 8 / 3}


@dataclass(frozen=True, slots=True)
class Load:
    per_minute: float = 60
    image_size: str = "2K"
    drawing_seconds: float = 35
    """How long Gemini takes, on average."""
    model: str = "gemini-3-pro-image"
    answer: str = "data_url"
    caller_mbit: float = 50
    """How fast callers take their answers."""
    references_mb: float = 0
    """Uploaded with each image."""
    chat_share: float = 0
    """The part of all images that are turns of chats."""
    earlier_turns: float = 4
    """That go along with a turn, on average."""
    search_queries: float = 0
    """Of each image."""

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
        """Of one core, for one image."""
        turn = self.chat_share * (CPU_TURN + CPU_HISTORY_MB * self.history_mb)
        return CPU_BASE + CPU_PER_MB * self.image_mb + CPU_PER_UPLOADED_MB * self.references_mb + turn

    @property
    def held_seconds(self) -> float:
        """How long an image is in memory: while it is taken."""
        return 1.0 + self.image_mb * WIRE[self.answer] * 8 / self.caller_mbit


@dataclass(frozen=True, slots=True)
class Plan:
    in_flight: float
    """Images under way at once, over all replicas."""
    held_mb: float
    """Images in memory at once, over all replicas."""
    replicas: int
    memory_mb: int
    """Of a replica, with its `MAX_BUFFERED_BYTES`."""
    max_buffered_bytes: int
    cpu_busy: float
    """How busy a replica's core is."""
    egress_gb_per_day: float
    """To callers and to Google."""
    blobs_gb_per_day: float
    database_mb_per_day: float
    dollars_per_hour: float

    def __str__(self) -> str:
        return "\n".join(f"{one.name:<22}{getattr(self, one.name):>16,.6g}" for one in fields(self))


def plan(load: Load, *, places: int = 1000) -> Plan:
    """What the load takes."""
    in_flight = load.per_second * (load.drawing_seconds + load.held_seconds)
    held = load.per_second * load.held_seconds * load.image_mb
    by_cpu = load.per_second * load.cpu_seconds / HEADROOM
    by_places = in_flight / (places * 0.7)
    replicas = max(2, ceil(by_cpu), ceil(by_places))
    uploads = load.per_second * load.drawing_seconds * load.references_mb
    # Three times the mean: bursts, and what is held double when a replica is gone.
    max_held = max(200, 2 * 3 * max(held, uploads) / replicas, 12 * load.image_mb)
    day = 86_400 * load.per_second
    to_google = load.references_mb + load.chat_share * load.history_mb
    model = Catalogue(load.model).resolve(load.model).model
    price = (model.image_price(load.image_size) or 0) + load.search_queries * (model.prices.search_query or 0)
    return Plan(
        in_flight=in_flight,
        held_mb=held,
        replicas=replicas,
        memory_mb=ceil(PROCESS_MB + HELD_FACTOR * max_held),
        max_buffered_bytes=int(max_held * MB),
        cpu_busy=load.per_second * load.cpu_seconds / replicas,
        egress_gb_per_day=day * (load.image_mb * WIRE[load.answer] + to_google * 4 / 3) / 1000,
        blobs_gb_per_day=day * load.chat_share * (load.image_mb + SIGNATURES_MB) / 1000,
        database_mb_per_day=day * load.chat_share * ROW_BYTES / MB,
        dollars_per_hour=3600 * load.per_second * price,
    )


@dataclass(frozen=True, slots=True)
class Simulated:
    images: int
    in_flight: float
    held_mb: float
    peak_in_flight: int
    """Of one replica."""
    peak_held_mb: float
    """Of one replica."""
    cpu_busy: float
    cpu_wait_p99: float
    """Seconds that an image waits for its replica's core."""


def simulate(load: Load, planned: Plan, *, hours: float = 1.0, seed: int = 1) -> Simulated:
    """Play arrivals at random, each to the replica with the fewest under way, for so long.

    Drawing takes as long as it takes (log-normal, as measured at Google: the slowest tenth four times the median); a
    replica's core does one thing after the other: a fifth of an image's work before it is drawn, the rest after.
    """
    chance = random.Random(seed)  # noqa: S311
    replicas = [_Replica() for _ in range(planned.replicas)]
    end, now, number = 3600 * hours, 0.0, 0
    events: list[tuple[float, int, str, _Replica]] = []
    waits: list[float] = []
    total = _Mean()
    held = _Mean()

    def later(seconds: float, what: str, replica: _Replica) -> None:
        nonlocal number
        number += 1
        heapq.heappush(events, (now + seconds, number, what, replica))

    later(chance.expovariate(load.per_second), "arrives", replicas[0])
    images = 0
    while events:
        now, _, what, replica = heapq.heappop(events)
        if what == "arrives":
            if now > end:
                continue
            later(chance.expovariate(load.per_second), "arrives", replicas[0])
            images += 1
            replica = min(replicas, key=lambda one: one.in_flight)
            replica.begin()
            total.add(1, now)
            waits.append(replica.work(now, 0.2 * load.cpu_seconds))
            later(waits[-1] + 0.2 * load.cpu_seconds + _drawing(chance, load.drawing_seconds), "is there", replica)
        elif what == "is there":
            waits.append(replica.work(now, 0.8 * load.cpu_seconds))
            replica.hold(load.image_mb)
            held.add(load.image_mb, now)
            later(waits[-1] + 0.8 * load.cpu_seconds + load.held_seconds, "is taken", replica)
        else:
            replica.end(load.image_mb)
            total.add(-1, now)
            held.add(-load.image_mb, now)
    return Simulated(
        images=images,
        in_flight=total.until(end),
        held_mb=held.until(end),
        peak_in_flight=max(one.peak_in_flight for one in replicas),
        peak_held_mb=max(one.peak_held for one in replicas),
        cpu_busy=fmean(one.worked for one in replicas) / end,
        cpu_wait_p99=quantiles(waits, n=100)[98],
    )


def _drawing(chance: random.Random, mean: float) -> float:
    sigma = 0.6
    return float(chance.lognormvariate(0, sigma)) * mean / 1.1972  # the mean of that distribution


class _Replica:
    def __init__(self) -> None:
        self.in_flight = self.peak_in_flight = 0
        self.held = self.peak_held = self.worked = self._free_at = 0.0

    def begin(self) -> None:
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)

    def work(self, now: float, seconds: float) -> float:
        """Seconds until the core gets to it."""
        begins = max(now, self._free_at)
        self._free_at = begins + seconds
        self.worked += seconds
        return begins - now

    def hold(self, megabytes: float) -> None:
        self.held += megabytes
        self.peak_held = max(self.peak_held, self.held)

    def end(self, megabytes: float) -> None:
        self.in_flight -= 1
        self.held -= megabytes


class _Mean:
    """Of a number that changes now and then, over time."""

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


POINTS = (
    Load(per_minute=60, image_size="2K", drawing_seconds=35, chat_share=0.5),
    Load(per_minute=600, image_size="1K", drawing_seconds=25, answer="bytes", caller_mbit=20),
    Load(per_minute=100_000 / 60, image_size="4K", drawing_seconds=60, answer="bytes", chat_share=0.2),
)
"""A team, a product, and 100,000 images an hour."""


def table() -> Iterator[str]:
    """The page's table: each point as planned and as simulated."""
    yield (
        "| | replicas | memory each | in flight | simulated | core busy | simulated | held, MB | simulated "
        "| wait for the core, p99 |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for load in POINTS:
        planned = plan(load)
        found = simulate(load, planned)
        yield (
            f"| {load.per_minute:,.0f} a minute, {load.image_size} | {planned.replicas} | {planned.memory_mb:,} MB "
            f"| {planned.in_flight:,.0f} | {found.in_flight:,.0f}, at most {found.peak_in_flight:,} on one "
            f"| {planned.cpu_busy:.0%} | {found.cpu_busy:.0%} | {planned.held_mb:,.0f} "
            f"| {found.held_mb:,.0f}, at most {found.peak_held_mb:,.0f} on one | {1000 * found.cpu_wait_p99:.0f} ms |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.capacity", description=__doc__)
    for one in fields(Load):
        parser.add_argument(f"--{one.name.replace('_', '-')}", type=type(one.default), default=one.default)
    parser.add_argument("--simulate", action="store_true", help="play an hour of it, too")
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
