"""CPU, memory and response times of a contender's processes, measured from outside."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.caller import Connection, Request
from benchmarks.contenders import Contender

SERVER_CORE, LOAD_CORE = 0, 1
MB = 1_000_000


@dataclass
class Running:
    """A running contender and its child processes."""

    contender: Contender
    process: subprocess.Popen[bytes]
    start_seconds: float = 0.0

    def _tree(self) -> list[psutil.Process]:
        root = psutil.Process(self.process.pid)
        return [root, *root.children(recursive=True)]

    def cpu_seconds(self) -> float:
        return float(sum(sum(process.cpu_times()[:2]) for process in self._tree()))

    def rss_mb(self) -> float:
        return float(sum(process.memory_info().rss for process in self._tree())) / MB

    def reset_peak(self) -> None:
        for process in self._tree():
            Path(f"/proc/{process.pid}/clear_refs").write_text("5")

    def peak_mb(self) -> float:
        """Return the largest resident size since `reset_peak`, over all processes."""
        peak = 0
        for process in self._tree():
            status = Path(f"/proc/{process.pid}/status").read_text()
            peak += int(status.partition("VmHWM:")[2].split()[0]) * 1024
        return peak / MB


def on_core(core: int, command: list[str]) -> list[str]:
    return on_cores([core], command)


def on_cores(cores: Iterable[int], command: list[str]) -> list[str]:
    """Return the command on these cores, also if another `on_core` runs it."""
    return ["taskset", "-c", ",".join(map(str, cores)), *command]


@asynccontextmanager
async def running(contender: Contender) -> AsyncGenerator[Running]:
    """Run the contender on the servers' core. Enter the block when it is healthy."""
    began = time.perf_counter()
    process = subprocess.Popen(
        on_core(SERVER_CORE, contender.command),
        cwd=contender.cwd,
        env=contender.env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        await _wait_until_healthy(contender.port, contender.health, process)
        yield Running(contender, process, time.perf_counter() - began)
    finally:
        await stop(process)


async def stop(process: subprocess.Popen[bytes]) -> None:
    """Stop a process and its children: SIGTERM, and SIGKILL after 5 s."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        for _ in range(50):
            if process.poll() is not None:
                return
            await asyncio.sleep(0.1)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


async def _wait_until_healthy(port: int, path: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.perf_counter() + 90
    while time.perf_counter() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the contender exited with {process.returncode} before it was healthy")
        try:
            connection = await Connection.open(port)
            response = await connection.send(Request("GET", path))
            connection.close()
            if response.status < 500:
                return
        except (OSError, EOFError):
            pass
        await asyncio.sleep(0.01)
    raise RuntimeError("the contender is not healthy after 90 s")


class HealthProber:
    """Measure response times of the health route every 5 ms, in a process apart from the busy load generator."""

    def __init__(self, contender: Contender) -> None:
        self._command = [sys.executable, "-m", "benchmarks.measure", str(contender.port), contender.health]
        self.longest_ms = self.p99_ms = 0.0

    async def __aenter__(self) -> "HealthProber":
        self._process = await asyncio.create_subprocess_exec(
            *on_core(LOAD_CORE, self._command), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdout
        await self._process.stdout.readline()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        out, _errors = await self._process.communicate(b"stop\n")
        times_ms = sorted(json.loads(out))
        self.longest_ms, self.p99_ms = times_ms[-1], times_ms[int(len(times_ms) * 0.99)]


async def _probe(port: int, path: str) -> None:
    if os.geteuid() == 0:
        os.nice(-15)
    times_ms: list[float] = []
    connection = await Connection.open(port)
    await connection.send(Request("GET", path))
    print("ready", flush=True)
    stopped = asyncio.create_task(asyncio.to_thread(sys.stdin.readline))
    while not stopped.done():
        response = await connection.send(Request("GET", path))
        times_ms.append(response.seconds * 1000)
        await asyncio.sleep(0.005)
    print(json.dumps(times_ms))


if __name__ == "__main__":
    asyncio.run(_probe(int(sys.argv[1]), sys.argv[2]))
