"""Making an image on the page: choosing, waiting, cancelling, and what is shown afterwards."""

import io
import re

import httpx2
import pytest
from PIL import Image
from playwright.async_api import expect

from app.emulator import Emulator, Fault
from tests.browser.playground import Playground
from tests.conftest import soon, wait_for_calls

pytestmark = pytest.mark.browser


async def test_a_prompt_becomes_an_image_with_its_cost(playground: Playground, gemini: Emulator) -> None:
    await playground.generate("A lighthouse in a storm")

    [call] = gemini.calls
    assert call.body["contents"][-1]["parts"][-1]["text"] == "A lighthouse in a storm"
    await expect(playground.part("Cost")).to_contain_text("$0.1")
    await expect(playground.result).to_contain_text("2048 × 2048")
    await expect(playground.result).to_contain_text("JPEG")
    await expect(playground.result).to_contain_text("tokens")
    await expect(playground.progress).to_contain_text("Ready")


async def test_before_the_first_image_nothing_is_asked_of_gemini(playground: Playground, gemini: Emulator) -> None:
    await expect(playground.button("Generate")).to_be_enabled()

    assert not gemini.calls
    assert set(playground.watch.paths("POST")) == set()


async def test_the_form_offers_what_the_chosen_model_has(playground: Playground, client: httpx2.AsyncClient) -> None:
    """
    The default model is chosen. All active models are offered.
    """
    listing = (await client.get("/models")).json()
    active = [model for model in listing["models"] if model["status"] == "active"]

    await expect(playground.radio("Model", "Nano Banana Pro")).to_be_checked()
    for model in active:
        models = playground.page.get_by_role("radiogroup", name="Model")
        await models.get_by_role("radio", name=re.compile(re.escape(model["id"]))).check()
        for ratio in model["aspectRatios"]:
            await expect(playground.radio("Aspect ratio", ratio).first).to_be_visible()
        ratios = playground.page.get_by_role("radiogroup", name="Aspect ratio").get_by_role("radio")
        assert await ratios.count() == len(model["aspectRatios"])
        if len(model["imageSizes"]) > 1:
            sizes = playground.page.get_by_role("radiogroup", name="Size").get_by_role("radio")
            assert await sizes.count() == len(model["imageSizes"])
        await expect(playground.switch("Google Search")).to_be_visible(visible=model["googleSearch"])
        await expect(playground.switch("Image search")).to_be_visible(visible=model["imageSearch"])


async def test_ratio_size_and_model_are_those_of_the_image(playground: Playground, gemini: Emulator) -> None:
    await playground.choose("Model", "Nano Banana 2.1")
    await playground.choose("Aspect ratio", "16:9")
    await playground.choose("Size", "1K")
    await playground.generate("A lighthouse")

    assert gemini.calls[0].model == "gemini-nano-banana-2.1"
    await expect(playground.result).to_contain_text("1376 × 768")


async def test_the_estimate_follows_the_form(playground: Playground) -> None:
    await expect(playground.page.get_by_text("About $0.1344")).to_be_visible()

    await playground.choose("Size", "4K")

    await expect(playground.page.get_by_text("About $0.24")).to_be_visible()


async def test_the_image_can_be_downloaded(playground: Playground) -> None:
    """
    In the format that was asked for, and with all its pixels.
    """
    await playground.page.get_by_text("More options").click()
    await playground.page.get_by_label("Output format").select_option("png")
    await playground.choose("Size", "1K")
    await playground.generate("A lighthouse")

    async with playground.page.expect_download() as downloading:
        await playground.button("Download").click()
    download = await downloading.value

    assert download.suggested_filename.endswith(".png")
    with Image.open(io.BytesIO((await download.path()).read_bytes())) as image:
        assert (image.format, image.size) == ("PNG", (1024, 1024))


