"""The playground's code for curl, Python and JavaScript does what the form does, whatever the prompt contains.

`tests/clients` does the same for OpenAI's libraries.
"""

import base64
import io
from typing import Any

import httpx2
import pytest
from PIL import Image

from app.emulator import Emulator, Fault
from tests.code_snippets import Ran, Ref, Shown, run
from tests.conftest import Serve, image_of

LANGUAGES = ["curl", "python", "javascript"]

SMALL = {"model": "gemini-3.1-flash-lite-image", "imageSize": "1K"}

PROMPTS = [
    'It\'s a "lighthouse"',
    "$HOME `id` $(id) ${PATH} !! !$ !x \\ \\n \\' \\\" %s %d {0} {{x}} #{x} ~ ^ & | > *",
    "one\ntwo\n\nEOF\nJSON\n'''\n\"\"\"\n```\n",
    "--help -rf",
    "@/etc/passwd",
    "</etc/passwd",
    "<script>alert(1)</script></textarea>*/ // <!-- # -->",
    "a;type=text/html;filename=x,b",
    "日本語 😀 👩‍👩‍👧 e\u0301 \u00a0 \u202e abc \u2028 \u2029 \ufeff",
    "\t\x01\x1b[31m \x7f",
    "ends with \\",
    "'",
    '"); import os #',
    "\u0930\u0902\u0917 " * 40_000,
]

OPTIONS: list[dict[str, Any]] = [
    {},
    {"model": "gemini-3-pro-image", "aspectRatio": "16:9", "imageSize": "1K"},
    {"model": "gemini-nano-banana-2.1", "aspectRatio": "1:4", "imageSize": "1K", "thinkingLevel": "high"},
    {"model": "gemini-nano-banana-2.1", "imageSize": "1K", "googleSearch": True, "imageSearch": True},
    SMALL | {"outputFormat": "png", "seed": -7, "systemInstruction": 'Don\'t "draw" words.\nNever.'},
    SMALL | {"outputFormat": "webp", "outputQuality": 40},
]

ANNA_AND_MUG = (
    Ref("anna.jpg", role="character", name="Anna", colour="red"),
    Ref("mug.webp", role="object", name='the "mug"; it\'s @blue', colour="blue"),
    Ref("style.png", colour="green"),
)

NAMES = (
    Ref("image.jpg", colour="red"),
    Ref('it\'s "the best".png', colour="orange"),
    Ref("-", colour="yellow"),
    Ref("-rf.png", colour="green"),
    Ref("a;type=x,b.png", colour="blue"),
    Ref("@x.png", colour="purple"),
    Ref("$(id)`id`!x.png", colour="black"),
    Ref("back\\slash.png", colour="white"),
    Ref("ümlaut 😀.webp", colour="grey"),
    Ref("../../image.png", "image.png", colour="pink"),
    Ref("image.png", "image-2.png", colour="brown"),
    Ref("", "reference.png", colour="cyan"),
)


async def asked_by_the_form(client: httpx2.AsyncClient, gemini: Emulator, shown: Shown) -> dict[str, Any]:
    """Make the request as the page does; return the body of Gemini's call, the format of the image and its pixels."""
    gemini.clear()
    references = [
        {"data": base64.b64encode(one.contents).decode(), "role": one.role, "name": one.name}
        for one in shown.references
    ]
    image = image_of(await client.post("/generate-image", json=shown.body | {"referenceImages": references}))
    return _seen(gemini, image)


async def asked_by_the_snippet(gemini: Emulator, ran: Ran) -> dict[str, Any]:
    assert ran.code == 0, ran.output[-2000:]
    [(name, image)] = ran.files.items()
    return _seen(gemini, image) | {"extension": name.rpartition(".")[2]}


def _seen(gemini: Emulator, image: bytes) -> dict[str, Any]:
    [call] = gemini.calls
    with Image.open(io.BytesIO(image)) as opened:
        opened.load()
        extension = {"JPEG": "jpg"}.get(opened.format or "", (opened.format or "").lower())
        seen = {"model": call.model, "body": call.body, "size": opened.size, "extension": extension}
    gemini.clear()
    return seen


