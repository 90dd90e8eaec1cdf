"""Run `python -m app keys` as an operator does."""

import asyncio
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True)
class Ran:
    code: int | None
    output: str
    error: str

    @property
    def secret(self) -> str:
        """The last line of `add` and `rotate`."""
        assert self.code == 0, self.error
        return self.output.splitlines()[-1]

    def json(self) -> Any:
        assert self.code == 0, self.error
        return json.loads(self.output)


async def keys(data_dir: Path, *arguments: str, **environment: str) -> Ran:
    """Run a command with only the given environment variables."""
    running = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "app", "keys", *arguments,
        cwd=data_dir,
        env={"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"], "DATA_DIR": str(data_dir), **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, error = await asyncio.wait_for(running.communicate(), 30)
    return Ran(running.returncode, output.decode(), error.decode())
