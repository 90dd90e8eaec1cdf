"""Free memory is returned to the operating system while the process is idle."""

import subprocess
import sys

import pytest

SCRIPT = """
import asyncio, ctypes, os
from app.lib.idle_trim import IdleMemoryTrimmer

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1_000_000

async def main():
    trimmer = IdleMemoryTrimmer(idle_seconds=0.2)
    before = resident()
    with trimmer.busy():
        blocks = [b"x" * 100_000 for _ in range(2_000)]
        pins = blocks[::100] + [b"x" * 100_000]
        busy = resident()
        del blocks
    with trimmer.busy():
        await asyncio.sleep(0.6)
        still = resident()
    await asyncio.sleep(0.6)
    print(busy - before, still - before, resident() - before, len(pins))

asyncio.run(main())
"""


def test_memory_is_returned_when_idle_and_not_before() -> None:
    """
    Freed blocks lie below blocks in use. The allocator does not return such memory by itself.
    """
    try:
        done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    except FileNotFoundError:
        pytest.skip("needs /proc")

    busy, still, after, _ = map(int, done.stdout.split())
    assert busy > 150
    assert still > 100
    assert after < 40
