"""What the page does when people type on, keys end and connections break."""

import asyncio
import re
from collections.abc import AsyncGenerator

import httpx2
import pytest
from playwright.async_api import expect

from app.emulator import Emulator, Fault
from tests.browser.conftest import Open
from tests.browser.playground import Playground
from tests.conftest import Serve, wait_for_calls

pytestmark = pytest.mark.browser


@pytest.fixture
async def client(serve_alone: Serve, gemini: Emulator) -> AsyncGenerator[httpx2.AsyncClient]:
    """A client of a service whose storage is empty."""
    async with serve_alone() as client:
        yield client


async def refused(client: httpx2.AsyncClient, key: str) -> None:
    """Wait until the service has noticed that a key is revoked."""
    async with asyncio.timeout(30):
        while (await client.get("/usage", headers={"Authorization": f"Bearer {key}"})).status_code != 401:  # noqa: ASYNC110
            await asyncio.sleep(0.2)


async def test_a_key_that_fits_into_no_header_is_refused_with_a_sentence(
    serve: Serve, open_playground: Open, gemini: Emulator
) -> None:
    async with serve(service_api_keys="web:secret") as client, open_playground(client) as playground:
        field = playground.page.get_by_role("textbox", name="API key")
        await field.fill("clé – €")
        await field.press("Enter")
        await expect(playground.error).to_contain_text("ASCII")
        await playground.reload()

        await expect(field).to_be_visible()


async def test_after_its_key_is_revoked_the_page_asks_for_another_one(
    serve_alone: Serve, open_playground: Open, gemini: Emulator
) -> None:
    admin = "an-administrator-of-this-test"
    async with serve_alone(require_keys=True, admin_api_key=admin) as client:
        given = {"Authorization": f"Bearer {admin}"}
        keys = [
            (await client.post("/admin/keys", json={"name": name}, headers=given)).json()["secret"]
            for name in ("first", "second")
        ]
        async with open_playground(client) as playground:
            field = playground.page.get_by_role("textbox", name="API key")
            await field.fill(keys[0])
            await field.press("Enter")
            await playground.generate("A lighthouse")
            await playground.button("Edit this image").click()
            await playground.generate("Make it night")
            await expect(playground.gallery.get_by_role("group")).to_have_count(1)
            await client.delete("/admin/keys/first", headers=given)

            await refused(client, keys[0])
            with playground.watch.allow("401"):
                await playground.prompt.fill("Make it snow")
                await playground.button("Generate").click()
                await expect(playground.error).to_contain_text("does not know this key")
            await field.fill(keys[1])
            await field.press("Enter")

            await expect(playground.gallery.get_by_role("group")).to_have_count(0)
            await expect(field).to_be_hidden()


async def test_text_that_is_typed_while_a_turn_is_drawn_is_kept(playground: Playground, gemini: Emulator) -> None:
    await playground.generate("A lighthouse")
    await playground.button("Edit this image").click()
    gemini.faults.append(Fault(delay_seconds=1))
    await playground.prompt.fill("Make it night")
    await playground.button("Generate").click()
    await wait_for_calls(gemini, 2)
    await playground.prompt.fill("Make it snow")

    await playground.shows("Make it night")
    await expect(playground.prompt).to_have_value("Make it snow")


async def test_a_picture_is_shown_even_if_its_chat_cannot_be_read(playground: Playground, gemini: Emulator) -> None:
    await playground.generate("A lighthouse")
    await playground.button("Edit this image").click()
    await playground.page.route(re.compile(r"/chats/[^/]+$"), lambda route: route.abort())
    await playground.prompt.fill("Make it night")
    with playground.watch.allow("ERR_FAILED|failed request"):
        await playground.button("Generate").click()

        await expect(playground.image("Make it night")).to_be_visible()
        await expect(playground.error).to_contain_text("cannot be reached")
