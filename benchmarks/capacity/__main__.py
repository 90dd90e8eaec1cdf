"""Compute the capacity for a load: `python -m benchmarks.capacity --per-minute 600 --image-size 2K`.

The formulas use measurements of `make bench` (benchmarks/results) and list prices. deploy/capacity.md explains them.
`--simulate` simulates one hour of requests, to compare with the formulas.
"""

import argparse
from dataclasses import fields

from benchmarks.capacity.examples import table
from benchmarks.capacity.planning import Load, plan
from benchmarks.capacity.simulation import simulate


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
