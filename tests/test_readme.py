"""Snippets in README.md and docs/ work unchanged, except for the service's address; links lead somewhere."""

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote

import httpx2
import pytest

from app.emulator import Emulator
from app.service.webhooks.message import WebhookSigner
from tests.conftest import Serve, image_file
from tests.programs import require
from tests.storages import free_port

ROOT = Path(__file__).parent.parent
CALLERS = ROOT / "docs" / "callers.md"
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
DOCUMENTS = (
    *PAGES,
    *sorted(ROOT.glob("*.md")),
    *sorted(ROOT.glob("deploy/**/*.md")),
    *sorted(ROOT.glob("docs/*/*.md")),
)
SECONDS = 180
"""Limit of time for one snippet. A busy machine takes seconds to start Python, and one snippet starts it five times."""

SERVICE, EMULATOR = "http://127.0.0.1:8000", "http://127.0.0.1:9000"


def snippets(language: str, words: str, pages: Iterable[Path] = PAGES) -> list[str]:
    """Return the snippets in `language` that contain `words`."""
    text = "\n".join(page.read_text() for page in pages)
    return [snippet for snippet in re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL) if words in snippet]


async def run(folder: Path, *command: str, **environment: str) -> str:
    running = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        output, _ = await asyncio.wait_for(running.communicate(), SECONDS)
    except TimeoutError:
        os.killpg(running.pid, signal.SIGKILL)  # bash has processes of its own
        await running.wait()
        raise
    assert running.returncode == 0, output.decode()
    return output.decode()


@pytest.mark.parametrize("snippet", snippets("sh", "curl", [page for page in PAGES if page != CALLERS]))
async def test_commands_can_be_pasted(
    client: httpx2.AsyncClient, gemini: Emulator, gemini_url: str, tmp_path: Path, snippet: str
) -> None:
    require("curl", "curl")
    for name, format_ in (("anna.jpg", "JPEG"), ("anna-side.jpg", "JPEG"), ("ben.png", "PNG"), ("mug.webp", "WEBP")):
        (tmp_path / name).write_bytes(image_file(format_))
    (tmp_path / "lighthouse.jpg").write_bytes(image_file("JPEG"))
    (tmp_path / "logo.png").write_bytes(image_file("PNG"))
    (tmp_path / "style.heic").write_bytes(image_file("PNG"))  # the service recognises a file by its bytes
    commands = snippet.replace(SERVICE, str(client.base_url)).replace(EMULATOR, gemini_url)

    output = await run(tmp_path, "bash", "-euc", commands)

    images = re.findall(r"-o (\S+)", commands)
    assert all((tmp_path / image).read_bytes().startswith(b"\xff\xd8") for image in images)
    assert "urn:gemini-images:problem" not in output


async def test_the_commands_for_keys_can_be_pasted(serve_alone: Serve, gemini: Emulator, tmp_path: Path) -> None:
    """
    The commands and the service share a database.
    """
    require("curl", "curl")
    admin_key = "0123456789abcdef"
    environment = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "DATA_DIR": str(tmp_path),
        "ADMIN_API_KEY": admin_key,
    }
    async with serve_alone(admin_api_key=admin_key, require_keys=True) as client:
        outputs = [
            await run(tmp_path, "bash", "-euc", snippet.replace(SERVICE, str(client.base_url)), **environment)
            for snippet in snippets("sh", "", [CALLERS])
        ]
        listed = (await client.get("/admin/keys", headers={"X-API-Key": admin_key})).json()["keys"]

    assert {key["name"]: key["state"] for key in listed} == {"web": "revoked", "poster": "valid", "mobile": "revoked"}
    assert (tmp_path / "poster.jpg").read_bytes().startswith(b"\xff\xd8")
    assert re.search(r'"caller": ?"poster".*"images": ?1,', outputs[1])


@pytest.mark.parametrize("snippet", snippets("python", "urllib"))
async def test_the_python_snippet_needs_nothing_but_python(
    client: httpx2.AsyncClient, gemini: Emulator, tmp_path: Path, snippet: str
) -> None:
    await run(tmp_path, sys.executable, "-I", "-c", snippet.replace(SERVICE, str(client.base_url)))

    assert (tmp_path / "lighthouse.jpg").read_bytes().startswith(b"\xff\xd8")


@pytest.mark.parametrize("snippet", snippets("js", "img.src"))
async def test_the_browser_snippet_gets_an_image(
    client: httpx2.AsyncClient, gemini: Emulator, tmp_path: Path, snippet: str
) -> None:
    require("node", "nodejs")
    code = f"const img = {{}};\n{snippet.replace(SERVICE, str(client.base_url))}\nconsole.log(img.src);"

    output = await run(tmp_path, "node", "--input-type=module", "-e", code)

    assert output.startswith("blob:")


async def test_the_receiver_of_webhooks_accepts_signed_messages_only(tmp_path: Path) -> None:
    [snippet] = snippets("python", "standardwebhooks")
    secret = re.findall(r"whsec_\w+", snippet)[0]
    address = f"http://127.0.0.1:{free_port()}"
    body = json.dumps({"type": "generation.succeeded", "data": {"id": "gen_1"}})
    receiver = await asyncio.create_subprocess_exec(
        sys.executable, "-c", snippet.replace("9100", address.rpartition(":")[2]), cwd=tmp_path
    )
    try:
        async with httpx2.AsyncClient() as caller, asyncio.timeout(30):
            while True:  # until the receiver listens
                with suppress(httpx2.ConnectError):
                    await caller.get(address)
                    break
                await asyncio.sleep(0.05)
            now = datetime.now(UTC)
            signed = WebhookSigner([secret]).headers("msg_1", body, now)
            answers = [
                await caller.post(address, content=content, headers=signed)
                for content in (body, body.replace("1", "2"))
            ]
    finally:
        receiver.kill()
        await receiver.wait()

    assert [answer.status_code for answer in answers] == [204, 400]


async def test_the_first_command_fails_if_there_is_no_image(
    client: httpx2.AsyncClient, gemini: Emulator, tmp_path: Path
) -> None:
    """
    curl exits with 22; a script does not mistake the problem document for an image.
    """
    command = snippets("sh", "lighthouse.jpg")[0].replace(SERVICE, str(client.base_url)).replace("16:9", "16:8")
    running = await asyncio.create_subprocess_exec("bash", "-euc", command, cwd=tmp_path)

    assert await asyncio.wait_for(running.wait(), 60) == 22


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", dict.fromkeys(DOCUMENTS), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_documents_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in link:
            continue
        path, _, anchor = unquote(link).partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            broken.append(link)

    assert broken == []