async def test_cancel_ends_the_call(playground: Playground, client: httpx2.AsyncClient, gemini: Emulator) -> None:
    gemini.faults.append(Fault(delay_seconds=20))
    await playground.prompt.fill("A lighthouse")
    await playground.button("Generate").click()
    await wait_for_calls(gemini)
    await expect(playground.progress).to_contain_text("Nano Banana Pro")

    with playground.watch.allow("ERR_ABORTED"):
        await playground.button("Cancel").click()
        await expect(playground.progress).to_contain_text("Cancelled")

        assert await soon(client, "gemini_images_in_flight", 0, 5)
    await expect(playground.error).to_have_text("")
    await playground.generate("Another one")


async def test_retries_are_announced_with_their_reason(playground: Playground, gemini: Emulator) -> None:
    gemini.faults += [Fault(status=503), Fault(delay_seconds=1)]
    await playground.prompt.fill("A lighthouse")
    await _listen(playground)
    await playground.button("Generate").click()
    await playground.shows("A lighthouse")

    said = await _heard(playground)
    assert any("no capacity" in text for text in said), said
    assert any("Attempt 2" in text for text in said), said


async def test_thoughts_and_drafts_are_shown_if_wanted(playground: Playground, gemini: Emulator) -> None:
    gemini.faults.append(Fault(shape="unflagged_drafts"))
    await playground.page.get_by_text("More options").click()
    await playground.switch("Show thoughts").check()
    await playground.switch("Show drafts").check()
    await playground.generate("A lighthouse")

    await expect(playground.page.get_by_role("log", name="Thoughts")).to_contain_text("I choose the colours first")
    await expect(playground.page.get_by_role("img", name="Draft 1")).to_be_visible()


async def test_a_refusal_is_a_sentence_with_gemini_s_reason(playground: Playground, gemini: Emulator) -> None:
    gemini.faults.append(Fault(finish_reason="IMAGE_SAFETY", finish_message="It would be too spooky."))
    await playground.prompt.fill("Something spooky")
    await playground.button("Generate").click()

    await expect(playground.error).to_contain_text("It would be too spooky.")
    await expect(playground.error).not_to_contain_text("content_blocked")
    await expect(playground.progress).not_to_be_empty()
    await playground.generate("Something nice")


async def test_an_answer_in_words_is_shown(playground: Playground, gemini: Emulator) -> None:
    gemini.faults.append(Fault(shape="text_only", text="I would rather talk about lighthouses."))
    await playground.prompt.fill("A lighthouse")
    await playground.button("Generate").click()

    await expect(playground.error).to_contain_text("I would rather talk about lighthouses.")


async def test_warnings_are_shown(playground: Playground) -> None:
    await playground.page.get_by_text("More options").click()
    await playground.page.get_by_label("Output format").select_option("webp")
    await playground.choose("Size", "1K")
    await playground.generate("A lighthouse")

    await expect(playground.part("Warnings")).to_contain_text("Content Credentials")


async def test_an_empty_prompt_is_not_sent(playground: Playground, gemini: Emulator) -> None:
    await playground.button("Generate").click()

    await expect(playground.error).not_to_be_empty()
    assert not gemini.calls


async def test_without_the_service_there_is_a_sentence(playground: Playground) -> None:
    await playground.prompt.fill("A lighthouse")
    await playground.page.context.set_offline(True)
    with playground.watch.allow("ERR_INTERNET_DISCONNECTED"):
        await playground.button("Generate").click()
        await expect(playground.error).to_contain_text("cannot be reached")
    await playground.page.context.set_offline(False)

    await playground.generate("A lighthouse")


async def _listen(playground: Playground) -> None:
    """Record what the progress says; `_heard` returns it."""
    await playground.progress.evaluate(
        """region => {
             window.heard = [];
             new MutationObserver(() => window.heard.push(region.textContent)).observe(
               region, { childList: true, characterData: true, subtree: true });
           }"""
    )


async def _heard(playground: Playground) -> list[str]:
    found: list[str] = await playground.page.evaluate("window.heard")
    return found
