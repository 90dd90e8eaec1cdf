"""The catalogue: names, limits and prices of models, and that Gemini gets nothing outside these limits."""

import asyncio
import base64
import re
from pathlib import Path
from typing import Any

import httpx2
import pytest
from pydantic import ValidationError

from app.domain.catalogue import Catalogue
from app.domain.generation import Usage
from app.emulator import Emulator, Fault
from app.server.settings_errors import describe_errors
from tests.conftest import Serve, image_file, settings_for, wait_for_calls
from tests.stored_chats import execute

CATALOGUE = Catalogue("gemini-3-pro-image")


def counted_dollars(metrics: str, name: str = "cost_dollars") -> float:
    """Return the value of a counter of costs, which has one model."""
    found = re.search(rf"^gemini_images_{name}_total\{{.*\}} (\S+)$", metrics, re.MULTILINE)
    assert found
    return float(found[1])


@pytest.mark.parametrize(
    ("name", "id_"),
    [
        ("gemini-3-pro-image-preview", "gemini-3-pro-image"),
        ("nano-banana-pro", "gemini-3-pro-image"),
        ("nano-banana-pro-preview", "gemini-3-pro-image"),
        ("nano-banana", "gemini-2.5-flash-image"),
        ("nano-banana-2", "gemini-3.1-flash-image"),
        ("nano-banana-2.1", "gemini-nano-banana-2.1"),
        ("models/nano-banana-pro", "gemini-3-pro-image"),
    ],
)
async def test_an_alias_is_accepted_with_a_warning(
    client: httpx2.AsyncClient, gemini: Emulator, name: str, id_: str
) -> None:
    response = await client.post("/generate-image", json={"prompt": "x", "model": name})

    assert response.status_code == 200
    assert response.json()["model"] == gemini.calls[0].model == id_
    assert id_ in response.json()["warnings"][0]


@pytest.mark.parametrize("model", list(CATALOGUE.models.values()), ids=lambda model: model.id)
async def test_every_ratio_and_size_of_every_model_is_accepted(
    client: httpx2.AsyncClient, gemini: Emulator, model: Any
) -> None:
    """
    Every ratio is tried at the smallest size, and every size at 1:1. The emulator rejects what the model does not
    support.
    """
    wanted = [(ratio, model.image_sizes[0]) for ratio in model.aspect_ratios]
    wanted += [("1:1", size) for size in model.image_sizes[1:]]

    for ratio, size in wanted:
        response = await client.post(
            "/generate-image", json={"prompt": "x", "model": model.id, "aspectRatio": ratio, "imageSize": size}
        )

        assert response.status_code == 200, response.text
        image = response.json()["image"]
        assert (image["width"], image["height"]) == model.pixels[ratio][size]
        assert image["mimeType"] == model.output_type
        assert not any("Asked for" in warning for warning in response.json()["warnings"])


@pytest.mark.parametrize(
    ("model", "size"),
    [
        ("gemini-3-pro-image", "2K"),
        ("gemini-nano-banana-2.1", "2K"),
        ("gemini-3.1-flash-image", "2K"),
        ("gemini-3.1-flash-lite-image", "1K"),
        ("gemini-2.5-flash-image", None),
    ],
)
async def test_the_default_size_is_2k_or_the_largest_smaller_one(
    client: httpx2.AsyncClient, gemini: Emulator, model: str, size: str | None
) -> None:
    await client.post("/generate-image", json={"prompt": "x", "model": model})

    assert gemini.calls[0].body["generationConfig"]["imageConfig"].get("imageSize") == size


