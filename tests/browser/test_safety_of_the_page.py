"""Text of others stays text, nothing leaves this service, and the page is light."""

import base64
import gzip
from collections.abc import AsyncGenerator
from pathlib import Path

import httpx2
import pytest
from playwright.async_api import expect

from app.emulator import Emulator, Fault
from tests.browser.conftest import Open
from tests.browser.playground import Playground
from tests.conftest import Serve, image_file, noise_jpeg

pytestmark = pytest.mark.browser

PAYLOADS = (
    "<script>window.hacked=1</script>",
    "<img src=x onerror=window.hacked=1>",
    "<svg onload=window.hacked=1>",
    "\"><img src=x onerror='window.hacked=1'>",
    "' autofocus onfocus='window.hacked=1",
    "</textarea><script>window.hacked=1</script>",
    "</code></pre><iframe srcdoc='<script>parent.hacked=1</script>'>",
    "<a href=javascript:window.hacked=1>x</a>",
    '<math><mtext></table><style><!--</style><img title="--&gt;&lt;img src=1 onerror=window.hacked=1&gt;">',
    "{{constructor.constructor('window.hacked=1')()}} ${window.hacked=1} $page",
    "<base href=//evil.example><form action=javascript:window.hacked=1><button>",
    "\u202e<ſcript>window.hacked=1</ſcript>",
)


@pytest.fixture
async def client(serve_alone: Serve, gemini: Emulator) -> AsyncGenerator[httpx2.AsyncClient]:
    """A client of a service whose storage is empty."""
    async with serve_alone() as client:
        yield client


async def _count_of_elements(playground: Playground) -> int:
    """Return how many elements are there that only markup in a text can have made."""
    count: int = await playground.page.evaluate(
        """() => document.querySelectorAll(
             "img[src=x], [onerror], [onload], [onfocus], iframe[srcdoc], a[href^=javascript], math, base").length"""
    )
    return count


@pytest.mark.parametrize("payload", PAYLOADS, ids=range(len(PAYLOADS)))
async def test_markup_is_shown_as_text_everywhere(
    open_playground: Open, client: httpx2.AsyncClient, gemini: Emulator, tmp_path: Path, payload: str
) -> None:
    """
    In prompts, names, file names, titles of sources, the model's words, thoughts, refusals, the code and the gallery.
    """
    grounding = {"groundingChunks": {"0": {"web": {"title": payload}}, "1": {"web": {"uri": "javascript:hacked=1"}}}}
    gemini.faults.append(Fault(text=payload, patch={"candidates": {"0": {"groundingMetadata": grounding}}}))
    async with open_playground(client) as playground:
        file = {"name": payload.replace("/", "|") + ".png", "mimeType": "image/png", "buffer": image_file()}
        await playground.files.set_input_files([file])
        await playground.reference(1).get_by_role("textbox", name="Name").fill(payload)
        await playground.choose("Size", "1K")
        await playground.switch("Google Search").check()
        await playground.generate(payload)
        await expect(playground.result).to_contain_text(payload)
        await expect(playground.part("Sources")).to_contain_text(payload)
        for language in ("curl", "Python", "JavaScript", "OpenAI Python", "OpenAI JavaScript"):
            await playground.open_code(language)

        gemini.faults.append(Fault(text=payload))
        await playground.button("Edit this image").click()
        await playground.generate(payload)
        gemini.faults.append(Fault(finish_reason="IMAGE_SAFETY", finish_message=payload))
        await playground.prompt.fill(payload)
        await playground.button("Generate").click()
        await expect(playground.error).to_contain_text(payload)
        await expect(playground.gallery.get_by_role("group").first).to_contain_text(payload[:60])

        assert await playground.page.evaluate("window.hacked") is None
        assert await _count_of_elements(playground) == 0


async def test_the_policy_forbids_inline_scripts_and_styles(playground: Playground, client: httpx2.AsyncClient) -> None:
    policy = (await client.get("/")).headers["content-security-policy"]

    assert "default-src 'self'" in policy
    assert "unsafe-inline" not in policy
    assert "unsafe-eval" not in policy
    with playground.watch.allow("Content Security Policy"):
        await playground.page.evaluate(
            """() => {
                 const script = document.createElement("script");
                 script.textContent = "window.hacked = 1";
                 document.body.append(script);
                 document.body.insertAdjacentHTML("beforeend", "<img src=x1 onerror='window.hacked = 1'>");
               }"""
        )
        await playground.page.wait_for_timeout(200)
        assert await playground.page.evaluate("window.hacked") is None
        playground.watch.mistakes.clear()


async def test_the_page_weighs_at_most_100_kilobytes(playground: Playground) -> None:
    """
    Compressed, without library code. The answers of the API do not count.
    """
    paths = {path for path in playground.watch.paths("GET") if path == "/" or path.startswith("/web/")}
    responses = [await request.response() for request in playground.watch.requests]
    sizes = [
        len(gzip.compress(await response.body()))
        for response in responses
        if response and response.url.endswith(tuple(paths)) and "/vendor/" not in response.url
    ]

    assert len(paths) > 3
    assert 1_000 < sum(sizes) < 100_000


async def test_large_pictures_are_blobs_and_are_freed(playground: Playground, gemini: Emulator) -> None:
    """
    No data URL is in the page, and only the pictures on the screen have an object URL.
    """
    await playground.page.evaluate(
        """() => {
             window.urls = new Set();
             const { createObjectURL, revokeObjectURL } = URL;
             URL.createObjectURL = (one) => {
               const url = createObjectURL.call(URL, one);
               window.urls.add(url);
               return url;
             };
             URL.revokeObjectURL = (url) => { window.urls.delete(url); revokeObjectURL.call(URL, url); };
           }"""
    )
    for number in range(3):
        image = base64.b64encode(noise_jpeg(number, 8_000_000)).decode()
        gemini.faults.append(Fault(image_base64=image))
        await playground.prompt.fill(f"Noise {number}")
        await playground.button("Generate").click()
        await expect(playground.image(f"Noise {number}")).to_be_visible()

    assert await playground.page.locator("[src^='data:'], [href^='data:']").count() == 0
    assert await playground.page.evaluate("window.urls.size") <= 4


async def test_the_page_is_not_served_if_it_is_off(serve: Serve) -> None:
    async with serve(playground_access="off") as client:
        answers = [await client.get("/"), await client.get("/web/main.js")]

    assert [answer.status_code for answer in answers] == [404, 404]
