"""Grounding with Google Search: enabled by a field or a route; responses have what Google requires clients to show."""

import httpx2
import pytest

from app.emulator import Emulator, Fault


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/generate-image", {"prompt": "Today's weather in Bern", "googleSearch": True}),
        ("/generate-image/with-search", {"prompt": "Today's weather in Bern"}),
        ("/generate-image/with-search", {"prompt": "Today's weather in Bern", "googleSearch": False}),
    ],
)
async def test_a_search_is_requested_and_its_sources_are_in_the_response(
    client: httpx2.AsyncClient, gemini: Emulator, path: str, body: dict[str, object]
) -> None:
    response = await client.post(path, json=body)

    assert response.status_code == 200
    assert gemini.calls[0].body["tools"] == [{"googleSearch": {}}]
    grounding = response.json()["grounding"]
    assert grounding["queries"][0].startswith("Today's weather")
    assert grounding["sources"][0]["title"] == "example.com"
    assert grounding["sources"][0]["uri"].startswith("https://vertexaisearch.cloud.google.com/")
    assert grounding["imageSources"] == []
    assert grounding["supports"] == [
        {"text": "Here it is.", "startIndex": 0, "endIndex": 11, "sourceIndices": [0, 1]},
    ]
    assert "<div>" in grounding["searchSuggestionsHtml"]


async def test_each_search_query_is_billed(client: httpx2.AsyncClient) -> None:
    plain = (await client.post("/generate-image", json={"prompt": "x"})).json()["usage"]["estimatedCostUsd"]
    grounded = (await client.post("/generate-image/with-search", json={"prompt": "x"})).json()

    assert grounded["usage"]["estimatedCostUsd"] == pytest.approx(plain + 0.014 * len(grounded["grounding"]["queries"]))


@pytest.mark.parametrize(
    "chunk",
    [
        {"sourceUri": "https://page.example", "imageUri": "https://img.example/1.jpg"},
        {"uri": "https://page.example", "image_uri": "https://img.example/1.jpg"},
        {"uri": "https://page.example", "imageUri": "https://img.example/1.jpg"},
    ],
)
async def test_image_sources_are_read_in_both_spellings(
    client: httpx2.AsyncClient, gemini: Emulator, chunk: dict[str, str]
) -> None:
    """
    Google's guide and Google's SDK use different names, and frontends must link to the page.
    """
    metadata = {
        "imageSearchQueries": ["bridge", ""],
        "webSearchQueries": [""],
        "groundingChunks": [
            {"image": chunk | {"title": "A bridge", "domain": "page.example"}},
            {"web": {"uri": "https://web.example"}},
        ],
        "groundingSupports": [{"groundingChunkIndices": [0, 1, 9], "segment": {"text": "bridge"}}],
    }
    gemini.faults.append(Fault(patch={"candidates": {"0": {"groundingMetadata": metadata}}}))

    response = await client.post(
        "/generate-image", json={"prompt": "x", "model": "gemini-nano-banana-2.1", "imageSearch": True}
    )

    grounding = response.json()["grounding"]
    assert grounding["imageSources"] == [
        {
            "title": "A bridge",
            "sourceUri": "https://page.example",
            "imageUri": "https://img.example/1.jpg",
            "domain": "page.example",
        }
    ]
    assert grounding["sources"] == [{"title": "", "uri": "https://web.example"}]
    assert grounding["queries"] == ["bridge"]
    assert grounding["supports"][0]["sourceIndices"] == [1, 0]  # `sources` first, then `imageSources`


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"model": "gemini-2.5-flash-image", "googleSearch": True}, "googleSearch"),
        ({"model": "gemini-3.1-flash-lite-image", "googleSearch": True}, "googleSearch"),
        ({"model": "gemini-3-pro-image", "imageSearch": True}, "imageSearch"),
    ],
)
async def test_a_model_without_search_is_not_called(
    client: httpx2.AsyncClient, gemini: Emulator, body: dict[str, object], field: str
) -> None:
    response = await client.post("/generate-image", json={"prompt": "x", **body})

    assert response.status_code == 422
    assert response.json()["errors"][0]["field"] == field
    assert not gemini.calls
