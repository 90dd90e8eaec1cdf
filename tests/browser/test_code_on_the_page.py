"""The code on the page: it is that of the form, and it works as copied."""

from pathlib import Path

import httpx2
import pytest
from playwright.async_api import expect

from app.emulator import Emulator
from tests.browser.conftest import Open
from tests.browser.playground import Playground
from tests.code_snippets import Ref, run

pytestmark = pytest.mark.browser

PROMPT = 'It\'s a "light" $HOUSE `id` </script>\nNew line! \\ 😀'
LANGUAGES = {"curl": "curl", "Python": "python", "JavaScript": "javascript"}


@pytest.mark.parametrize("language", LANGUAGES)
async def test_copied_code_makes_the_image_that_the_form_makes(
    open_playground: Open, client: httpx2.AsyncClient, gemini: Emulator, tmp_path: Path, language: str
) -> None:
    reference = Ref("anna's best.png")
    file = tmp_path / reference.file_name
    file.write_bytes(reference.contents)
    permissions = ["clipboard-read", "clipboard-write"]
    async with open_playground(client, permissions=permissions) as playground:
        await playground.choose("Model", "Nano Banana 2.1")
        await playground.choose("Aspect ratio", "16:9")
        await playground.choose("Size", "1K")
        await playground.add_files(file)
        await playground.reference(1).get_by_role("textbox", name="Name").fill("Anna")
        await playground.prompt.fill(PROMPT)
        panel = await playground.open_code(language)
        await playground.button("Copy").click()
        copied = await playground.page.evaluate("navigator.clipboard.readText()")
        await expect(panel.locator("code")).to_have_text(copied, use_inner_text=False)
        await playground.generate(PROMPT)
    by_form = gemini.calls[0].body
    gemini.clear()

    ran = await run(LANGUAGES[language], copied, (reference,))

    assert ran.code == 0, ran.output
    assert len(ran.files) == 1
    assert str(gemini.calls[0].body).replace("\\r\\n", "\\n") == str(by_form).replace("\\r\\n", "\\n")


async def test_code_follows_the_form_at_once(playground: Playground) -> None:
    panel = await playground.open_code("OpenAI Python")
    await playground.prompt.fill("A lighthouse")
    await expect(panel).to_contain_text('prompt="A lighthouse"')

    await playground.choose("Aspect ratio", "21:9")
    await expect(panel).to_contain_text('"aspect_ratio": "21:9"')

    await playground.choose("Size", "4K")
    await expect(panel).to_contain_text('"image_size": "4K"')


async def test_tabs_work_by_keyboard(playground: Playground) -> None:
    tab = playground.code.get_by_role("tab", name="curl")
    await tab.focus()
    for name in ("Python", "JavaScript", "OpenAI Python", "OpenAI JavaScript"):
        await playground.page.keyboard.press("ArrowRight")
        await expect(playground.code.get_by_role("tab", name=name, exact=True)).to_be_focused()
        await expect(playground.code.get_by_role("tab", name=name, exact=True)).to_have_attribute(
            "aria-selected", "true"
        )
        await expect(playground.code.get_by_role("tabpanel", name=name, exact=True)).to_be_visible()


async def test_the_picture_that_is_changed_is_a_reference_in_the_code(playground: Playground, gemini: Emulator) -> None:
    await playground.choose("Size", "1K")
    await playground.generate("A lighthouse")
    await playground.button("Edit this image").click()
    await playground.prompt.fill("Make the sky green")
    panel = await playground.open_code("curl")

    await expect(panel).to_contain_text("images=@image.jpg")
    code = await panel.locator("code").text_content()
    gemini.clear()
    ran = await run("curl", code or "", (Ref("image.jpg"),))

    assert ran.code == 0, ran.output
    assert len(gemini.calls) == 1
