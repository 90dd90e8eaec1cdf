"""The table of parameters in docs/openai.md, generated from the fields of the request.

`python -m tests.openai_page` writes it into the page.
"""

from pathlib import Path

from app.api.openai.request import ImageOptions

PAGE = Path(__file__).parent.parent / "docs/openai.md"

_START, _END = "## Parameters\n", "\n## The answer\n"

_INTRODUCTION = """
`python -m tests.openai_page` generates this table from [app/api/openai/request.py](../app/api/openai/request.py).
Each parameter is honoured, or refused by an error that names it in `param`. `null` counts as absent.

| parameter | meaning here |
|---|---|
"""


def page() -> str:
    """Return the page with the table as it should be."""
    text = PAGE.read_text()
    before, after = text[: text.index(_START)], text[text.index(_END) :]
    return f"{before}{_START}{_INTRODUCTION}{_rows()}{after}"


def _rows() -> str:
    names_by_meaning: dict[str, list[str]] = {}
    for name, field in ImageOptions.model_fields.items():
        names_by_meaning.setdefault(field.description or "", []).append(f"`{name}`")
    names_by_meaning['1 to 16 images, for edits only: files of a form, or in JSON `[{"image_url": "data:…"}]`'] = [
        "`image`, `image[]`",
        "`images`",
    ]
    names_by_meaning["an error that names it"] = ["anything else"]
    return "".join(f"| {', '.join(names)} | {meaning} |\n" for meaning, names in names_by_meaning.items())


if __name__ == "__main__":
    PAGE.write_text(page())
