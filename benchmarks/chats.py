"""What a turn of a chat takes beyond an image without one, and what chats leave behind: `python -m benchmarks.chats`.

On SQLite and files in a temporary folder. For the time of a turn, images and signatures are tiny, so that what is left
is not the moving of bytes, and chats are made one after the other; each turn stands beside an image without a chat. For
memory and files they are of real size (`--bytes`, `--chats`, `--turns`), four chats at once.
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
from benchmarks.contenders import service_on
from benchmarks.experiments import spread
from benchmarks.measure import LOAD_CORE, MB, Running, on_core, running, stop

UPSTREAM_PORT = 9120
PORT = 9121
TINY = 10_000
TINY_SIGNATURE = 1_000
AT_ONCE = 4


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chats", description=__doc__)
    parser.add_argument("--timed", type=int, default=30, help="chats whose turns are timed, or 0")
    parser.add_argument("--chats", type=int, default=200, help="chats that are looked at for what they leave, or 0")
    parser.add_argument("--turns", type=int, default=10, help="of each chat")
    parser.add_argument("--bytes", type=int, default=2_000_000, help="of an image")
    parser.add_argument("--signature-bytes", type=int, default=100_000, help="of a signature's base64; there are two")
    parser.add_argument("--folder", type=Path, help="where the temporary folder is to be")
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
                await _time(given.timed, given.turns)
        if given.chats:
            async with _service(given.folder) as (service, folder):
                await _fill(service, given)
                _measure(folder, given)
    finally:
        await stop(upstream_process)


@asynccontextmanager
async def _service(parent: Path | None) -> AsyncGenerator[tuple[Running, Path]]:
    """A service that keeps its chats in a temporary folder, which comes along."""
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        async with running(service_on(f"http://127.0.0.1:{UPSTREAM_PORT}", PORT, DATA_DIR=folder)) as service:
            yield service, Path(folder)


async def _time(chats: int, turns: int) -> None:
    connection, sizes = await Connection.open(PORT), count(TINY)
    single, turn = list[float](), defaultdict[int, list[float]](list)
    for _ in range(chats):
        chat = await _begin(connection)
        for number in range(1, turns + 1):
            single.append(await _draw(connection, "/generate-image", next(sizes), TINY_SIGNATURE))
            turn[number].append(await _draw(connection, f"{chat}/turns", next(sizes), TINY_SIGNATURE))
    connection.close()
    base = 1000 * statistics.median(single)
    print(f"An image without a chat: {base:.1f} ms. A turn takes longer by, with the quarters around the median:")
    for number, seconds in turn.items():
        found = {name: 1000 * value - base for name, value in spread(seconds).items()}
        print(f"  turn {number:2}: {found['median']:.1f} ms ({found['low']:.1f} to {found['high']:.1f})", flush=True)


async def _fill(service: Running, given: argparse.Namespace) -> None:
    sizes, places, made = count(given.bytes), asyncio.Semaphore(AT_ONCE), count(1)
    began = time.perf_counter()

    async def chat() -> None:
        async with places:
            connection = await Connection.open(PORT)
            path = await _begin(connection)
            for _ in range(given.turns):
                await _draw(connection, f"{path}/turns", next(sizes), given.signature_bytes)
            connection.close()
            if (number := next(made)) % max(1, given.chats // 5) == 0:
                seconds = time.perf_counter() - began
                print(f"{number} chats, {seconds:.0f} s: {service.rss_mb():.0f} MB resident", flush=True)

    await asyncio.gather(*(chat() for _ in range(given.chats)))
    await asyncio.sleep(10)
    print(f"Ten seconds later: {service.rss_mb():.0f} MB")


def _measure(folder: Path, given: argparse.Namespace) -> None:
    turns = given.chats * given.turns
    computed = sum(given.bytes + number + 2 * (given.signature_bytes * 3 // 4) for number in range(turns))
    database = sqlite3.connect(folder / "chats.db")
    rows, in_rows = database.execute("select count(*), sum(bytes) from blobs").fetchone()
    database.close()
    files = list(_files(folder / "blobs"))
    in_files = sum(path.stat().st_size for path in files)
    print(f"Computed {3 * turns:,} files of {computed:,} bytes; in the database {rows:,} of {in_rows:,}; ", end="")
    print(f"on the disk {len(files):,} of {in_files:,}.")
    size = (folder / "chats.db").stat().st_size
    print(f"The database takes {size / MB:.1f} MB, {size / turns:,.0f} bytes a turn.")


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.glob("??/*") if path.is_file())


async def _begin(connection: Connection) -> str:
    answer = await connection.ask(Request("POST", "/chats", {"Content-Type": "application/json"}, b"{}"))
    assert answer.status == 201, answer.body[:300]
    return f"/chats/{json.loads(answer.body)['id']}"


async def _draw(connection: Connection, path: str, size: int, signature_bytes: int) -> float:
    """The seconds it takes; the image is compared with what was sent."""
    prompt = f"{size} bytes after 0 s signed by {signature_bytes}"
    body = json.dumps({"prompt": prompt, "responseFormat": "b64"}).encode()
    answer = await connection.ask(Request("POST", path, {"Content-Type": "application/json"}, body))
    assert answer.status == 200, answer.body[:300]
    assert upstream.encoded_image(size) in answer.body, "another image"
    return answer.seconds


if __name__ == "__main__":
    main()
