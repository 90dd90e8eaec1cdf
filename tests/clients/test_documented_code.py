"""The code in docs/openai.md works unchanged, except for the service's address."""

import re
import sys
from pathlib import Path

import httpx2
import pytest
from PIL import Image

from app.emulator import Emulator
from tests.programs import require
from tests.test_readme import SERVICE, run

pytestmark = pytest.mark.clients

PAGE = Path(__file__).parents[2] / "docs/openai.md"


def code(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.mark.parametrize("snippet", code("python"))
async def test_the_python_code_saves_an_image(
    client: httpx2.AsyncClient, gemini: Emulator, tmp_path: Path, snippet: str
) -> None:
    output = await run(tmp_path, sys.executable, "-c", snippet.replace(SERVICE, str(client.base_url)))

    with Image.open(tmp_path / "bern.jpg") as image:
        assert image.size == (2752, 1536)
    assert re.fullmatch(r"gemini-3-pro-image 2752x1536 0\.\d+\n", output)


@pytest.mark.parametrize("snippet", code("js"), ids=["openai", "ai"])
async def test_the_javascript_saves_an_image(
    client: httpx2.AsyncClient, gemini: Emulator, node_clients: Path, snippet: str
) -> None:
    for old in node_clients.glob("lighthouse.*"):
        old.unlink()
    (node_clients / "snippet.mjs").write_text(snippet.replace(SERVICE, str(client.base_url)))

    await run(node_clients, require("node", "nodejs"), "snippet.mjs")

    [file] = node_clients.glob("lighthouse.*")
    with Image.open(file) as image:
        assert image.format == ("PNG" if file.suffix == ".png" else "JPEG")
    assert gemini.calls
