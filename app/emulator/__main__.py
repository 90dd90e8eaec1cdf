"""`python -m app.emulator`: run the emulator alone, to develop against Gemini's API without paying for it."""

import argparse
import asyncio
import sys
from pathlib import Path

from app.emulator.application import Emulator
from app.emulator.server import served


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m app.emulator", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9000)
    parser.add_argument("--delay", type=float, default=0, metavar="SECONDS", help="time before each answer")
    parser.add_argument(
        "--signature-bytes", type=int, default=256, help="size of thought signatures (real ones: 0.8 to 2.2 MB)"
    )
    parser.add_argument("--recordings-dir", type=Path, help="folder of recorded answers, replayed for their prompts")
    arguments = parser.parse_args()
    emulator = Emulator(
        delay_seconds=arguments.delay,
        signature_bytes=arguments.signature_bytes,
        recordings_dir=arguments.recordings_dir,
    )
    try:
        asyncio.run(_serve(emulator, arguments.host, arguments.port))
    except KeyboardInterrupt:
        pass
    except (OSError, OverflowError) as error:
        sys.exit(f"Cannot listen on {arguments.host}, port {arguments.port}: {getattr(error, 'strerror', error)}.")


async def _serve(emulator: Emulator, host: str, port: int) -> None:
    async with served(emulator, host, port) as url:
        print(f"Emulating the Gemini API on {url}, faults at /emulator/faults", flush=True)
        await asyncio.Event().wait()


main()
