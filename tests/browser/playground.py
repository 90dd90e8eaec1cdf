"""The playground as its users know it: by the names and roles that a screen reader says."""

import re
from pathlib import Path
from typing import Any

from playwright.async_api import Locator, Page, expect

from tests.browser.watched import Watch

SCREENSHOTS = Path(__file__).parents[2] / ".screenshots"
"""Git ignores the folder."""


class Playground:
    def __init__(self, page: Page, watch: Watch, axe: str) -> None:
        self.page = page
        self.watch = watch
        self._axe = axe
        self.prompt = page.get_by_role("textbox", name="Prompt", exact=True)
        self.progress = page.get_by_role("status", name="Progress")
        self.error = page.get_by_role("alert", name="Error")
        self.result = page.get_by_role("region", name="Result")
        self.gallery = page.get_by_role("region", name="Gallery")
        self.code = page.get_by_role("region", name="Code")
        self.files = page.get_by_label("Add reference images")

    def button(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=name, exact=True)

    def radio(self, group: str, name: str) -> Locator:
        """Return the radio whose name starts with `name`."""
        choices = self.page.get_by_role("radiogroup", name=group)
        return choices.get_by_role("radio", name=re.compile(f"^{re.escape(name)}"))

    def switch(self, name: str) -> Locator:
        return self.page.get_by_role("switch", name=name)

    def reference(self, number: int) -> Locator:
        return self.page.get_by_role("group", name=f"Reference {number}", exact=True)

    def part(self, name: str) -> Locator:
        """Return a group of the result, such as `Cost`."""
        return self.result.get_by_role("group", name=name, exact=True)

    def image(self, prompt: str) -> Locator:
        """Return the large picture."""
        return self.result.get_by_role("img", name=prompt, exact=True).first

    async def generate(self, prompt: str) -> None:
        """Ask for a picture and wait until it is on the screen."""
        await self.prompt.fill(prompt)
        await self.button("Generate").click()
        await self.shows(prompt)

    async def shows(self, prompt: str) -> None:
        """Wait until the result is the picture of this prompt."""
        image = self.image(prompt)
        await expect(image).to_be_visible()
        await expect(image).to_have_js_property("complete", True)
        assert (await image.evaluate("image => image.naturalWidth")) > 0
        await expect(self.error).to_have_text("")

    async def choose(self, group: str, name: str) -> None:
        """Choose a radio."""
        await self.radio(group, name).check()

    async def reload(self) -> None:
        """Load the page again. Its requests are over before, because a reload aborts them."""
        await self.page.wait_for_load_state("networkidle")
        await self.page.reload()
        await self.page.wait_for_load_state("networkidle")

    async def add_files(self, *files: Path) -> None:
        before = await self.page.get_by_role("group", name=re.compile(r"^Reference \d+$")).count()
        await self.files.set_input_files(list(files))
        await expect(self.reference(before + len(files))).to_be_visible()

    async def open_code(self, language: str) -> Locator:
        """Open a tab of the code; return its panel."""
        await self.code.get_by_role("tab", name=language, exact=True).click()
        return self.code.get_by_role("tabpanel", name=language, exact=True)

    async def violations(self) -> list[dict[str, Any]]:
        """Return what axe-core finds, without the elements that are right."""
        await self.page.evaluate(self._axe)
        found: list[dict[str, Any]] = await self.page.evaluate(
            """async () => (await axe.run()).violations.map(({ id, help, nodes }) => ({
                 id, help, nodes: nodes.slice(0, 5).map(({ html, failureSummary }) => [html, failureSummary]),
               }))"""
        )
        return found

    async def overflows(self) -> bool:
        """Whether the page must be scrolled sideways."""
        found: bool = await self.page.evaluate(
            "() => document.documentElement.scrollWidth > document.documentElement.clientWidth"
        )
        return found

    async def screenshot(self, name: str) -> None:
        SCREENSHOTS.mkdir(exist_ok=True)
        await self.page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)
