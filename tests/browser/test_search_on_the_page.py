"""What Google obliges a page to show with a picture that is grounded in its search."""

import pytest
from playwright.async_api import expect

from app.emulator import Emulator, Fault
from tests.browser.playground import Playground

pytestmark = pytest.mark.browser


async def test_suggestions_and_sources_are_shown_with_the_image(playground: Playground, gemini: Emulator) -> None:
    """
    Sources are linked directly. For an image source the page that contains it is linked.
    """
    await playground.choose("Model", "Nano Banana 2.1")
    await playground.switch("Google Search").check()
    await playground.switch("Image search").check()
    await playground.generate("The weather in Bern")

    sources = playground.part("Sources")
    links = await sources.get_by_role("link").evaluate_all("links => links.map((link) => link.href)")
    assert [link.partition("grounding-api-redirect/")[2] for link in links[:2]] == ["emulated-0", "emulated-1"]
    assert links[2] == "https://example.net/gallery"
    frame = playground.result.locator("iframe")
    assert await frame.get_attribute("sandbox") == "allow-scripts allow-popups allow-popups-to-escape-sandbox"
    chip = frame.content_frame.get_by_role("link")
    await expect(chip).to_be_visible()
    assert await chip.evaluate("chip => getComputedStyle(chip).padding") == "4px"  # Google's own style


async def test_a_suggestion_opens_outside_of_the_page(playground: Playground, gemini: Emulator) -> None:
    await playground.switch("Google Search").check()
    await playground.generate("The weather in Bern")
    chip = playground.result.locator("iframe").content_frame.get_by_role("link")
    await playground.page.context.route("https://www.google.com/**", lambda route: route.fulfill(body="Google"))

    with playground.watch.allow(r"foreign request: https://www\.google\.com/search"):
        async with playground.page.context.expect_page() as opening:
            await chip.click()
        opened = await opening.value
        await opened.wait_for_load_state()

    assert opened.url.startswith("https://www.google.com/search?q=")
    assert await opened.evaluate("origin") == "https://www.google.com"
    await opened.close()


async def test_scripts_in_suggestions_do_not_run(playground: Playground, gemini: Emulator) -> None:
    """
    The frame has an origin of its own, and its policy allows no scripts.
    """
    html = '<style>b{color:red}</style><b>hi</b><img src=x onerror=\'parent.postMessage(1,"*");document.title="run"\'>'
    html += "<script>document.title='run'</script><a href='javascript:alert(1)'>x</a>"
    patch = {"candidates": {"0": {"groundingMetadata": {"searchEntryPoint": {"renderedContent": html}}}}}
    gemini.faults.append(Fault(patch=patch))
    with playground.watch.allow("Content Security Policy|failed request|ERR_"):
        await playground.switch("Google Search").check()
        await playground.generate("The weather in Bern")
        frame = playground.result.locator("iframe").content_frame
        await expect(frame.locator("b")).to_have_css("color", "rgb(255, 0, 0)")

        assert await frame.locator("b").evaluate("document.title") == "Google Search suggestions"
        assert await frame.locator("b").evaluate("origin") == "null"
