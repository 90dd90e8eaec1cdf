"""Run the scripts of the folder `scripts`."""

import asyncio
import json
from pathlib import Path
from typing import Any

from tests.clients.outcome import Outcome
from tests.programs import require


async def run_node(script: Path, job: dict[str, Any]) -> Outcome:
    """Run a script of the folder `scripts` with a job, and return what it reports.

    `None` in the job counts as absent.
    """
    started = await asyncio.create_subprocess_exec(
        require("node", "nodejs"), script, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    given = {key: value for key, value in job.items() if value is not None}
    output, _ = await asyncio.wait_for(started.communicate(json.dumps(given).encode()), 60)
    assert started.returncode == 0, output.decode()[:1000]
    return Outcome(**json.loads(output))