@pytest.mark.parametrize(
    ("language", "references"),
    [*((language, ()) for language in LANGUAGES), ("curl", ANNA_AND_MUG[:1])],
    ids=[*LANGUAGES, "curl with a reference"],
)
@pytest.mark.parametrize("prompt", PROMPTS, ids=range(len(PROMPTS)))
async def test_a_snippet_sends_any_prompt_unchanged(
    client: httpx2.AsyncClient, gemini: Emulator, language: str, references: tuple[Ref, ...], prompt: str
) -> None:
    """
    It writes one file, into the current folder, and makes one call. With references curl sends a form, not JSON.
    """
    shown = Shown(SMALL | {"prompt": prompt}, references)
    by_form = await asked_by_the_form(client, gemini, shown)

    ran = await run(language, shown.snippets(str(client.base_url))[language], references)

    assert await asked_by_the_snippet(gemini, ran) == by_form


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("references", [(), ANNA_AND_MUG], ids=["text", "references"])
@pytest.mark.parametrize("options", OPTIONS, ids=range(len(OPTIONS)))
async def test_a_snippet_has_every_option_of_the_form(
    client: httpx2.AsyncClient, gemini: Emulator, options: dict[str, Any], references: tuple[Ref, ...], language: str
) -> None:
    shown = Shown({"prompt": "Anna holds the mug"} | options, references)
    by_form = await asked_by_the_form(client, gemini, shown)

    ran = await run(language, shown.snippets(str(client.base_url))[language], references)

    assert await asked_by_the_snippet(gemini, ran) == by_form


@pytest.mark.parametrize("language", LANGUAGES)
async def test_a_snippet_reads_references_with_any_file_name(
    client: httpx2.AsyncClient, gemini: Emulator, language: str
) -> None:
    """
    References with the same name are numbered. The image does not replace a reference.
    """
    shown = Shown({"prompt": "x", "model": "gemini-3-pro-image", "imageSize": "1K"}, NAMES)
    by_form = await asked_by_the_form(client, gemini, shown)

    ran = await run(language, shown.snippets(str(client.base_url))[language], NAMES)

    assert await asked_by_the_snippet(gemini, ran) == by_form
    assert ran.files.keys() == {"image-2.jpg"}


@pytest.mark.parametrize("language", LANGUAGES)
async def test_a_snippet_names_the_file_after_the_type_that_the_model_draws(
    client: httpx2.AsyncClient, gemini: Emulator, language: str
) -> None:
    shown = Shown({"prompt": "x", "model": "gemini-2.5-flash-image"}, output_type="image/png")

    ran = await run(language, shown.snippets(str(client.base_url))[language])

    assert ran.files["image.png"].startswith(b"\x89PNG")


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("references", [(), ANNA_AND_MUG[:1]], ids=["text", "reference"])
async def test_a_snippet_fails_with_gemini_s_reason(
    client: httpx2.AsyncClient, gemini: Emulator, references: tuple[Ref, ...], language: str
) -> None:
    gemini.faults.append(Fault(finish_reason="IMAGE_SAFETY", finish_message="Too spooky.", times=9))
    shown = Shown(SMALL | {"prompt": "x"}, references)

    ran = await run(language, shown.snippets(str(client.base_url))[language], references)

    assert ran.code != 0
    assert len(gemini.calls) == 1
    said = ran.output + "".join(contents.decode() for contents in ran.files.values())
    assert "Too spooky." in said


@pytest.mark.parametrize("language", LANGUAGES)
async def test_a_snippet_fails_if_nothing_answers(language: str) -> None:
    snippet = Shown({"prompt": "x"}).snippets("http://127.0.0.1:9")[language]

    ran = await run(language, snippet)

    assert ran.code != 0
    assert not ran.files


@pytest.mark.parametrize("language", LANGUAGES)
async def test_a_snippet_has_a_placeholder_for_the_key(serve: Serve, gemini: Emulator, language: str) -> None:
    """
    It fails until the placeholder is replaced.
    """
    async with serve(service_api_keys="web:secret") as client:
        snippet = Shown(SMALL | {"prompt": "x"}, key_needed=True).snippets(str(client.base_url))[language]

        refused = await run(language, snippet)
        ran = await run(language, snippet.replace("YOUR_KEY", "secret"))

    assert refused.code != 0
    assert "Replace YOUR_KEY with your key." in snippet
    assert ran.files["image.jpg"].startswith(b"\xff\xd8")
    assert len(gemini.calls) == 1