@pytest.mark.parametrize(
    ("body", "field", "allowed"),
    [
        ({"aspectRatio": "8:1"}, "aspectRatio", "21:9"),
        ({"aspectRatio": "16x9"}, "aspectRatio", "16:9"),
        ({"imageSize": "512"}, "imageSize", "1K, 2K and 4K"),
        ({"imageSize": "8K"}, "imageSize", "1K, 2K and 4K"),
        ({"model": "gemini-2.5-flash-image", "imageSize": "2K"}, "imageSize", "1K"),
        ({"model": "nano-banana-2.1", "imageSize": "512"}, "imageSize", "1K, 2K and 4K"),
        ({"model": "gemini-3.1-flash-image", "thinkingLevel": "medium"}, "thinkingLevel", "minimal and high"),
        ({"model": "gemini-2.5-flash-image", "thinkingLevel": "high"}, "thinkingLevel", "does not think"),
        ({"model": "gemini-2.5-flash-image", "includeThoughts": True}, "includeThoughts", "no thoughts"),
    ],
)
async def test_an_unsupported_value_is_rejected_with_the_supported_ones(
    client: httpx2.AsyncClient, gemini: Emulator, body: dict[str, Any], field: str, allowed: str
) -> None:
    response = await client.post("/generate-image", json={"prompt": "x", **body})

    assert response.status_code == 422
    (error,) = response.json()["errors"]
    assert error["field"] == field
    assert allowed in error["message"]
    assert not gemini.calls


