"""`python -m app.emulator`: the emulator alone, for whoever builds against Gemini without paying for it."""

import argparse
from pathlib import Path

import uvicorn

from app.emulator.server import Emulator
from app.emulator.serving import ResettableProtocol


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m app.emulator", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9000)
    parser.add_argument("--delay", type=float, default=0, metavar="SECONDS", help="how long each picture takes")
    parser.add_argument(
        "--signature-bytes", type=int, default=256, help="size of thought signatures; real ones have 1 to 2 MB"
    )
    parser.add_argument("--recorded-dir", type=Path, help="a folder of recorded answers to replay for their prompts")
    given = parser.parse_args()
    emulator = Emulator(
        delay_seconds=given.delay, signature_bytes=given.signature_bytes, recorded_dir=given.recorded_dir
    )
    print(f"Emulating the Gemini API on http://{given.host}:{given.port}, faults at /emulator/faults", flush=True)
    uvicorn.run(emulator, host=given.host, port=given.port, http=ResettableProtocol, log_level="warning")


main()
