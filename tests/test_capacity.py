"""The formulas of deploy/capacity.md agree with a simulated hour of requests."""

from pathlib import Path

import pytest

from benchmarks.capacity import EXAMPLE_LOADS, TARGET_CPU_USE, Load, plan, simulate, table

PAGE = Path(__file__).parent.parent / "deploy" / "capacity.md"


@pytest.mark.slow
@pytest.mark.parametrize("load", EXAMPLE_LOADS, ids=lambda load: f"{load.per_minute:.0f} per minute")
def test_the_planned_capacity_is_enough_in_the_simulation(load: Load) -> None:
    planned = plan(load)

    simulated = simulate(load, planned)

    assert simulated.in_flight == pytest.approx(planned.in_flight, rel=0.05)
    assert simulated.buffered_mb == pytest.approx(planned.buffered_mb, rel=0.05)
    assert simulated.cpu_use == pytest.approx(planned.cpu_use, rel=0.05)
    assert simulated.peak_in_flight < 1000
    assert simulated.peak_buffered_mb * 1e6 < planned.max_buffered_bytes / 2
    assert simulated.cpu_wait_p99 < 0.25


@pytest.mark.parametrize("load", [Load(20_000, "4K"), Load(90_000, "1K", drawing_seconds=3, response_format="bytes")])
def test_one_replica_fewer_is_not_enough(load: Load) -> None:
    """
    Slots are the limit if images take long; otherwise the CPU is.
    """
    planned = plan(load)
    by_cpu = load.per_second * load.cpu_seconds / TARGET_CPU_USE
    by_slots = planned.in_flight / 700

    assert planned.replicas > 10
    assert planned.replicas - 1 < max(by_cpu, by_slots) <= planned.replicas


def test_the_page_contains_the_program_s_table() -> None:
    assert "\n".join(table()) in PAGE.read_text()
