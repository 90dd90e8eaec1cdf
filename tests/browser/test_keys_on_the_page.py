"""The page of a service that needs a key."""

import httpx2
import pytest
from playwright.async_api import expect

from app.emulator import Emulator
from tests.browser.conftest import Open
from tests.browser.playground import Playground
from tests.conftest import Serve

pytestmark = pytest.mark.browser

KEYS = {"service_api_keys": "web:secret"}
ADMIN = "an-administrator-of-this-test"


async def give_key(playground: Playground, key: str) -> None:
    await playground.page.get_by_role("textbox", name="API key").fill(key)
    await playground.page.keyboard.press("Enter")


async def test_the_page_asks_for_a_key_and_keeps_it_in_this_tab_only(
    serve: Serve, open_playground: Open, gemini: Emulator
) -> None:
    async with serve(**KEYS) as client, open_playground(client) as playground:
        await give_key(playground, "secret")
        await playground.generate("A lighthouse")
        await playground.reload()
        await expect(playground.prompt).to_be_visible()
        storage = await playground.page.evaluate(
            "[Object.values(sessionStorage), Object.values(localStorage), document.cookie, location.href]"
        )
        sent = [request for request in playground.watch.requests if "secret" in request.url]
        other = await playground.page.context.new_page()
        await other.goto(str(client.base_url))

        await expect(other.get_by_role("textbox", name="API key")).to_be_visible()
    assert storage == [["secret"], [], "", f"{client.base_url}/"]
    assert not sent
    assert len(gemini.calls) == 1


async def test_a_wrong_key_is_refused_with_a_sentence(serve: Serve, open_playground: Open, gemini: Emulator) -> None:
    async with serve(**KEYS) as client, open_playground(client) as playground:
        with playground.watch.allow("401"):
            await give_key(playground, "wrong")
            await expect(playground.error).not_to_be_empty()
        await give_key(playground, "secret")
        await playground.generate("A lighthouse")


async def test_the_code_has_a_placeholder_in_place_of_the_key(
    serve: Serve, open_playground: Open, gemini: Emulator
) -> None:
    async with serve(**KEYS) as client, open_playground(client) as playground:
        await give_key(playground, "secret")
        await playground.prompt.fill("A lighthouse")
        for language in ("curl", "Python", "JavaScript", "OpenAI Python", "OpenAI JavaScript"):
            panel = await playground.open_code(language)
            await expect(panel).to_contain_text("YOUR_KEY")
            await expect(panel).not_to_contain_text("secret")


async def test_the_page_shows_what_is_left_of_the_budget(
    serve_alone: Serve, open_playground: Open, gemini: Emulator
) -> None:
    """
    It follows each image.
    """
    async with serve_alone(require_keys=True, admin_api_key=ADMIN) as client:
        given = {"Authorization": f"Bearer {ADMIN}"}
        made = await client.post("/admin/keys", json={"name": "web", "budget": "5/month"}, headers=given)
        async with open_playground(client) as playground:
            await give_key(playground, made.json()["secret"])
            await expect(playground.page.get_by_text("$5.00 left")).to_be_visible()
            await playground.choose("Size", "1K")
            await playground.generate("A lighthouse")

            await expect(playground.page.get_by_text("$4.8")).to_be_visible()


async def test_a_request_over_the_budget_is_a_sentence(
    serve_alone: Serve, open_playground: Open, gemini: Emulator
) -> None:
    async with serve_alone(require_keys=True, admin_api_key=ADMIN) as client:
        given = {"Authorization": f"Bearer {ADMIN}"}
        made = await client.post("/admin/keys", json={"name": "web", "budget": "0.01/month"}, headers=given)
        async with open_playground(client) as playground:
            await give_key(playground, made.json()["secret"])
            await playground.prompt.fill("A lighthouse")
            with playground.watch.allow("429"):
                await playground.button("Generate").click()
                await expect(playground.error).to_contain_text("budget")

    assert not gemini.calls


async def test_without_keys_no_key_is_asked_for(playground: Playground, client: httpx2.AsyncClient) -> None:
    await expect(playground.page.get_by_role("textbox", name="API key")).to_be_hidden()
