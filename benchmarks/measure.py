"""What a process costs, read from outside it."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator
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
    """A contender under way, with whatever processes it has started."""

    contender: Contender
    process: subprocess.Popen[bytes]
    seconds_to_answer: float = 0.0

    def _tree(self) -> list[psutil.Process]:
        root = psutil.Process(self.process.pid)
        return [root, *root.children(recursive=True)]

    def cpu_seconds(self) -> float:
        return float(sum(sum(process.cpu_times()[:2]) for process in self._tree()))

    def rss_mb(self) -> float:
        return float(sum(process.memory_info().rss for process in self._tree())) / MB

    def forget_peak(self) -> None:
        for process in self._tree():
            Path(f"/proc/{process.pid}/clear_refs").write_text("5")

    def peak_mb(self) -> float:
        """The largest resident size since `forget_peak`."""
        peak = 0
        for process in self._tree():
            status = Path(f"/proc/{process.pid}/status").read_text()
            peak += int(status.partition("VmHWM:")[2].split()[0]) * 1024
        return peak / MB


def on_core(core: int, command: list[str]) -> list[str]:
    return ["taskset", "-c", str(core), *command]


@asynccontextmanager
async def running(contender: Contender) -> AsyncGenerator[Running]:
    """The contender, pinned to the servers' core, from its first healthy answer to the end of the block."""
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
        await _answers(contender.port, contender.health, process)
        yield Running(contender, process, time.perf_counter() - began)
    finally:
        await stop(process)


async def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process that was started here, with what it has started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        for _ in range(50):
            if process.poll() is not None:
                return
            await asyncio.sleep(0.1)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


async def _answers(port: int, path: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.perf_counter() + 90
    while time.perf_counter() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"ended with {process.returncode} before it answered")
        try:
            connection = await Connection.open(port)
            answer = await connection.ask(Request("GET", path))
            connection.close()
            if answer.status < 500:
                return
        except (OSError, EOFError):
            pass
        await asyncio.sleep(0.01)
    raise RuntimeError("does not answer")


class Prober:
    """Asks for the health of a contender every few milliseconds, from a process of its own: the load's is too busy."""

    def __init__(self, contender: Contender) -> None:
        self._command = [sys.executable, "-m", "benchmarks.measure", str(contender.port), contender.health]
        self.longest_ms = self.p99_ms = 0.0

    async def __aenter__(self) -> "Prober":
        self._process = await asyncio.create_subprocess_exec(
            *on_core(LOAD_CORE, self._command), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdout
        await self._process.stdout.readline()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        out, _errors = await self._process.communicate(b"enough\n")
        found = sorted(json.loads(out))
        self.longest_ms, self.p99_ms = found[-1], found[int(len(found) * 0.99)]


async def _probe(port: int, path: str) -> None:
    if os.geteuid() == 0:
        os.nice(-15)
    found: list[float] = []
    connection = await Connection.open(port)
    await connection.ask(Request("GET", path))
    print("ready", flush=True)
    enough = asyncio.create_task(asyncio.to_thread(sys.stdin.readline))
    while not enough.done():
        answer = await connection.ask(Request("GET", path))
        found.append(answer.seconds * 1000)
        await asyncio.sleep(0.005)
    print(json.dumps(found))


if __name__ == "__main__":
    asyncio.run(_probe(int(sys.argv[1]), sys.argv[2]))