async def test_a_thinking_level_that_pro_ignores_is_not_sent(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    response = await client.post("/generate-image", json={"prompt": "x", "thinkingLevel": "high"})

    assert response.status_code == 200
    assert "thinkingConfig" not in gemini.calls[0].body["generationConfig"]
    assert "thinkingLevel has no effect" in response.json()["warnings"][0]


async def test_the_list_of_models_has_everything_a_form_needs(client: httpx2.AsyncClient) -> None:
    response = await client.get("/models")

    body = response.json()
    assert body["default"] == "gemini-3-pro-image"
    pro = next(model for model in body["models"] if model["id"] == body["default"])
    assert "nano-banana-pro" in pro["aliases"]
    assert pro["pixels"]["16:9"]["2K"] == [2752, 1536]
    assert pro["references"] == {"max": 14, "byRole": {"object": 6, "character": 5, "style": 3}}
    assert pro["prices"]["image"] == {"1K": 0.1344, "2K": 0.1344, "4K": 0.24}
    assert {model["id"]: model["status"] for model in body["models"]}["gemini-3.1-flash-image"] == "deprecated"
    prices = {model["id"]: model["prices"] for model in body["models"]}
    assert prices["gemini-nano-banana-2.1"]["image"] == {"1K": 0.0336, "2K": 0.0504, "4K": 0.1134}
    assert prices["gemini-3.1-flash-lite-image"]["inputPerMillionTokens"] == 0.25
    assert prices["gemini-3.1-flash-lite-image"]["textOutputPerMillionTokens"] == 1.5
    assert body["limits"]["referenceTypes"][0] == "image/png"


async def test_settings_add_models_and_aliases(serve: Serve, gemini: Emulator) -> None:
    overrides: dict[str, Any] = {
        "extra_models": {
            "gemini-4-image": {"like": "gemini-3-pro-image", "image_sizes": ["1K", "8K"], "prices": {"input": 4}}
        },
        "model_aliases": {"house": "nano-banana-pro", "ours": "house"},
        "default_model": "house",
    }
    async with serve(**overrides) as client:
        listed = {model["id"]: model for model in (await client.get("/models")).json()["models"]}
        aliased = await client.post("/generate-image", json={"prompt": "x", "model": "ours"})
        refused = await client.post(
            "/generate-image", json={"prompt": "x", "model": "gemini-4-image", "imageSize": "4K"}
        )

    assert listed["gemini-4-image"]["imageSizes"] == ["1K", "8K"]
    assert listed["gemini-4-image"]["prices"]["inputPerMillionTokens"] == 4
    assert listed["gemini-4-image"]["prices"]["imageOutputPerMillionTokens"] == 120
    assert aliased.json()["model"] == "gemini-3-pro-image"
    assert "1K and 8K" in refused.json()["errors"][0]["message"]


@pytest.mark.parametrize(
    ("model", "usage", "queries", "usd"),
    [
        # The documented example: one image, 200 tokens of thoughts, 12 tokens of input.
        ("gemini-3-pro-image", Usage(12, 1120, 200, 1332, image_tokens=1120), 0, 0.136824),
        # Text costs as much as thoughts; two images cost twice as much.
        ("gemini-3-pro-image", Usage(615, 2478, 208, 3301, image_tokens=2240), 0, 0.275382),
        # A refusal costs its thoughts once, although Gemini counts them twice.
        ("gemini-3-pro-image", Usage(100, 208, 208, 308), 0, 0.002696),
        ("gemini-nano-banana-2.1", Usage(10, 3780, 0, 3790, image_tokens=3780), 2, 0.141415),
        # Lite and 3.1 count text and thoughts together, beyond the tokens of the image.
        ("gemini-3.1-flash-lite-image", Usage(5, 1518, 0, 1523, image_tokens=1120), 0, 0.034198),
        ("gemini-3.1-flash-image", Usage(10, 1420, 0, 1430, image_tokens=1120), 0, 0.068105),
        ("gemini-2.5-flash-image", Usage(17, 1336, 0, 1353, image_tokens=1290), 0, 0.03882),
        ("unheard-of", Usage(17, 1336, 0, 1353, image_tokens=1290), 0, None),
    ],
)
def test_the_cost_follows_from_the_usage(model: str, usage: Usage, queries: int, usd: float | None) -> None:
    assert CATALOGUE.resolve(model).model.cost(usage, queries) == usd


async def test_usage_without_details_is_priced_as_an_image(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    usage = {"promptTokenCount": 12, "candidatesTokenCount": 1120, "thoughtsTokenCount": 200, "totalTokenCount": 1332}
    sent = base64.b64encode(image_file("JPEG", (2048, 2048))).decode()
    part = {"inlineData": {"mimeType": "image/jpeg", "data": sent}}
    document = {"candidates": [{"content": {"parts": [part]}, "finishReason": "STOP"}], "usageMetadata": usage}
    gemini.faults.append(Fault(body=httpx2.Response(200, json=document).text))

    response = await client.post("/generate-image", json={"prompt": "x"})

    assert response.json()["usage"] == {
        "promptTokens": 12,
        "outputTokens": 1120,
        "thoughtsTokens": 200,
        "totalTokens": 1332,
        "estimatedCostUsd": 0.136824,
    }


@pytest.mark.parametrize(
    ("model", "counted", "usd"),
    [
        # Without details an image has the tokens of its size; the others are text and thoughts.
        ("gemini-3.1-flash-lite-image", {"candidatesTokenCount": 1518, "totalTokenCount": 1523}, 0.034198),
        ("gemini-3.1-flash-lite-image", {"candidatesTokenCount": 1518}, 0.034198),
        # Details may list only text, or nothing.
        (
            "gemini-2.5-flash-image",
            {"candidatesTokenCount": 1330, "candidatesTokensDetails": [{"modality": "TEXT", "tokenCount": 40}]},
            0.038801,
        ),
        (
            "gemini-2.5-flash-image",
            {"candidatesTokenCount": 1330, "candidatesTokensDetails": [{"modality": "TEXT", "tokenCount": 1330}]},
            0.038801,
        ),
        ("gemini-2.5-flash-image", {"candidatesTokenCount": 1330, "candidatesTokensDetails": []}, 0.038801),
        ("unheard-of-image", {"candidatesTokenCount": 1330}, None),
    ],
)
async def test_tokens_missing_from_the_details_are_computed(
    client: httpx2.AsyncClient, gemini: Emulator, model: str, counted: dict[str, Any], usd: float | None
) -> None:
    sent = base64.b64encode(image_file("JPEG", (1024, 1024))).decode()
    part = {"inlineData": {"mimeType": "image/jpeg", "data": sent}}
    usage = {"promptTokenCount": 5, **counted}
    document = {"candidates": [{"content": {"parts": [part]}, "finishReason": "STOP"}], "usageMetadata": usage}
    gemini.faults.append(Fault(body=httpx2.Response(200, json=document).text))

    response = await client.post("/generate-image", json={"prompt": "x", "model": model})

    assert response.json()["usage"]["estimatedCostUsd"] == (usd and pytest.approx(usd, abs=2e-6))


@pytest.mark.parametrize(
    ("said", "free"),
    [
        ("Unable to show the generated image. You will not be charged for this request.", True),
        ("You won't be charged.", True),
        ("You have not been billed.", True),
        ("Unable to show the generated image.", False),
    ],
)
@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
async def test_a_refusal_that_is_not_charged_costs_nothing(
    serve: Serve, gemini: Emulator, tmp_path: Path, said: str, free: bool, accept: str
) -> None:
    """
    Its cost is 0 in the response, in the metrics and in its chat. It is still counted as a refusal.
    """
    gemini.faults.append(Fault(finish_reason="IMAGE_OTHER", finish_message=said))
    async with serve(data_dir=tmp_path) as client:
        chat = (await client.post("/chats", json={"imageSize": "1K"})).headers["location"]
        response = await client.post(f"{chat}/turns", json={"prompt": "x"}, headers={"Accept": accept})
        kept = (await client.get(chat)).json()
        metrics = (await client.get("/metrics")).text

    costs = [kept["estimatedCostUsd"], kept["turns"][0]["usage"]["estimatedCostUsd"], counted_dollars(metrics)]
    assert [cost == 0 for cost in costs] == [free] * 3
    if accept == "application/json":
        assert (response.status_code, response.json()["code"]) == (422, "no_image")
        assert response.headers["x-should-retry"] == "false"
        assert (response.json()["usage"]["estimatedCostUsd"] == 0) == free


@pytest.mark.parametrize("prompt_feedback", [{"blockReason": "OTHER"}, None])
async def test_a_refusal_may_have_no_output_tokens(
    client: httpx2.AsyncClient, gemini: Emulator, prompt_feedback: dict[str, Any] | None
) -> None:
    document: dict[str, Any] = {"usageMetadata": {"promptTokenCount": 100}}
    document |= (
        {"promptFeedback": prompt_feedback} if prompt_feedback else {"candidates": [{"finishReason": "NO_IMAGE"}]}
    )
    gemini.faults.append(Fault(body=httpx2.Response(200, json=document).text))

    response = await client.post("/generate-image", json={"prompt": "x"})

    assert response.status_code == 422
    assert response.json()["usage"]["totalTokens"] == 100
    assert response.json()["usage"]["estimatedCostUsd"] == pytest.approx(100 * 2 / 1e6)


@pytest.mark.parametrize("path", ["/generate-image", "/chats"])
async def test_the_cost_of_an_image_that_the_caller_does_not_accept_is_counted(
    serve: Serve, gemini: Emulator, tmp_path: Path, path: str
) -> None:
    gemini.faults.append(Fault(image_base64=base64.b64encode(image_file("PNG")).decode()))
    async with serve(data_dir=tmp_path, extra_models={"gemini-3-pro-image": {"output_type": None}}) as client:
        response = await client.post(path, json={"prompt": "x"}, headers={"Accept": "image/heic"})
        metrics = (await client.get("/metrics")).text

    assert response.status_code == 406
    assert response.headers["x-should-retry"] == "false"
    assert response.headers["x-upstream-attempts"] == "1"
    assert counted_dollars(metrics) > 0


async def test_the_cost_of_an_image_that_cannot_be_stored_is_counted(
    serve: Serve, gemini: Emulator, tmp_path: Path
) -> None:
    gemini.faults.append(Fault(delay_seconds=0.3))
    async with serve(data_dir=tmp_path) as client:
        chat = (await client.post("/chats", json={})).headers["location"]
        asking = asyncio.create_task(client.post(f"{chat}/turns", json={"prompt": "x"}))
        await wait_for_calls(gemini)
        await execute({"data_dir": tmp_path}, "DELETE FROM chats")
        response = await asking
        metrics = (await client.get("/metrics")).text

    assert (response.status_code, response.json()["code"]) == (409, "turn_lost")
    assert response.headers["x-should-retry"] == "false"
    assert counted_dollars(metrics) > 0


async def test_a_demo_s_costs_are_not_counted(serve: Serve) -> None:
    async with serve(demo=True, demo_delay_seconds=0, gemini_api_key=None, google_gemini_base_url=None) as client:
        response = await client.post("/generate-image", json={"prompt": "x", "imageSize": "1K"})
        metrics = (await client.get("/metrics")).text

    assert response.status_code == 200
    assert "gemini_images_cost_dollars_total{" not in metrics
    assert counted_dollars(metrics, "demo_cost_dollars") == response.json()["usage"]["estimatedCostUsd"] > 0


EMPTY: dict[str, Any] = {
    "aspect_ratios": [], "vertex_aspect_ratios": [], "image_sizes": [], "thinking_levels": [], "pixels": {},
    "image_tokens": {}, "references_by_role": {},
}  # fmt: skip
NOTHING_IN_IT: list[dict[str, Any]] = [
    *({name: value} for name, value in EMPTY.items()),
    EMPTY,
    {"pixels": {"1:1": {}}},
    {"max_references": 0, "input_tokens": 0, "output_tokens": 0},
    {"prices": {"image_output": None, "input": 0}, "references_by_role": None, "max_references": None},
]


@pytest.mark.parametrize("changes", NOTHING_IN_IT, ids=lambda changes: ",".join(changes))
async def test_a_model_may_have_an_empty_list_of_values(
    serve: Serve, gemini: Emulator, changes: dict[str, Any]
) -> None:
    """
    An unsupported value is a 422 with an explanation, or is left to Gemini. It is never a 500.
    """
    reference = {"data": base64.b64encode(image_file()).decode(), "role": "character"}
    wanted: list[dict[str, Any]] = [
        {"thinkingLevel": "high"},
        {"aspectRatio": "16:9"},
        {"imageSize": "1K"},
        {"referenceImages": [reference]},
        {"thinkingLevel": "high", "aspectRatio": "8:1", "imageSize": "4K", "referenceImages": [reference]},
        {},
    ]
    like = "gemini-nano-banana-2.1"
    small = base64.b64encode(image_file("JPEG")).decode()
    gemini.faults.extend([Fault(status=503, prompt="busy"), Fault(image_base64=small, times=99)])
    async with serve(extra_models={like: changes, "gemini-3-pro-image": changes}, retry_budget=0) as client:
        listed = await client.get("/models")
        answers = [await client.post("/generate-image", json={"prompt": "x", "model": like, **one}) for one in wanted]
        answers.append(await client.post("/generate-image", json={"prompt": "busy", "fallbackModel": like}))
        chat = await client.post("/chats", json={"prompt": "x", "model": like})
        answers += [chat, await client.post(f"{chat.headers.get('location')}/turns", json={"prompt": "y"})]

    assert listed.status_code == 200
    assert {one.status_code for one in answers} <= {200, 201, 404, 422, 503}, [one.text[:200] for one in answers]
    for one in answers:
        for error in one.json().get("errors", ()):
            assert error["message"]
            assert "  " not in error["message"]


@pytest.mark.parametrize(
    ("changes", "body", "field", "said"),
    [
        ({"thinking_levels": []}, {"thinkingLevel": "high"}, "thinkingLevel", "m1 has no levels, not high"),
        (
            {"references_by_role": {}},
            {"referenceImages": [{"data": base64.b64encode(image_file()).decode(), "role": "style"}]},
            "referenceImages",
            "m1 takes no such references at most, not 1 style",
        ),
    ],
)
async def test_an_empty_list_of_supported_values_is_explained(
    serve: Serve, gemini: Emulator, changes: dict[str, Any], body: dict[str, Any], field: str, said: str
) -> None:
    async with serve(extra_models={"m1": {"like": "gemini-nano-banana-2.1", **changes}}) as client:
        response = await client.post("/generate-image", json={"prompt": "x", "model": "m1", **body})

    assert response.status_code == 422
    assert response.json()["errors"] == [{"field": field, "message": said}]
    assert not gemini.calls


@pytest.mark.parametrize(
    "changes",
    [
        {"thinking_levels": None},
        {"aspect_ratios": "1:1"},
        {"aspect_ratios": [None]},
        {"pixels": {"1:1": {"1K": [1024, 0]}}},
        {"pixels": {"1:1": {"1K": []}}},
        {"pixels": None},
        {"prices": None},
        {"prices": {"input": float("nan")}},
        {"prices": {"image_output": -1}},
        {"image_tokens": {"1K": -1}},
        {"max_references": -1},
        {"references_by_role": {"hero": 1}},
        {"like": ["gemini-3-pro-image"]},
        {"like": {}},
        {"like": None},
        {"news": []},
    ],
    ids=str,
)
def test_an_invalid_model_is_reported_at_start(changes: dict[str, Any]) -> None:
    """
    The message names the setting. Otherwise the error would appear after an image was paid for.
    """
    with pytest.raises(ValidationError) as refused:
        settings_for("http://127.0.0.1:1", extra_models={"m1": changes})

    said = "\n".join(map(str, describe_errors(refused.value)))
    assert "EXTRA_MODELS" in said
    assert "m1" in said
