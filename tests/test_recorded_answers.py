"""Recorded responses of the real Gemini are delivered unchanged. DEMO_RECORDINGS_DIR names their folder."""

import base64
import json
import os
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.emulator import Emulator, served
from tests.conftest import Serve

FOLDER = os.environ.get("DEMO_RECORDINGS_DIR", "")
FILES = sorted(Path(FOLDER).glob("*.json")) if FOLDER else []

pytestmark = pytest.mark.skipif(not FILES, reason="DEMO_RECORDINGS_DIR names no folder with recorded answers")


@pytest.fixture(scope="module")
async def replaying(serve: Serve) -> AsyncGenerator[httpx2.AsyncClient]:
    async with served(Emulator(recordings_dir=Path(FOLDER))) as url, serve(google_gemini_base_url=url) as client:
        yield client


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
async def test_a_recorded_response_is_delivered_unchanged(replaying: httpx2.AsyncClient, path: Path) -> None:
    """
    The image, the text, the usage and the sources are complete. A response without an image becomes a problem with its
    text.
    """
    exchange: dict[str, Any] = json.loads(path.read_text())
    prompt = "\n".join(part["text"] for part in exchange["request"]["body"]["contents"][-1]["parts"] if "text" in part)
    recorded = exchange["response"]["body"]
    parts = recorded["candidates"][0]["content"]["parts"]
    images = [part["inlineData"] for part in parts if "inlineData" in part and not part.get("thought")]
    text = "".join(part.get("text", "") for part in parts if not part.get("thought")) or None
    model = exchange["request"]["path"].rpartition("/")[2].partition(":")[0]

    response = await replaying.post("/generate-image", json={"prompt": prompt, "model": model})

    answer = response.json()
    assert answer["text"] == text
    usage = recorded["usageMetadata"]
    assert answer["usage"]["totalTokens"] == usage["totalTokenCount"]
    assert answer["usage"]["promptTokens"] == usage["promptTokenCount"]
    assert answer["usage"]["outputTokens"] == usage["candidatesTokenCount"]
    if not images:
        assert (response.status_code, answer["code"]) == (422, "no_image")
        return
    assert response.status_code == 200
    assert base64.b64decode(answer["image"]["data"]) == base64.b64decode(images[-1]["data"])
    assert answer["image"]["mimeType"] == images[-1]["mimeType"]
    assert answer["modelVersion"] == recorded["modelVersion"]
    metadata = recorded["candidates"][0].get("groundingMetadata")
    if metadata:
        web = [chunk["web"] for chunk in metadata.get("groundingChunks", []) if "web" in chunk]
        assert [source["uri"] for source in answer["grounding"]["sources"]] == [chunk["uri"] for chunk in web]
    else:
        assert answer["grounding"] is None
