"""`python -m benchmarks`: measure this service and other implementations in one run. README.md has the method."""

import argparse
import asyncio
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import uvloop

from benchmarks import openai_api, report
from benchmarks.contenders import LITELLM, Contender, contenders
from benchmarks.experiments import Bench
from benchmarks.measure import LOAD_CORE, SERVER_CORE, on_core, stop

UPSTREAM_PORT = 9110
SIZES = [600_000, 1_500_000, 2_000_000, 8_000_000, 20_000_000]
HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--contenders", help="names, separated by commas; default all")
    parser.add_argument(
        "--experiments",
        help="start, latency, load, openai, uploads, memory, growth, in_flight, separated by commas; default all",
    )
    parser.add_argument("--wait", type=float, default=60, help="seconds until memory is measured again")
    parser.add_argument("--callers", type=int, default=1000, help="number of callers that wait for slow images at once")
    parser.add_argument("--report", action="store_true", help="do not measure; write the report of results.json again")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder to write to")
    arguments = parser.parse_args()
    if arguments.report:
        report.write(json.loads((arguments.out / "results.json").read_text()), arguments.out)
        return
    os.sched_setaffinity(0, {LOAD_CORE})
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(limit, 20_000), limit))
    uvloop.run(_run(arguments))


async def _run(arguments: argparse.Namespace) -> None:
    selected = arguments.contenders and arguments.contenders.split(",")
    installed, absent = _install(
        [one for one in contenders(f"http://127.0.0.1:{UPSTREAM_PORT}") if not selected or one.name in selected]
    )
    upstream = subprocess.Popen(
        on_core(LOAD_CORE, [sys.executable, "-m", "benchmarks.upstream", "--port", str(UPSTREAM_PORT)]),
        start_new_session=True,
    )
    bench = Bench(installed, UPSTREAM_PORT, arguments.rounds)
    experiments: dict[str, Callable[[], Awaitable[Any]]] = {
        "start": bench.start,
        "latency": lambda: bench.latency(SIZES),
        "load": lambda: bench.load([600_000, 2_000_000, 8_000_000, 20_000_000], 8),
        "openai": lambda: openai_api.measure(installed, arguments.rounds),
        "uploads": lambda: bench.uploads([1, 14]),
        "memory": lambda: bench.memory([1, 8, 32], arguments.wait),
        "growth": lambda: bench.growth([600_000, 2_000_000, 8_000_000, 20_000_000], [1, 2, 4, 8, 16, 32]),
        "in_flight": lambda: bench.in_flight(arguments.callers, 60),
    }
    saved = arguments.out / "results.json"
    results: dict[str, Any] = json.loads(saved.read_text()) if arguments.experiments and saved.exists() else {}
    results.setdefault("about", _environment(installed, absent, arguments))
    try:
        await asyncio.sleep(2)
        for name, experiment in experiments.items():
            if arguments.experiments and name not in arguments.experiments.split(","):
                continue
            began = time.perf_counter()
            results[name] = await experiment()
            _save(results, arguments.out)
            print(f"{name}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    finally:
        await stop(upstream)
    print(report.write(results, arguments.out))


def _save(results: dict[str, Any], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")


def _install(selected: list[Contender]) -> tuple[list[Contender], dict[str, str]]:
    """Install the contenders. Return the installed ones, and the reason for each of the others."""
    installed, absent = [], {}
    for contender in selected:
        try:
            contender.build()
        except (OSError, subprocess.CalledProcessError) as error:
            absent[contender.name] = f"installation failed: {error}".splitlines()[0]
        else:
            installed.append(contender)
    return installed, absent


def _environment(installed: list[Contender], absent: dict[str, str], arguments: argparse.Namespace) -> dict[str, Any]:
    processor = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    packages = ("fastapi", "uvicorn", "uvloop", "httptools", "httpx2", "google-genai", "pydantic", "pybase64")
    node = subprocess.run(["node", "--version"], capture_output=True, text=True, check=False)
    return {
        "machine": f"{processor}, {os.cpu_count()} cores, Linux {platform.release().split('-')[0]}",
        "cores": {"servers": SERVER_CORE, "load and upstream": LOAD_CORE},
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages}
        | {"litellm": LITELLM, "next": "16.4.6", "node": node.stdout.strip()},
        "rounds": arguments.rounds,
        "date": time.strftime("%Y-%m-%d"),
        "contenders": {one.name: one.about for one in installed},
        "absent": absent,
    }


if __name__ == "__main__":
    main()
