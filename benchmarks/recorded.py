"""Measure what recording a generation costs: `python -m benchmarks.recorded`.

Storage is SQLite and files in a temporary folder. One caller asks for one image after the other; the kinds of requests
take turns. `plain` has no key, `keyed` has a new one, `replay` repeats the keyed one. CPU is of the service's process.
`stored` reads the image of a chat's turn, the nearest thing that needs neither Gemini nor a key.
"""

import argparse
import asyncio
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from itertools import count
from pathlib import Path

from benchmarks.caller import Connection, Request
from benchmarks.contenders import service_contender
from benchmarks.experiments import quartiles
from benchmarks.measure import LOAD_CORE, Running, on_core, running, stop

UPSTREAM_PORT = 9140
PORT = 9141


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recorded", description=__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--bytes", type=int, nargs="+", default=[2_000_000, 8_000_000], help="sizes of the images")
    parser.add_argument("--folder", type=Path, help="parent of the temporary folder")
    given = parser.parse_args()
    os.sched_setaffinity(0, {LOAD_CORE})
    asyncio.run(_run(given))


async def _run(given: argparse.Namespace) -> None:
    upstream = subprocess.Popen(
        on_core(LOAD_CORE, [sys.executable, "-m", "benchmarks.upstream", "--port", str(UPSTREAM_PORT)]),
        start_new_session=True,
    )
    try:
        await asyncio.sleep(1)
        for size in given.bytes:
            with tempfile.TemporaryDirectory(dir=given.folder) as folder:
                service = service_contender(f"http://127.0.0.1:{UPSTREAM_PORT}", PORT, DATA_DIR=folder)
                async with running(service) as server:
                    await _measure(server, size, given.rounds)
    finally:
        await stop(upstream)


async def _measure(server: Running, size: int, rounds: int) -> None:
    connection, sizes = await Connection.open(PORT), count(size)
    milliseconds: dict[str, list[float]] = defaultdict(list)
    cpu: dict[str, list[float]] = defaultdict(list)

    async def timed(kind: str, request: Request) -> bytes:
        before, began = server.cpu_seconds(), time.perf_counter()
        response = await connection.send(request)
        assert response.status in (200, 201), response.body[:500]
        milliseconds[kind].append(1000 * (time.perf_counter() - began))
        await asyncio.sleep(0.03)  # work that goes on after the response counts
        cpu[kind].append(1000 * (server.cpu_seconds() - before))
        return response.body

    chat = json.loads((await connection.send(_post("/chats", size))).body)["chatId"]
    for round_ in range(rounds + 3):
        key = {"Idempotency-Key": secrets.token_hex(8)}
        await timed("plain", _post("/generate-image", next(sizes)))
        same = next(sizes)
        first = await timed("keyed", _post("/generate-image", same, key))
        assert await timed("replay", _post("/generate-image", same, key)) == first
        await timed("stored", Request("GET", f"/chats/{chat}/turns/1/image", {}, b""))
        if round_ == 2:  # warm now
            milliseconds.clear()
            cpu.clear()
    connection.close()
    print(f"{size / 1e6:g} MB, {rounds} rounds; median (first to third quartile)")
    for kind in milliseconds:
        print(f"  {kind:7} {_quartiles(milliseconds[kind])} ms, CPU {_quartiles(cpu[kind])} ms")
    added = [keyed - plain for keyed, plain in zip(milliseconds["keyed"], milliseconds["plain"], strict=True)]
    ratio = statistics.median(cpu["replay"]) / statistics.median(cpu["stored"])
    print(f"  a key adds {_quartiles(added)} ms; CPU of replay / stored image {ratio:.2f}", flush=True)


def _post(path: str, size: int, headers: dict[str, str] | None = None) -> Request:
    body = json.dumps({"prompt": f"{size} bytes after 0 s signed by 1000"}).encode()
    return Request("POST", path, {"Content-Type": "application/json", **(headers or {})}, body)


def _quartiles(values: list[float]) -> str:
    found = quartiles(values)
    return f"{found['median']:.1f} ({found['low']:.1f} to {found['high']:.1f})"


if __name__ == "__main__":
    main()
