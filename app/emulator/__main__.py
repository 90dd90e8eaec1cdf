"""`python -m app.emulator`: the emulator alone, for whoever builds against Gemini without paying for it."""

import argparse
import asyncio
import sys
from pathlib import Path

from app.emulator.server import Emulator
from app.emulator.serving import served


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m app.emulator", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9000)
    parser.add_argument("--delay", type=float, default=0, metavar="SECONDS", help="how long each picture takes")
    parser.add_argument(
        "--signature-bytes", type=int, default=256, help="size of thought signatures; real ones have 1 to 2 MB"
    )
    parser.add_argument("--recordings-dir", type=Path, help="a folder of recorded answers to replay for their prompts")
    given = parser.parse_args()
    emulator = Emulator(
        delay_seconds=given.delay, signature_bytes=given.signature_bytes, recordings_dir=given.recordings_dir
    )
    try:
        asyncio.run(_serve(emulator, given.host, given.port))
    except KeyboardInterrupt:
        pass
    except (OSError, OverflowError) as error:
        sys.exit(f"Nothing can listen on {given.host}, port {given.port}: {getattr(error, 'strerror', error)}.")


async def _serve(emulator: Emulator, host: str, port: int) -> None:
    async with served(emulator, host, port) as url:
        print(f"Emulating the Gemini API on {url}, faults at /emulator/faults", flush=True)
        await asyncio.Event().wait()


main()
