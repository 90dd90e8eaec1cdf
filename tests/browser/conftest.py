"""Fixtures for tests in Chromium, which comes from the distribution; Playwright drives it."""

import shutil
import subprocess
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from tests.conftest import image_file
from tests.programs import require

if TYPE_CHECKING:
    from playwright.async_api import Browser

    from tests.browser.playground import Playground

HERE = Path(__file__).parent

collect_ignore_glob = [] if find_spec("playwright") else ["test_*.py"]
"""`make test` runs without Playwright; `make test-browser` installs it."""

Open = Callable[..., AbstractAsyncContextManager["Playground"]]


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The source of axe-core, in the version of package.json."""
    folder = tmp_path_factory.mktemp("axe")
    shutil.copy(HERE / "package.json", folder)
    install = ("install", "--no-package-lock", "--no-audit", "--no-fund", "--silent")
    subprocess.run([require("npm", "npm"), *install], cwd=folder, check=True, timeout=240)
    return (folder / "node_modules/axe-core/axe.min.js").read_text()


@pytest.fixture(scope="session")
async def _chromium() -> AsyncGenerator["Browser"]:
    from playwright.async_api import async_playwright, expect

    expect.set_options(timeout=15_000)
    # Chromium has no sandbox for root, which runs the tests in CI. The page is our own.
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=require("chromium", "chromium"), args=["--no-sandbox", "--lang=en"]
        )
        yield browser
        await browser.close()


@pytest.fixture
def open_playground(_chromium: "Browser", axe: str) -> Open:
    """Return a function that opens the page of a service within a block. At its end the page must have made no mistake.

    Its arguments are the client of the service, and options of Playwright's `new_context`.
    """
    from tests.browser.playground import Playground
    from tests.browser.watched import Watch

    @asynccontextmanager
    async def start(client: httpx2.AsyncClient, **options: Any) -> AsyncGenerator[Playground]:
        origin = str(client.base_url).rstrip("/")
        chosen = {"viewport": {"width": 1280, "height": 900}, "reduced_motion": "reduce", "locale": "en-GB"} | options
        context = await _chromium.new_context(**chosen)
        try:
            watch = Watch(context, origin)
            page = await context.new_page()
            await page.goto(origin + "/")
            await page.wait_for_load_state("networkidle")
            yield Playground(page, watch, axe)
            assert watch.mistakes == []
        finally:
            await context.close()

    return start


@pytest.fixture
async def playground(open_playground: Open, client: httpx2.AsyncClient) -> AsyncGenerator["Playground"]:
    """The page of a service without keys, in a window of 1280 pixels."""
    async with open_playground(client) as page:
        yield page


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """Three image files of different formats."""
    files = [tmp_path / name for name in ("anna.png", "ben.jpg", "mug.webp")]
    for file, format_ in zip(files, ("PNG", "JPEG", "WEBP"), strict=True):
        file.write_bytes(image_file(format_))
    return files
