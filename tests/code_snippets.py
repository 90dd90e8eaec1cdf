"""The playground's "Show me the code": write the snippets as the page does, and run them as its users do."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.conftest import image_file
from tests.programs import require

CODE = Path(__file__).parent.parent / "app/web/code"

_PROGRAM = """
import { snippets } from "./snippets.js";

let text = "";
for await (const chunk of process.stdin) text += chunk;
process.stdout.write(JSON.stringify(snippets(JSON.parse(text))));
"""


@dataclass(frozen=True)
class Ref:
    """A reference image."""

    file_name: str
    """As the page has it."""
    on_disk: str = ""
    """As the snippet reads it, if that differs."""
    role: str = ""
    name: str = ""
    colour: str = "teal"

    @property
    def path(self) -> str:
        return self.on_disk or self.file_name

    @property
    def contents(self) -> bytes:
        return image_file(colour=self.colour)


@dataclass(frozen=True)
class Shown:
    """A request as it is on the screen."""

    body: dict[str, Any] = field(default_factory=dict)
    references: tuple[Ref, ...] = ()
    key_needed: bool = False
    output_type: str | None = None

    def snippets(self, origin: str) -> dict[str, str]:
        """Return the snippets by language, as the page's own modules write them."""
        request = {
            "origin": origin,
            "body": self.body,
            "references": [
                {"fileName": one.file_name, "role": one.role or None, "name": one.name or None, "type": "image/png"}
                for one in self.references
            ],
            "keyNeeded": self.key_needed,
            "outputType": self.output_type,
        }
        with _modules() as folder:
            written = subprocess.run(
                [require("node", "nodejs"), folder / "write.mjs"],
                input=json.dumps(request).encode(),
                stdout=subprocess.PIPE,
                check=True,
                timeout=60,
            )
        found: dict[str, str] = json.loads(written.stdout)
        return found


@dataclass(frozen=True)
class Ran:
    """How a snippet ended."""

    code: int
    output: str
    files: dict[str, bytes]
    """The files that it wrote, by name. All files below the current folder count."""


async def run(language: str, snippet: str, references: tuple[Ref, ...] = (), packages: Path | None = None) -> Ran:
    """Run a snippet in a folder that has only the references.

    Args:
        language: as the key of `Shown.snippets`.
        snippet: the source code.
        references: files that it reads.
        packages: a folder with the packages for Node that it imports.
    """
    with tempfile.TemporaryDirectory() as outside, tempfile.TemporaryDirectory() as inside:
        given = {one.path: one.contents for one in references}
        for name, contents in given.items():
            Path(inside, name).write_bytes(contents)
        program = Path(outside, "snippet.mjs" if "javascript" in language.lower() else "snippet")
        program.write_bytes(snippet.encode())
        if packages:
            Path(outside, "node_modules").symlink_to(packages / "node_modules")
        running = await asyncio.create_subprocess_exec(
            *_interpreter(language),
            program,
            cwd=inside,
            env={"PATH": os.environ["PATH"], "HOME": outside},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await asyncio.wait_for(running.communicate(), 60)
        found = {str(path.relative_to(inside)): path.read_bytes() for path in Path(inside).rglob("*") if path.is_file()}
        written = {name: contents for name, contents in found.items() if given.get(name) != contents}
        assert given.keys() <= found.keys()
        return Ran(running.returncode or 0, output.decode(errors="replace"), written)


def _interpreter(language: str) -> list[str]:
    if language == "curl":
        require("curl", "curl")
        return ["sh"]
    if language in ("python", "openaiPython"):
        return [sys.executable, "-I"]
    return [require("node", "nodejs")]


@contextmanager
def _modules() -> Iterator[Path]:
    """Yield a folder with the page's modules, where Node reads them as modules."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(CODE, folder, dirs_exist_ok=True)
        (folder / "package.json").write_text('{"type": "module"}')
        (folder / "write.mjs").write_text(_PROGRAM)
        yield folder
