"""The capacity for a load, by formulas. They use measurements of `make bench` (benchmarks/results) and list prices."""

from dataclasses import dataclass, fields
from math import ceil

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
