"""Recorded answers of the real Gemini API, replayed unchanged for their prompts."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_HOP_BY_HOP = {"content-length", "transfer-encoding", "connection", "content-encoding"}


@dataclass(frozen=True, slots=True)
class Recording:
    status: int
    headers: dict[str, str]
    body: bytes


def load(directory: Path | None) -> dict[str, Recording]:
    """Return the recordings in a folder, by prompt. Each is a JSON file with a `request` and a `response`, each with a
    `body`."""
    if directory is None:
        return {}
    recordings: dict[str, Recording] = {}
    for path in sorted(directory.glob("*.json")):
        exchange = json.loads(path.read_text())
        response = exchange["response"]
        headers = {key.title(): value for key, value in response["headers"].items() if key.lower() not in _HOP_BY_HOP}
        body = json.dumps(response["body"]).encode()
        recordings[prompt_of(exchange["request"]["body"])] = Recording(response["status"], headers, body)
    return recordings


def prompt_of(body: dict[str, Any]) -> str:
    contents = body.get("contents") or [{}]
    return "\n".join(part["text"] for part in contents[-1].get("parts") or [] if "text" in part)
