"""The capacity for a load: formulas, and a simulation to compare them with. deploy/capacity.md explains both."""

from benchmarks.capacity.examples import EXAMPLE_LOADS, table
from benchmarks.capacity.planning import TARGET_CPU_USE, Load, plan
from benchmarks.capacity.simulation import simulate

__all__ = ["EXAMPLE_LOADS", "TARGET_CPU_USE", "Load", "plan", "simulate", "table"]
