"""What the README tells a newcomer to paste works as it stands there, but for the service's address."""

import asyncio
import re
import shutil
import sys
from pathlib import Path

import httpx2
import pytest

from app.emulator import Emulator
from tests.conftest import picture

README = (Path(__file__).parent.parent / "README.md").read_text()
SERVICE, EMULATOR = "http://127.0.0.1:8000", "http://127.0.0.1:9000"


def snippets(language: str, words: str) -> list[str]:
    """The README's pieces of code in `language` that hold `words`."""
    return [one for one in re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL) if words in one]


async def pasted(folder: Path, *command: str) -> str:
    running = await asyncio.create_subprocess_exec(
        *command, cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await asyncio.wait_for(running.communicate(), 60)
    assert running.returncode == 0, output.decode()
    return output.decode()


@pytest.mark.parametrize("snippet", snippets("sh", "curl"))
async def test_commands_can_be_pasted(
    client: httpx2.AsyncClient, gemini: Emulator, gemini_url: str, tmp_path: Path, snippet: str
) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed (Debian: curl)")
    for name, format_ in (("anna.jpg", "JPEG"), ("anna-side.jpg", "JPEG"), ("ben.png", "PNG"), ("mug.webp", "WEBP")):
        (tmp_path / name).write_bytes(picture(format_))
    (tmp_path / "style.heic").write_bytes(picture("PNG"))  # told by its bytes, whatever it is called
    commands = re.sub(r"^.*make run$", "", snippet, flags=re.MULTILINE)
    commands = commands.replace(SERVICE, str(client.base_url)).replace(EMULATOR, gemini_url)

    said = await pasted(tmp_path, "bash", "-euc", commands)

    images = re.findall(r"-o (\S+)", commands)
    assert all((tmp_path / image).read_bytes().startswith(b"\xff\xd8") for image in images)
    assert "urn:gemini-images:problem" not in said


@pytest.mark.parametrize("snippet", snippets("python", "urllib"))
async def test_the_python_snippet_needs_nothing_but_python(
    client: httpx2.AsyncClient, gemini: Emulator, tmp_path: Path, snippet: str
) -> None:
    await pasted(tmp_path, sys.executable, "-I", "-c", snippet.replace(SERVICE, str(client.base_url)))

    assert (tmp_path / "lighthouse.jpg").read_bytes().startswith(b"\xff\xd8")


@pytest.mark.parametrize("snippet", snippets("js", "img.src"))
async def test_the_browser_snippet_gets_an_image(
    client: httpx2.AsyncClient, gemini: Emulator, tmp_path: Path, snippet: str
) -> None:
    if shutil.which("node") is None:
        pytest.skip("Node is not installed (Debian: nodejs)")
    code = f"const img = {{}};\n{snippet.replace(SERVICE, str(client.base_url))}\nconsole.log(img.src);"

    said = await pasted(tmp_path, "node", "--input-type=module", "-e", code)

    assert said.startswith("blob:")


async def test_a_failure_is_not_taken_for_an_image(
    client: httpx2.AsyncClient, gemini: Emulator, tmp_path: Path
) -> None:
    """
    The first command ends with an exit code if there is no image.
    """
    command = snippets("sh", "lighthouse.jpg")[0].replace(SERVICE, str(client.base_url)).replace("16:9", "16:8")
    running = await asyncio.create_subprocess_exec("bash", "-euc", command, cwd=tmp_path)

    assert await asyncio.wait_for(running.wait(), 60) == 22
