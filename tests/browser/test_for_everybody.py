"""Keyboard, screen readers, contrast, narrow screens, light and dark. Screenshots of the main states are written."""

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from playwright.async_api import expect

from app.emulator import Emulator, Fault
from tests.browser.conftest import Open
from tests.browser.playground import Playground
from tests.conftest import Serve, wait_for_calls

pytestmark = pytest.mark.browser

WIDE: dict[str, Any] = {"viewport": {"width": 1280, "height": 900}}
NARROW: dict[str, Any] = {"viewport": {"width": 390, "height": 844}}
WINDOWS = {
    "light-1280": WIDE | {"color_scheme": "light"},
    "dark-1280": WIDE | {"color_scheme": "dark"},
    "light-390": NARROW | {"color_scheme": "light"},
    "dark-390": NARROW | {"color_scheme": "dark"},
}


@pytest.fixture
async def client(serve_alone: Serve, gemini: Emulator) -> AsyncGenerator[httpx2.AsyncClient]:
    """A client of a service whose storage is empty."""
    async with serve_alone() as client:
        yield client


async def checked(playground: Playground, state: str) -> None:
    """Write a screenshot. Nothing may be wrong in this state."""
    await playground.screenshot(state)
    assert await playground.violations() == []
    assert not await playground.overflows()


@pytest.mark.parametrize("window", WINDOWS)
async def test_each_state_is_accessible_and_fits_the_window(
    open_playground: Open, client: httpx2.AsyncClient, gemini: Emulator, pictures: list[Path], window: str
) -> None:
    async with open_playground(client, **WINDOWS[window]) as playground:
        await checked(playground, f"empty-{window}")

        await playground.add_files(*pictures)
        await playground.page.get_by_text("More options").click()
        await playground.prompt.fill("Anna holds the mug")
        await checked(playground, f"references-{window}")

        gemini.faults.append(Fault(delay_seconds=5))
        await playground.button("Generate").click()
        await wait_for_calls(gemini)
        await expect(playground.progress).to_contain_text("drawing")
        await checked(playground, f"progress-{window}")
        await playground.shows("Anna holds the mug")

        for number in (3, 2, 1):
            await playground.reference(number).get_by_role("button", name="Remove").click()
        await playground.choose("Size", "1K")
        await playground.switch("Google Search").check()
        await playground.generate("The weather in Bern")
        await checked(playground, f"result-{window}")

        await playground.switch("Google Search").uncheck()
        await playground.button("Edit this image").click()
        await playground.generate("Now in Spanish")
        compared = playground.page.get_by_role("group", name="Compare").get_by_role("img")
        await expect(compared).to_have_count(2)
        await checked(playground, f"chat-{window}")

        gemini.faults.append(Fault(finish_reason="IMAGE_SAFETY"))
        await playground.prompt.fill("Something spooky")
        await playground.button("Generate").click()
        await expect(playground.error).not_to_be_empty()
        await checked(playground, f"refusal-{window}")


async def test_the_question_for_a_key_is_accessible(serve: Serve, open_playground: Open, gemini: Emulator) -> None:
    async with serve(service_api_keys="web:secret") as client, open_playground(client, **NARROW) as playground:
        await expect(playground.page.get_by_role("textbox", name="API key")).to_be_visible()
        await checked(playground, "key-light-390")


@pytest.mark.parametrize("width", [360, 600, 1024, 1920])
async def test_nothing_is_cut_off_at_any_width(
    open_playground: Open, client: httpx2.AsyncClient, gemini: Emulator, width: int
) -> None:
    """
    Even with a long word in the prompt.
    """
    async with open_playground(client, viewport={"width": width, "height": 800}) as playground:
        await playground.choose("Size", "1K")
        await playground.generate("Donaudampfschifffahrtsgesellschaft" * 6)
        await playground.button("Edit this image").click()
        await playground.generate("x" * 200)

        assert not await playground.overflows()


async def test_the_keyboard_is_enough(playground: Playground, gemini: Emulator) -> None:
    """
    A model, a ratio, a prompt, an image and its first change, without a mouse.
    """
    keyboard = playground.page.keyboard
    await _tab_to(playground, "prompt")
    await keyboard.type("A lighthouse")
    await _tab_to(playground, "radio", "model")
    await keyboard.press("ArrowDown")
    await _tab_to(playground, "radio", "ratio")
    await keyboard.press("ArrowRight")
    await _tab_to(playground, "button", "Generate")
    await keyboard.press("Enter")
    await playground.shows("A lighthouse")
    assert gemini.calls[0].model == "gemini-nano-banana-2.1"

    await _tab_to(playground, "button", "Edit this image")
    await keyboard.press("Enter")
    await expect(playground.prompt).to_be_focused()
    await keyboard.type("Make the sky green")
    await keyboard.press("Control+Enter")
    await playground.shows("Make the sky green")


async def test_what_has_the_focus_can_be_seen(playground: Playground) -> None:
    """
    Each element that the Tab key reaches shows it.
    """
    unseen = []
    for _ in range(40):
        await playground.page.keyboard.press("Tab")
        unseen += await playground.page.evaluate(
            """() => {
                 const focused = document.activeElement;
                 if (!focused || focused === document.body) return [];
                 const seen = (one) => one && (getComputedStyle(one).outlineStyle !== "none"
                   || getComputedStyle(one).boxShadow !== "none");
                 const box = focused.closest("label, .picker") ?? focused;
                 return seen(focused) || seen(box) || seen(focused.nextElementSibling) ? [] : [focused.outerHTML];
               }"""
        )
    assert unseen == []


async def test_progress_and_errors_are_live_regions(playground: Playground, gemini: Emulator) -> None:
    """
    They are in the page before they say something, and the error is cleared by the next try.
    """
    await expect(playground.progress).to_have_count(1)
    await expect(playground.error).to_have_count(1)
    gemini.faults.append(Fault(finish_reason="IMAGE_SAFETY"))
    await playground.prompt.fill("Something spooky")
    await playground.button("Generate").click()
    await expect(playground.error).not_to_be_empty()

    gemini.faults.append(Fault(delay_seconds=2))
    await playground.button("Generate").click()
    await expect(playground.error).to_be_empty()
    await expect(playground.progress).not_to_be_empty()
    await playground.shows("Something spooky")


async def test_a_demo_says_that_it_is_one(serve: Serve, open_playground: Open, playground: Playground) -> None:
    """
    The word is on no other page.
    """
    assert "demo" not in (await playground.page.content()).lower()
    async with serve(demo=True) as client, open_playground(client) as other:
        await expect(other.page.get_by_text("This is a demo")).to_be_visible()


async def _tab_to(playground: Playground, what: str, name: str = "") -> None:
    """Press Tab until this element has the focus: the prompt, a radio of a group, or a button with this text."""
    for _ in range(60):
        await playground.page.keyboard.press("Tab")
        found = await playground.page.evaluate(
            """([what, name]) => {
                 const focused = document.activeElement;
                 if (what === "prompt") return focused.id === "prompt";
                 if (what === "radio") return focused.type === "radio" && focused.name === name;
                 return focused.tagName === "BUTTON" && focused.textContent.trim() === name;
               }""",
            [what, name],
        )
        if found:
            return
    raise AssertionError(f"Tab does not reach {what} {name}")
