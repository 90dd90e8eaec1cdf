"""docs/settings.md and .env.example, generated from the class `Settings`.

`python -m tests.settings_page` writes both files.
"""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from textwrap import wrap

from annotated_types import Ge, Gt, Le
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from app.settings import Settings

ROOT = Path(__file__).parent.parent
PAGE, EXAMPLE = ROOT / "docs/settings.md", ROOT / ".env.example"

SECTIONS = {
    "host": "Address",
    "gemini_api_key": "Gemini",
    "demo": "Demo",
    "default_model": "Models",
    "upstream_attempts": "Calls to Gemini",
    "deadline_seconds": "Requests and the queue",
    "max_connections": "Connections",
    "shutdown_delay_seconds": "Shutdown",
    "service_api_keys": "Access",
    "max_body_bytes": "References",
    "data_dir": "Chats",
    "idempotency_ttl": "Recorded generations, links and webhooks",
    "log_level": "Logs",
}
"""Titles of the sections, by the first setting of each."""

_INTRODUCTION = """# Settings

`python -m tests.settings_page` generates this page from [app/settings.py](../app/settings.py).

Settings are environment variables, or lines of a file `.env` in the working directory. Start with the example file:

```sh
cp .env.example .env
```

- All settings are checked at start. The service names every wrong one and exits with code 1.
- An unknown name in `.env` is an error, because it is usually a typing error.
- Variables for libraries (`HTTPS_PROXY`, `SSL_CERT_FILE`, `AWS_…`, `OTEL_…`) go into the environment, not into `.env`.
- `python -m app doctor` also checks credentials, models and storage, without paid calls.
- A change takes effect when the service restarts.
"""


def settings() -> Iterator[tuple[str, str, str, FieldInfo]]:
    """Each setting: its attribute, its environment variable, its default as text, and its field."""
    for name, field in Settings.model_fields.items():
        variables = getattr(field.validation_alias, "choices", [name])
        yield name, str(variables[-1]).upper(), default_text(field.default), field


def default_text(value: object) -> str:
    if value is None or value is PydanticUndefined or value in ((), {}):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, timedelta):
        return f"{value.days}d"
    return f"{value:g}" if isinstance(value, float) else str(value)


def range_text(field: FieldInfo) -> str:
    """The range of a number in words, or an empty text."""
    lower = upper = ""
    for limit in field.metadata:
        match limit:
            case Ge(ge=int(number)):
                lower = str(number)
            case Gt(gt=int(number)):
                lower = f"over {number}"
            case Le(le=int(number)):
                upper = str(number)
    if upper:
        return f"{lower}, up to {upper}" if lower.startswith("over") else f"{lower} to {upper}"
    return lower if lower.startswith("over") or not lower else f"{lower} or more"


def page() -> str:
    """Return docs/settings.md."""
    text = _INTRODUCTION
    for name, variable, default, field in settings():
        if name in SECTIONS:
            text += f"\n## {SECTIONS[name]}\n\n| name | default | range | meaning |\n|---|---|---|---|\n"
        shown = f"`{default}`" if default else ""
        text += f"| `{variable}` | {shown} | {range_text(field)} | {_description(field)} |\n"
    return text


def example() -> str:
    """Return .env.example."""
    text = "# Every setting with its default. Copy this file to .env and remove the # of what you change.\n"
    for name, variable, default, field in settings():
        if name in SECTIONS:
            text += f"\n## {SECTIONS[name]}\n"
        comment = "".join(f"# {line}\n" for line in wrap(_description(field), 110, break_on_hyphens=False))
        text += f"\n{comment}# {variable}={default}\n"
    return text


def _description(field: FieldInfo) -> str:
    return " ".join((field.description or "").split())


if __name__ == "__main__":
    PAGE.write_text(page())
    EXAMPLE.write_text(example())
