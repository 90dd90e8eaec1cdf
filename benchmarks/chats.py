"""Measure the time of a chat turn, and the memory and disk space that chats use: `python -m benchmarks.chats`.

Storage is SQLite and files in a temporary folder. The time of a turn is measured with tiny images and signatures, one
chat after the other, so that copying bytes does not count. Each turn is compared with a single image. Memory and disk
space are measured with real sizes (`--bytes`, `--chats`, `--turns`), four chats at once.
"""

import argparse
import asyncio
import json
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

from benchmarks import upstream
from benchmarks.caller import Connection, Request
from benchmarks.contenders import service_contender
from benchmarks.experiments import quartiles
from benchmarks.measure import LOAD_CORE, MB, Running, on_core, running, stop

UPSTREAM_PORT = 9120
PORT = 9121
TINY = 10_000
TINY_SIGNATURE = 1_000
CONCURRENT_CHATS = 4


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chats", description=__doc__)
    parser.add_argument("--timed", type=int, default=30, help="number of chats whose turns are timed, or 0")
    parser.add_argument(
        "--chats", type=int, default=200, help="number of chats whose memory and disk space are measured, or 0"
    )
    parser.add_argument("--turns", type=int, default=10, help="turns per chat")
    parser.add_argument("--bytes", type=int, default=2_000_000, help="size of an image")
    parser.add_argument(
        "--signature-bytes", type=int, default=100_000, help="size of each of the two signatures, as base64"
    )
    parser.add_argument("--folder", type=Path, help="parent of the temporary folder")
    given = parser.parse_args()
    os.sched_setaffinity(0, {LOAD_CORE})
    asyncio.run(_run(given))


async def _run(given: argparse.Namespace) -> None:
    upstream_process = subprocess.Popen(
        on_core(LOAD_CORE, [sys.executable, "-m", "benchmarks.upstream", "--port", str(UPSTREAM_PORT)]),
        start_new_session=True,
    )
    try:
        await asyncio.sleep(1)
        if given.timed:
            async with _service(given.folder):
                await _time_turns(given.timed, given.turns)
        if given.chats:
            async with _service(given.folder) as (service, folder):
                await _create_chats(service, given)
                _print_sizes(folder, given)
    finally:
        await stop(upstream_process)


@asynccontextmanager
async def _service(parent: Path | None) -> AsyncGenerator[tuple[Running, Path]]:
    """Run a service that stores its chats in a temporary folder. Yield both."""
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        async with running(service_contender(f"http://127.0.0.1:{UPSTREAM_PORT}", PORT, DATA_DIR=folder)) as service:
            yield service, Path(folder)


async def _time_turns(chats: int, turns: int) -> None:
    connection, sizes = await Connection.open(PORT), count(TINY)
    single, turn = list[float](), defaultdict[int, list[float]](list)
    for _ in range(chats):
        chat = await _create_chat(connection)
        for number in range(1, turns + 1):
            single.append(await _generate(connection, "/generate-image", next(sizes), TINY_SIGNATURE))
            turn[number].append(await _generate(connection, f"{chat}/turns", next(sizes), TINY_SIGNATURE))
    connection.close()
    base = 1000 * statistics.median(single)
    print(f"A single image: {base:.1f} ms. Additional time of a chat turn, median (first to third quartile):")
    for number, seconds in turn.items():
        figures = {name: 1000 * value - base for name, value in quartiles(seconds).items()}
        print(
            f"  turn {number:2}: {figures['median']:.1f} ms ({figures['low']:.1f} to {figures['high']:.1f})", flush=True
        )


async def _create_chats(service: Running, given: argparse.Namespace) -> None:
    sizes, slots, finished = count(given.bytes), asyncio.Semaphore(CONCURRENT_CHATS), count(1)
    began = time.perf_counter()

    async def chat() -> None:
        async with slots:
            connection = await Connection.open(PORT)
            path = await _create_chat(connection)
            for _ in range(given.turns):
                await _generate(connection, f"{path}/turns", next(sizes), given.signature_bytes)
            connection.close()
            if (number := next(finished)) % max(1, given.chats // 5) == 0:
                seconds = time.perf_counter() - began
                print(f"{number} chats, {seconds:.0f} s: {service.rss_mb():.0f} MB resident", flush=True)

    await asyncio.gather(*(chat() for _ in range(given.chats)))
    await asyncio.sleep(10)
    print(f"After 10 more seconds: {service.rss_mb():.0f} MB")


def _print_sizes(folder: Path, given: argparse.Namespace) -> None:
    turns = given.chats * given.turns
    expected_bytes = sum(given.bytes + number + 2 * (given.signature_bytes * 3 // 4) for number in range(turns))
    database = sqlite3.connect(folder / "chats.db")
    rows, row_bytes = database.execute("select count(*), sum(bytes) from blobs").fetchone()
    database.close()
    files = list(_files(folder / "blobs"))
    file_bytes = sum(path.stat().st_size for path in files)
    print(
        f"Expected: {3 * turns:,} files, {expected_bytes:,} bytes. Database: {rows:,} files, {row_bytes:,} bytes. ",
        end="",
    )
    print(f"Disk: {len(files):,} files, {file_bytes:,} bytes.")
    size = (folder / "chats.db").stat().st_size
    print(f"The database has {size / MB:.1f} MB, {size / turns:,.0f} bytes per turn.")


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.glob("??/*") if path.is_file())


async def _create_chat(connection: Connection) -> str:
    response = await connection.send(Request("POST", "/chats", {"Content-Type": "application/json"}, b"{}"))
    assert response.status == 201, response.body[:300]
    return f"/chats/{json.loads(response.body)['id']}"


async def _generate(connection: Connection, path: str, size: int, signature_bytes: int) -> float:
    """Request an image and compare it with what the upstream sent. Return the seconds."""
    prompt = f"{size} bytes after 0 s signed by {signature_bytes}"
    body = json.dumps({"prompt": prompt, "responseFormat": "b64"}).encode()
    response = await connection.send(Request("POST", path, {"Content-Type": "application/json"}, body))
    assert response.status == 200, response.body[:300]
    assert upstream.encoded_image(size) in response.body, "the image differs"
    return response.seconds


if __name__ == "__main__":
    main()
