"""The examples of deploy/capacity.md."""

from collections.abc import Iterator

from benchmarks.capacity.planning import Load, plan
from benchmarks.capacity.simulation import simulate

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
