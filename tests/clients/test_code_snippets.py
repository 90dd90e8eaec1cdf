"""The playground's code for OpenAI's libraries makes the image that the form makes."""

from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.emulator import Emulator, Fault
from tests.code_snippets import Ref, Shown, run
from tests.conftest import Serve
from tests.test_code_snippets import NAMES, OPTIONS, PROMPTS, SMALL, asked_by_the_form, asked_by_the_snippet

pytestmark = pytest.mark.clients

LANGUAGES = ["openaiPython", "openaiJavascript"]

PICTURES = (Ref("anna.jpg", colour="red"), Ref("mug.webp", colour="blue"))


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("prompt", PROMPTS, ids=range(len(PROMPTS)))
async def test_a_snippet_sends_any_prompt_unchanged(
    client: httpx2.AsyncClient, gemini: Emulator, node_clients: Path, prompt: str, language: str
) -> None:
    shown = Shown(SMALL | {"prompt": prompt})
    by_form = await asked_by_the_form(client, gemini, shown)

    ran = await run(language, shown.snippets(str(client.base_url))[language], packages=node_clients)

    assert await asked_by_the_snippet(gemini, ran) == by_form


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("references", [(), PICTURES], ids=["text", "references"])
@pytest.mark.parametrize("options", OPTIONS, ids=range(len(OPTIONS)))
async def test_a_snippet_has_the_options_of_the_form(
    client: httpx2.AsyncClient,
    gemini: Emulator,
    node_clients: Path,
    options: dict[str, Any],
    references: tuple[Ref, ...],
    language: str,
) -> None:
    shown = Shown({"prompt": "Anna holds the mug"} | options, references)
    by_form = await asked_by_the_form(client, gemini, shown)

    ran = await run(language, shown.snippets(str(client.base_url))[language], references, node_clients)

    assert await asked_by_the_snippet(gemini, ran) == by_form


@pytest.mark.parametrize("language", LANGUAGES)
async def test_a_snippet_reads_references_with_any_file_name(
    client: httpx2.AsyncClient, gemini: Emulator, node_clients: Path, language: str
) -> None:
    shown = Shown({"prompt": "x", "model": "gemini-3-pro-image", "imageSize": "1K"}, NAMES)
    by_form = await asked_by_the_form(client, gemini, shown)

    ran = await run(language, shown.snippets(str(client.base_url))[language], NAMES, node_clients)

    assert await asked_by_the_snippet(gemini, ran) == by_form


@pytest.mark.parametrize("language", LANGUAGES)
async def test_a_snippet_says_that_roles_and_names_are_not_in_openai_s_api(
    client: httpx2.AsyncClient, gemini: Emulator, node_clients: Path, language: str
) -> None:
    """
    It works all the same.
    """
    references = (Ref("anna.jpg", role="character", name="Anna"),)
    snippet = Shown(SMALL | {"prompt": "x"}, references).snippets(str(client.base_url))[language]

    ran = await run(language, snippet, references, node_clients)

    assert "OpenAI's API has no roles and names" in snippet
    assert await asked_by_the_snippet(gemini, ran)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize(
    ("fault", "calls"), [(Fault(finish_reason="IMAGE_SAFETY"), 1), (Fault(status=503, times=3), 3)]
)
async def test_a_snippet_fails_after_one_request(
    client: httpx2.AsyncClient, gemini: Emulator, node_clients: Path, fault: Fault, calls: int, language: str
) -> None:
    """
    Only the service repeats calls.
    """
    gemini.faults.append(fault)
    shown = Shown(SMALL | {"prompt": "x"})

    ran = await run(language, shown.snippets(str(client.base_url))[language], packages=node_clients)

    assert ran.code != 0
    assert not ran.files
    assert len(gemini.calls) == calls


@pytest.mark.parametrize("language", LANGUAGES)
async def test_a_snippet_has_a_placeholder_for_the_key(
    serve: Serve, gemini: Emulator, node_clients: Path, language: str
) -> None:
    async with serve(service_api_keys="web:secret") as client:
        snippet = Shown(SMALL | {"prompt": "x"}, key_needed=True).snippets(str(client.base_url))[language]

        refused = await run(language, snippet, packages=node_clients)
        ran = await run(language, snippet.replace("YOUR_KEY", "secret"), packages=node_clients)

    assert refused.code != 0
    assert ran.files["image.jpg"].startswith(b"\xff\xd8")
    assert len(gemini.calls) == 1
