"""The same dozen calls to Google and to the emulator; the shapes of the responses are compared (`make test-live`).

Needs GEMINI_API_KEY and costs about 0.35 US dollars: five small images; refusals are free. Not part of `make test`.
"""

import base64
import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from app.emulator import Emulator, served
from tests.conftest import REAL_BASE_URL, REAL_KEY, Serve, image_file

pytestmark = pytest.mark.live


@pytest.fixture(autouse=True)
def _key() -> None:
    assert REAL_KEY, "Set GEMINI_API_KEY in the environment or in .env."


LITE, PRO, NEW = "gemini-3.1-flash-lite-image", "gemini-3-pro-image", "gemini-nano-banana-2.1"


def body(text: str = "A red dot on white", *parts: dict[str, Any], tools: Any = None, **config: Any) -> dict[str, Any]:
    request: dict[str, Any] = {"contents": [{"role": "user", "parts": [{"text": text}, *parts]}]}
    if config:
        request["generationConfig"] = config
    return request | ({"tools": tools} if tools else {})


def inline(mime_type: str, data: bytes) -> dict[str, Any]:
    return {"inlineData": {"mimeType": mime_type, "data": base64.b64encode(data).decode()}}


CALLS: dict[str, tuple[str, Any]] = {
    # These calls are free.
    "models": ("", None),
    "tokens": (f"{LITE}:countTokens", body()),
    "unknown model": ("gemini-0-image:generateContent", body()),
    "ratio": (f"{LITE}:generateContent", body(imageConfig={"aspectRatio": "16x9"})),
    "size": (f"{PRO}:generateContent", body(imageConfig={"imageSize": "512"})),
    "unknown setting": (f"{PRO}:generateContent", body(imageConfig={"imageOutputOptions": {}})),
    "thinking level": (f"{LITE}:generateContent", body(thinkingConfig={"thinkingLevel": "medium"})),
    "two candidates": (f"{LITE}:generateContent", body(candidateCount=2)),
    "image type": (f"{LITE}:generateContent", body("x", inline("image/gif", image_file("GIF")))),
    "broken image": (f"{LITE}:generateContent", body("x", inline("image/png", b"rubbish"))),
    # These calls cost about 0.034 US dollars each, the last about 0.06.
    "picture": (f"{LITE}:generateContent", body(responseModalities=["TEXT", "IMAGE"])),
    "stream with thoughts": (
        f"{LITE}:streamGenerateContent?alt=sse",
        body(thinkingConfig={"includeThoughts": True, "thinkingLevel": "high"}),
    ),
    "edit": (f"{LITE}:generateContent", body("Make it blue", inline("image/png", image_file()))),
    "search": (f"{NEW}:generateContent", body("Today's weather in Bern", tools=[{"googleSearch": {}}])),
}


def shape(value: Any, place: str = "") -> Iterator[str]:
    """Return every path in a JSON document with the type of its value. A list counts as one item."""
    if isinstance(value, dict):
        for key, child in value.items():
            yield from shape(child, f"{place}.{key}")
    elif isinstance(value, list):
        for child in value:
            yield from shape(child, f"{place}[]")
    else:
        yield f"{place}: {type(value).__name__}"


def documents(response: httpx2.Response) -> Any:
    if response.headers["content-type"].startswith("text/event-stream"):
        return [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: ")]
    return response.json()


@pytest.mark.parametrize("name", CALLS)
async def test_the_emulator_s_responses_have_the_shape_of_google_s(name: str) -> None:
    path, request = CALLS[name]

    async def ask(base_url: str) -> httpx2.Response:
        async with httpx2.AsyncClient(base_url=base_url, timeout=300, headers={"x-goog-api-key": REAL_KEY}) as client:
            if request is None:
                return await client.get("/v1beta/models")
            return await client.post(f"/v1beta/models/{path}", json=request)

    real = await ask(REAL_BASE_URL)
    async with served(Emulator()) as url:
        emulated = await ask(url)

    theirs, ours = (set(shape(documents(response))) for response in (real, emulated))
    print(f"\n{name}: Google {real.status_code}, emulator {emulated.status_code}")
    for line in sorted(theirs - ours):
        print(f"  only Google    {line}")
    for line in sorted(ours - theirs):
        print(f"  only emulator  {line}")
    if real.is_error:
        print(f"  Google says    {documents(real)['error']['message']!r}")
        print(f"  emulator says  {documents(emulated)['error']['message']!r}")
    assert real.status_code == emulated.status_code


async def test_the_service_gets_an_image_from_google(serve: Serve) -> None:
    """
    It costs about 0.034 US dollars.
    """
    async with serve(gemini_api_key=REAL_KEY, google_gemini_base_url=REAL_BASE_URL) as client:
        response = await client.post("/generate-image", json={"prompt": "A red dot", "model": LITE}, timeout=300)

    assert response.status_code == 200, response.text
    print(f"\n{response.json()['usage']} {response.json()['warnings']}")
