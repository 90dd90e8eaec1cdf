"""Measure eight callers who ask for converted 4K images at once: `python -m benchmarks.conversions`. Linux only.

The service, the emulator and the callers share all cores. Each row is a new process of the service. The benchmark
requests `/healthz` every 5 ms: first without other requests, then while all callers ask for images. Memory is the
highest value during the second part, above the process's size before it.
"""

import argparse
import asyncio
import base64
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence

from benchmarks.caller import Connection, Request
from benchmarks.contenders import service_contender
from benchmarks.measure import MB, HealthProber, Running, running, stop
from benchmarks.transcoding import photograph

UPSTREAM_PORT = 9130
PORT = 9131
PIXELS = (4096, 4096)
IDLE_SECONDS = 5.0
_SIGNATURES = {"png": b"\x89PNG", "webp": b"RIFF", "jpeg": b"\xff\xd8\xff"}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.conversions", description=__doc__)
    parser.add_argument("--callers", type=int, default=8)
    parser.add_argument("--each", type=int, default=4, help="images that each caller asks for, one after the other")
    parser.add_argument("--formats", default="jpeg,png,webp", help="`jpeg` is Gemini's own file, unchanged")
    parser.add_argument("--budgets", default="1024,256", help="values of MAX_BUFFERED_BYTES, in MiB")
    given = parser.parse_args()
    asyncio.run(_run(given))


async def _run(given: argparse.Namespace) -> None:
    out = io.BytesIO()
    photograph(*PIXELS).save(out, "JPEG", quality=95)
    emulator = [sys.executable, "-m", "app.emulator", "--port", str(UPSTREAM_PORT)]
    upstream = subprocess.Popen(emulator, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        await _script(out.getvalue())
        print(
            f"{given.callers} callers, {given.each} images each; Gemini's file has {len(out.getvalue()) / MB:.1f} MB\n"
        )
        print("| budget | format | images | seconds | idle p99 | p99 | longest | memory | of the budget |")
        print("|---|---|---|---|---|---|---|---|---|")
        for budget in map(int, given.budgets.split(",")):
            for format_ in given.formats.split(","):
                settings = {"MAX_BUFFERED_BYTES": str(budget * 1024**2), "DEADLINE_SECONDS": "300"}
                contender = service_contender(f"http://127.0.0.1:{UPSTREAM_PORT}", PORT, **settings)
                async with running(contender) as server:
                    os.sched_setaffinity(server.process.pid, os.sched_getaffinity(0))
                    await _measure(server, format_, budget, given)
    finally:
        await stop(upstream)


async def _script(image: bytes) -> None:
    """Make the emulator answer each call with this image."""
    fault = json.dumps({"times": 1_000_000, "image_base64": base64.b64encode(image).decode()}).encode()
    headers = {"Content-Type": "application/json"}
    for _ in range(200):
        try:
            connection = await Connection.open(UPSTREAM_PORT)
            break
        except OSError:
            await asyncio.sleep(0.05)
    response = await connection.send(Request("POST", "/emulator/faults", headers, fault))
    assert response.status == 201, response.body[:500]
    connection.close()


async def _measure(server: Running, format_: str, budget: int, given: argparse.Namespace) -> None:
    await _ask(format_, 1)  # loads modules that are imported at first use
    async with HealthProber(server.contender) as idle:
        await asyncio.sleep(IDLE_SECONDS)
    before = server.rss_mb()
    server.reset_peak()
    began = time.perf_counter()
    async with HealthProber(server.contender) as loaded:
        sizes = await asyncio.gather(*(_ask(format_, given.each) for _ in range(given.callers)))
    seconds = time.perf_counter() - began
    memory, count = server.peak_mb() - before, sum(map(len, sizes))
    size = sum(map(sum, sizes)) / count / MB
    print(
        f"| {budget} MiB | {format_}, {size:.1f} MB | {count} | {seconds:.1f} | {idle.p99_ms:.1f} ms "
        f"| {loaded.p99_ms:.1f} ms | {loaded.longest_ms:.1f} ms | {memory:.0f} MB "
        f"| {100 * memory * MB / (budget * 1024**2):.0f} % |",
        flush=True,
    )


async def _ask(format_: str, times: int) -> Sequence[int]:
    """Ask for images one after the other. Return their sizes in bytes."""
    body = json.dumps({"prompt": "A lighthouse", "imageSize": "4K", "outputFormat": format_}).encode()
    headers = {"Content-Type": "application/json", "Accept": "image/*"}
    connection, sizes = await Connection.open(PORT), []
    for _ in range(times):
        response = await connection.send(Request("POST", "/generate-image", headers, body))
        assert response.status == 200, response.body[:500]
        assert response.body.startswith(_SIGNATURES[format_]), "the image has another format"
        sizes.append(len(response.body))
    connection.close()
    return sizes


if __name__ == "__main__":
    main()
