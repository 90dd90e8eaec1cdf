"""Changing a picture: the thread, forks, the comparison and the gallery."""

import re
from collections.abc import AsyncGenerator

import httpx2
import pytest
from playwright.async_api import expect

from app.emulator import Emulator, Fault
from tests.browser.conftest import Open
from tests.browser.playground import Playground
from tests.clients.images import sent_images
from tests.conftest import Serve, wait_for_calls

pytestmark = pytest.mark.browser


@pytest.fixture
async def client(serve_alone: Serve, gemini: Emulator) -> AsyncGenerator[httpx2.AsyncClient]:
    """A client of a service whose storage is empty."""
    async with serve_alone() as client:
        yield client


async def edit(playground: Playground, prompt: str) -> None:
    """Change the picture that is shown."""
    await playground.button("Edit this image").click()
    await expect(playground.prompt).to_be_focused()
    await playground.generate(prompt)


async def drawn(playground: Playground) -> None:
    """Make a first picture."""
    await playground.choose("Size", "1K")
    await playground.generate("A lighthouse")


async def test_a_picture_is_changed_in_a_chat_that_has_it(
    playground: Playground, client: httpx2.AsyncClient, gemini: Emulator
) -> None:
    """
    The first turn carries the plain picture along. Gemini gets the earlier turns again.
    """
    await drawn(playground)
    await edit(playground, "Make the sky green")
    await edit(playground, "Now at night")

    _first, second, third = gemini.calls
    assert len(sent_images(second.body)) == 1
    assert "Make the sky green" in str(third.body)
    assert "Now at night" in str(third.body)
    turns = playground.page.get_by_role("group", name=re.compile(r"^Turn \d$"))
    await expect(turns).to_have_count(2)
    [chat] = (await client.get("/chats")).json()["chats"]
    assert chat["lastTurn"] == 2


async def test_a_turn_can_be_shown_and_forked(
    playground: Playground, client: httpx2.AsyncClient, gemini: Emulator
) -> None:
    """
    The fork is a chat of its own; the old one stays.
    """
    await drawn(playground)
    await edit(playground, "Make the sky green")
    await edit(playground, "Now at night")
    await playground.page.get_by_role("group", name="Turn 1").get_by_role("button", name="Fork from here").click()
    await playground.shows("Make the sky green")
    await playground.generate("Now at noon")

    chats = (await client.get("/chats")).json()["chats"]
    assert sorted(chat["lastTurn"] for chat in chats) == [2, 2]
    assert "Now at night" not in str(gemini.calls[-1].body)
    assert "Make the sky green" in str(gemini.calls[-1].body)


async def test_two_turns_are_compared_with_a_slider_by_keyboard(playground: Playground, gemini: Emulator) -> None:
    await drawn(playground)
    await edit(playground, "Make the sky green")
    await edit(playground, "Now at night")
    slider = playground.page.get_by_role("slider")
    before = await slider.input_value()
    await slider.focus()
    await playground.page.keyboard.press("ArrowRight")
    await playground.page.keyboard.press("ArrowRight")

    assert float(await slider.input_value()) > float(before)
    await playground.page.keyboard.press("End")
    assert float(await slider.input_value()) == 100


async def test_the_slider_is_as_wide_as_the_pictures(playground: Playground, gemini: Emulator) -> None:
    """
    Its thumb is at the border between them.
    """
    await playground.choose("Aspect ratio", "2:3")
    await drawn(playground)
    await edit(playground, "Make the sky green")
    compared = playground.page.get_by_role("group", name="Compare").get_by_role("img")
    await expect(compared).to_have_count(2)
    boxes = [await one.bounding_box() for one in (playground.page.get_by_role("slider"), compared.first)]

    slider, picture = [(round(box["x"]), round(box["width"])) for box in boxes if box]
    assert slider == picture


async def test_cancel_in_a_chat_says_that_the_picture_will_be_in_the_gallery(
    playground: Playground, client: httpx2.AsyncClient, gemini: Emulator
) -> None:
    await drawn(playground)
    gemini.faults.append(Fault(delay_seconds=2))
    await playground.button("Edit this image").click()
    await playground.prompt.fill("Make the sky green")
    await playground.button("Generate").click()
    await wait_for_calls(gemini, 2)
    with playground.watch.allow("ERR_ABORTED"):
        await playground.button("Cancel").click()
        await expect(playground.progress).to_contain_text("gallery")

        entries = playground.gallery.get_by_role("group")
        await expect(entries).to_have_count(1)
        await entries.scroll_into_view_if_needed()
        await expect(entries.get_by_role("img")).to_be_visible()
    [chat] = (await client.get("/chats")).json()["chats"]
    assert chat["lastTurn"] == 1


async def test_a_refused_turn_is_in_the_thread_with_its_reason(
    playground: Playground, client: httpx2.AsyncClient, gemini: Emulator
) -> None:
    await drawn(playground)
    gemini.faults.append(Fault(finish_reason="IMAGE_SAFETY", finish_message="It would be too spooky."))
    await playground.button("Edit this image").click()
    await playground.prompt.fill("Make it spooky")
    await playground.button("Generate").click()

    await expect(playground.error).to_contain_text("It would be too spooky.")
    await playground.generate("Make it nice")
    assert "Make it spooky" not in str(gemini.calls[-1].body)


async def test_the_gallery_opens_and_deletes_on_the_service(
    playground: Playground, client: httpx2.AsyncClient, gemini: Emulator
) -> None:
    """
    Thumbnails are small copies.
    """
    await drawn(playground)
    await edit(playground, "Make the sky green")
    await playground.reload()
    entry = playground.gallery.get_by_role("group").first
    await expect(entry.get_by_role("img")).to_be_visible()
    assert any("width=" in request.url for request in playground.watch.requests)

    await entry.get_by_role("button", name=re.compile("Open")).click()
    await playground.shows("Make the sky green")
    await playground.gallery.get_by_role("button", name="Delete", exact=True).click()

    await expect(playground.gallery.get_by_role("group")).to_have_count(0)
    assert (await client.get("/chats")).json()["chats"] == []


async def test_recorded_generations_are_in_the_gallery(
    open_playground: Open, client: httpx2.AsyncClient, gemini: Emulator
) -> None:
    asked = {"prompt": "A boat", "imageSize": "1K"}
    await client.post("/generate-image", json=asked, headers={"Idempotency-Key": "order-1"})
    async with open_playground(client) as playground:
        entry = playground.gallery.get_by_role("group")
        await expect(entry.locator("img")).to_be_visible()
        await entry.get_by_role("button", name=re.compile("Open")).click()
        await expect(playground.part("Cost")).to_contain_text("$0.1")

        await entry.get_by_role("button", name="Delete").click()

        await expect(entry).to_have_count(0)
    assert (await client.get("/generations")).json()["generations"] == []
