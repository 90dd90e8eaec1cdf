"""Reference images: how they come to the page, their labels and their order."""

import base64
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import expect

from app.emulator import Emulator
from tests.browser.playground import Playground
from tests.clients.images import sent_images
from tests.conftest import image_file

pytestmark = pytest.mark.browser

_DROP = """async ({ name, type, data, kind }) => {
  const bytes = Uint8Array.from(atob(data), (one) => one.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name, { type }));
  const options = { bubbles: true, cancelable: true };
  if (kind === "paste") {
    document.body.dispatchEvent(new ClipboardEvent("paste", { ...options, clipboardData: transfer }));
  } else {
    for (const event of ["dragenter", "dragover", "drop"]) {
      document.querySelector("h1").dispatchEvent(new DragEvent(event, { ...options, dataTransfer: transfer }));
    }
  }
}"""


async def give(playground: Playground, kind: str, contents: bytes, name: str = "anna.png") -> None:
    """Drop or paste a file somewhere on the page."""
    data = base64.b64encode(contents).decode()
    await playground.page.evaluate(_DROP, {"name": name, "type": "image/png", "data": data, "kind": kind})


async def test_picked_references_are_sent_with_role_and_name(
    playground: Playground, gemini: Emulator, pictures: list[Path]
) -> None:
    await playground.add_files(*pictures)
    await playground.reference(1).get_by_role("combobox", name="Role").select_option("character")
    await playground.reference(1).get_by_role("textbox", name="Name").fill("Anna")
    await playground.reference(3).get_by_role("combobox", name="Role").select_option("style")
    await playground.generate("Anna holds the mug")

    body = gemini.calls[0].body
    assert sent_images(body) == [path.read_bytes() for path in pictures]
    texts = " ".join(part.get("text", "") for part in body["contents"][-1]["parts"])
    assert "Anna" in texts
    assert "style" in texts


@pytest.mark.parametrize("kind", ["drop", "paste"])
async def test_files_can_be_dropped_and_pasted_anywhere(playground: Playground, gemini: Emulator, kind: str) -> None:
    await give(playground, kind, image_file())

    await expect(playground.reference(1)).to_be_visible()
    await playground.generate("Make the sky green")
    assert sent_images(gemini.calls[0].body) == [image_file()]


async def test_references_can_be_removed(playground: Playground, gemini: Emulator, pictures: list[Path]) -> None:
    await playground.add_files(*pictures)
    await playground.reference(2).get_by_role("button", name="Remove").click()
    await expect(playground.reference(3)).to_have_count(0)
    await playground.generate("Anna holds the mug")

    assert sent_images(gemini.calls[0].body) == [pictures[0].read_bytes(), pictures[2].read_bytes()]


async def test_references_are_reordered_by_keyboard(
    playground: Playground, gemini: Emulator, pictures: list[Path]
) -> None:
    await playground.add_files(*pictures)
    await playground.reference(1).get_by_role("textbox", name="Name").fill("Anna")
    await playground.reference(1).get_by_role("button", name="Move later").press("Enter")
    await playground.page.keyboard.press("Enter")
    await expect(playground.reference(3).get_by_role("textbox", name="Name")).to_have_value("Anna")
    await playground.generate("x")

    assert sent_images(gemini.calls[0].body) == [pictures[place].read_bytes() for place in (1, 2, 0)]


async def test_references_are_reordered_by_mouse(
    playground: Playground, gemini: Emulator, pictures: list[Path]
) -> None:
    await playground.add_files(*pictures)
    await playground.reference(1).get_by_role("textbox", name="Name").fill("Anna")
    corner = {"x": 12, "y": 12}
    await playground.reference(1).drag_to(playground.reference(3), source_position=corner, target_position=corner)

    await expect(playground.reference(3).get_by_role("textbox", name="Name")).to_have_value("Anna")


@pytest.mark.parametrize(
    ("name", "contents", "reason"),
    [
        ("film.gif", image_file("GIF"), "GIF"),
        ("half.png", image_file()[:60], "incomplete"),
        ("empty.png", b"", "empty"),
        ("notes.txt", b"hello", "not an image"),
    ],
)
async def test_a_file_that_cannot_be_used_is_named_at_once_with_the_reason(
    playground: Playground, gemini: Emulator, name: str, contents: bytes, reason: str
) -> None:
    await give(playground, "drop", contents, name)

    await expect(playground.error).to_contain_text(name)
    await expect(playground.error).to_contain_text(reason)
    await expect(playground.reference(1)).to_have_count(0)
    assert not gemini.calls


async def test_too_many_references_for_the_model_are_told_at_once(playground: Playground, tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.png" for number in range(15)]
    for file in files:
        file.write_bytes(image_file())
    await playground.files.set_input_files(files)

    await expect(playground.page.get_by_text("14 references at most").first).to_be_visible()


async def test_the_ratio_of_an_edited_picture_is_its_own_unless_chosen(
    playground: Playground, gemini: Emulator, pictures: list[Path]
) -> None:
    await playground.add_files(pictures[0])
    await playground.generate("Make the sky green")

    config: dict[str, Any] = gemini.calls[0].body["generationConfig"].get("imageConfig", {})
    assert "aspectRatio" not in config
