"""Measure what an `Idempotency-Key` and the limits of a caller cost: `python -m benchmarks.keys`.

Storage is SQLite and files in a temporary folder. Plain and keyed requests for images of 2 MB alternate on one
connection, and so do requests of callers without and with limits. The CPU time of a replay of 8 MB is compared with
that of the stored image of a chat, in the same service.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path

from benchmarks import upstream
from benchmarks.caller import Connection, Request, Response
from benchmarks.contenders import service_contender
from benchmarks.experiments import quartiles
from benchmarks.measure import LOAD_CORE, SERVER_CORE, Running, on_core, on_cores, running, stop

UPSTREAM_PORT = 9130
PORT = 9131
SIGNATURE_BYTES = 100_000
WARM_UP = 5


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.keys", description=__doc__)
    parser.add_argument("--requests", type=int, default=60, help="number of plain and of keyed requests")
    parser.add_argument("--bytes", type=int, default=2_000_000, help="size of their images")
    parser.add_argument("--replays", type=int, default=60, help="number of replays")
    parser.add_argument("--replayed-bytes", type=int, default=8_000_000, help="size of the replayed image")
    parser.add_argument("--limited", type=int, default=200, help="number of requests with and without limits")
    parser.add_argument("--unpinned", action="store_true", help="let all processes use all cores")
    parser.add_argument("--folder", type=Path, help="parent of the temporary folder")
    given = parser.parse_args()
    if not given.unpinned:
        os.sched_setaffinity(0, {LOAD_CORE})
    asyncio.run(_run(given))


async def _run(given: argparse.Namespace) -> None:
    upstream_process = subprocess.Popen(
        _placed([sys.executable, "-m", "benchmarks.upstream", "--port", str(UPSTREAM_PORT)], LOAD_CORE, given),
        start_new_session=True,
    )
    try:
        await asyncio.sleep(1)
        async with _service(given) as service:
            connection = await Connection.open(PORT)
            if given.requests:
                await _time_keys(connection, given.requests, given.bytes)
            if given.limited:
                await _time_limits(connection, service, given.limited, given.bytes)
            if given.replays:
                await _compare_replays(connection, service, given.replays, given.replayed_bytes)
            connection.close()
    finally:
        await stop(upstream_process)


@asynccontextmanager
async def _service(given: argparse.Namespace) -> AsyncGenerator[Running]:
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        contender = service_contender(f"http://127.0.0.1:{UPSTREAM_PORT}", PORT, DATA_DIR=folder)
        placed = replace(contender, command=_placed(contender.command, SERVER_CORE, given))
        async with running(placed) as service:
            yield service


def _placed(command: list[str], core: int, given: argparse.Namespace) -> list[str]:
    return on_cores(os.sched_getaffinity(0), command) if given.unpinned else on_core(core, command)


async def _time_keys(connection: Connection, requests: int, first_size: int) -> None:
    sizes = count(first_size)
    seconds: dict[str, list[float]] = {"plain": [], "keyed": []}
    for number in range(WARM_UP + requests):
        for kind, found in seconds.items():
            key = f"{kind}-{number}" if kind == "keyed" else None
            response = await _generate(connection, "/generate-image", next(sizes), key)
            if number >= WARM_UP:
                found.append(response.seconds)
    print(f"A key adds {_added_ms(seconds):.1f} ms to an image of {first_size / 1e6:g} MB.", flush=True)


async def _time_limits(connection: Connection, service: Running, requests: int, size: int) -> None:
    free = _add_key(service, "free")
    limited = _add_key(service, "limited", "--rate", "9999/s", "--concurrent", "9", "--budget", "9999/month")
    seconds: dict[str, list[float]] = {"free": [], "limited": []}
    secrets = dict(zip(seconds, (free, limited), strict=True))
    for number in range(WARM_UP + requests):
        for kind in (*seconds, *reversed(seconds)):
            response = await _generate(connection, "/generate-image", size, None, secrets[kind])
            if number >= WARM_UP:
                seconds[kind].append(response.seconds)
    print(f"Limits add {_added_ms(seconds):.1f} ms to an image of {size / 1e6:g} MB.", flush=True)


def _add_key(service: Running, name: str, *limits: str) -> str:
    command = [sys.executable, "-m", "app", "keys", "add", name, *limits]
    contender = service.contender
    added = subprocess.run(command, env=contender.env, cwd=contender.cwd, capture_output=True, text=True, check=True)
    return added.stdout.split()[-1]


def _added_ms(seconds: dict[str, list[float]]) -> float:
    """Print the figures of both kinds of requests. Return by how many ms the median of the second is longer."""
    for kind, found in seconds.items():
        figures = {name: 1000 * value for name, value in quartiles(found).items()}
        print(f"{kind}: {figures['median']:.1f} ms ({figures['low']:.1f} to {figures['high']:.1f})")
    first, second = map(statistics.median, seconds.values())
    return 1000 * (second - first)


async def _compare_replays(connection: Connection, service: Running, replays: int, size: int) -> None:
    created = await connection.send(Request("POST", "/chats", {"Content-Type": "application/json"}, b"{}"))
    chat = f"/chats/{json.loads(created.body)['id']}"
    await _generate(connection, f"{chat}/turns", size, None)
    await _generate(connection, "/generate-image", size, "replayed")
    stored = Request("GET", f"{chat}/turns/1/image")
    replay = _request("/generate-image", size, "replayed")
    cpu: dict[str, list[float]] = {}
    for _ in range(5):
        for name, request in {
            "stored image of a chat": stored,
            "replay as bytes": _with(replay, "image/*"),
            "replay as JSON": replay,
        }.items():
            await connection.send(request)
            before = service.cpu_seconds()
            for _ in range(max(1, replays // 5)):
                response = await connection.send(request)
                assert response.status == 200
                assert len(response.body) >= size
            cpu.setdefault(name, []).append((service.cpu_seconds() - before) / max(1, replays // 5))
    base = statistics.median(cpu["stored image of a chat"])
    for name, seconds in cpu.items():
        used = statistics.median(seconds)
        print(f"{name}, {size / 1e6:g} MB: {1000 * used:.1f} ms of CPU time, {used / base:.2f} × the stored image")


def _request(path: str, size: int, key: str | None) -> Request:
    body = json.dumps({"prompt": f"{size} bytes after 0 s signed by {SIGNATURE_BYTES}", "responseFormat": "b64"})
    headers = {"Content-Type": "application/json"} | ({"Idempotency-Key": key} if key else {})
    return Request("POST", path, headers, body.encode())


def _with(request: Request, accept: str) -> Request:
    return Request(request.method, request.path, {**request.headers, "Accept": accept}, request.body)


async def _generate(
    connection: Connection, path: str, size: int, key: str | None, secret: str | None = None
) -> Response:
    request = _request(path, size, key)
    authorization = {"Authorization": f"Bearer {secret}"} if secret else {}
    response = await connection.send(replace(request, headers={**request.headers, **authorization}))
    assert response.status == 200, response.body[:300]
    assert upstream.encoded_image(size) in response.body, "the image differs"
    return response


if __name__ == "__main__":
    main()
