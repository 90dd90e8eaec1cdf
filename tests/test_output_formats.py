"""`outputFormat` and `outputQuality` convert the image. Without them the caller gets the file that Gemini made."""

import asyncio
import base64
import io
import signal
from typing import Any

import httpx2
import pytest
from PIL import Image, ImageChops, ImageStat

from app.emulator import Emulator, Fault
from tests.conftest import Serve, image_of, wait_for_calls
from tests.processes import process


def gradient(format_: str = "JPEG", size: tuple[int, int] = (320, 240), **options: Any) -> bytes:
    """Return a file of soft colours, which each format keeps nearly unchanged."""
    across = Image.linear_gradient("L").resize(size)
    bands = [across, across.transpose(Image.Transpose.FLIP_TOP_BOTTOM), Image.new("L", size, 90)]
    out = io.BytesIO()
    Image.merge("RGB", bands).save(out, format_, **options)
    return out.getvalue()


def grain(size: int) -> bytes:
    """Return a square JPEG that takes long to convert."""
    out = io.BytesIO()
    Image.effect_noise((size, size), 60).convert("RGB").save(out, "JPEG")
    return out.getvalue()


def will_draw(gemini: Emulator, file: bytes, **fault: Any) -> bytes:
    gemini.faults.append(Fault(image_base64=base64.b64encode(file).decode(), **fault))
    return file


def opened(file: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(file))
    image.load()
    return image


def difference(one: bytes, other: bytes) -> float:
    """Return the mean difference of two pictures of one size, in levels of 255."""
    changes = ImageChops.difference(opened(one).convert("RGB"), opened(other).convert("RGB"))
    return max(ImageStat.Stat(changes).mean)


@pytest.mark.parametrize(
    ("asked", "format_", "mime_type"),
    [
        ("png", "PNG", "image/png"),
        ("PNG", "PNG", "image/png"),
        ("webp", "WEBP", "image/webp"),
        ("WebP", "WEBP", "image/webp"),
    ],
)
async def test_the_image_has_the_format_that_the_caller_asks_for(
    client: httpx2.AsyncClient, gemini: Emulator, asked: str, format_: str, mime_type: str
) -> None:
    original = will_draw(gemini, gradient())

    response = await client.post("/generate-image", json={"prompt": "x", "outputFormat": asked})

    image, about = image_of(response), response.json()["image"]
    assert (opened(image).format, opened(image).size) == (format_, (320, 240))
    assert (about["mimeType"], about["width"], about["height"]) == (mime_type, 320, 240)
    assert difference(image, original) < 2
    assert [warning for warning in response.json()["warnings"] if "C2PA" in warning]


@pytest.mark.parametrize("asked", ["jpeg", "jpg", "JPG", None])
async def test_an_image_that_has_the_format_already_is_untouched(
    client: httpx2.AsyncClient, gemini: Emulator, asked: str | None
) -> None:
    original = will_draw(gemini, gradient())

    response = await client.post("/generate-image", json={"prompt": "x", "outputFormat": asked})

    assert image_of(response) == original
    assert not [warning for warning in response.json()["warnings"] if "C2PA" in warning]


async def test_a_quality_without_a_format_compresses_geminis_own_format(
    client: httpx2.AsyncClient, gemini: Emulator
) -> None:
    original = will_draw(gemini, gradient(quality=95))

    response = await client.post("/generate-image", json={"prompt": "x", "outputQuality": 20})

    assert opened(image_of(response)).format == "JPEG"
    assert len(image_of(response)) < len(original)


async def test_a_quality_has_no_effect_on_a_png_of_gemini(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    original = will_draw(gemini, gradient("PNG"))

    response = await client.post("/generate-image", json={"prompt": "x", "outputQuality": 20})

    assert image_of(response) == original
    assert any("quality has no effect" in warning for warning in response.json()["warnings"])


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"outputFormat": "gif"}, "outputFormat"),
        ({"outputQuality": 0}, "outputQuality"),
        ({"outputQuality": 101}, "outputQuality"),
        ({"outputFormat": "png", "outputQuality": 80}, "outputQuality"),
    ],
)
async def test_an_impossible_format_is_refused_by_name(
    client: httpx2.AsyncClient, gemini: Emulator, body: dict[str, Any], field: str
) -> None:
    response = await client.post("/generate-image", json={"prompt": "x", **body})

    assert (response.status_code, response.json()["errors"][0]["field"]) == (422, field)
    assert not gemini.calls


@pytest.mark.parametrize(("accept", "format_"), [("image/png", "PNG"), ("image/webp", "WEBP")])
async def test_an_image_is_converted_if_the_caller_accepts_nothing_else(
    client: httpx2.AsyncClient, accept: str, format_: str
) -> None:
    response = await client.post("/generate-image", json={"prompt": "x"}, headers={"Accept": accept})

    assert response.headers["content-type"] == accept
    assert opened(response.content).format == format_


@pytest.mark.parametrize(
    ("body", "accept"),
    [({}, "image/heic"), ({"outputFormat": "png"}, "image/webp"), ({"outputFormat": "webp"}, "image/jpeg")],
)
async def test_a_contradiction_between_accept_and_format_is_a_406_before_anything_is_paid(
    client: httpx2.AsyncClient, gemini: Emulator, body: dict[str, Any], accept: str
) -> None:
    response = await client.post("/generate-image", json={"prompt": "x", **body}, headers={"Accept": accept})

    assert (response.status_code, response.json()["code"]) == (406, "not_acceptable")
    assert not gemini.calls


async def test_events_have_images_in_the_wanted_format(client: httpx2.AsyncClient) -> None:
    response = await client.post(
        "/generate-image",
        json={"prompt": "x", "outputFormat": "webp", "includeDrafts": True},
        headers={"Accept": "text/event-stream"},
    )

    assert response.text.count('"mimeType":"image/webp"') >= 3  # drafts, and the image with its drafts
    assert '"mimeType":"image/jpeg"' not in response.text


async def test_a_chat_stores_geminis_own_file(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    original = will_draw(gemini, gradient())

    created = await client.post("/chats", json={"prompt": "x", "outputFormat": "png"})
    stored = await client.get(f"/chats/{created.json()['chatId']}/turns/1/image")

    assert opened(image_of(created)).format == "PNG"
    assert stored.content == original


@pytest.mark.parametrize("damage", ["pixels", "cut off"])
async def test_an_image_that_cannot_be_converted_is_an_invalid_response(
    client: httpx2.AsyncClient, gemini: Emulator, damage: str
) -> None:
    """A picture that claims more pixels than any model draws is refused before it is decoded."""
    file = gradient(size=(320, 240))
    if damage == "pixels":
        marker = file.index(b"\xff\xc0")
        file = file[: marker + 5] + (60_000).to_bytes(2, "big") * 2 + file[marker + 9 :]
    else:
        file = file[: len(file) // 2]
    will_draw(gemini, file, times=9)

    response = await client.post("/generate-image", json={"prompt": "x", "outputFormat": "png"})

    assert (response.status_code, response.json()["code"]) == (502, "upstream_invalid_response")
    assert response.headers["x-should-retry"] == "false"
    assert len(gemini.calls) == 1


async def test_a_conversion_ends_at_the_deadline_or_when_the_caller_leaves(serve: Serve, gemini: Emulator) -> None:
    will_draw(gemini, grain(4096), times=99)
    body = {"prompt": "x", "outputFormat": "webp"}
    async with serve() as client:
        late = await client.post("/generate-image", json=body, headers={"X-Timeout-Seconds": "1.2"})
        with pytest.raises(httpx2.TimeoutException):
            await client.post("/generate-image", json=body, timeout=0.6)
        async with asyncio.timeout(20):
            while 'buffered_bytes{kind="responses"} 0.0' not in (await client.get("/metrics")).text:  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    assert (late.status_code, late.json()["waitedFor"]) == (504, "conversion")
    assert late.headers["x-should-retry"] == "false"


async def test_conversions_go_on_even_if_responses_take_all_the_memory(serve: Serve, gemini: Emulator) -> None:
    will_draw(gemini, grain(1024), times=99)
    async with serve(max_buffered_bytes=2_000_000) as client:
        responses = await asyncio.gather(
            *(client.post("/generate-image", json={"prompt": "x", "outputFormat": "png"}) for _ in range(8))
        )

    assert [response.status_code for response in responses] == [200] * 8
    assert {opened(image_of(response)).format for response in responses} == {"PNG"}


async def test_a_stream_sends_comments_while_a_draft_is_converted(serve: Serve, gemini: Emulator) -> None:
    draft = {"thought": True, "inlineData": {"mimeType": "image/jpeg", "data": base64.b64encode(grain(2048)).decode()}}
    gemini.faults.append(Fault(patch={"candidates": {"0": {"content": {"parts": {"0": draft}}}}}))
    async with serve(heartbeat_seconds=0.05) as client:
        response = await client.post(
            "/generate-image",
            json={"prompt": "x", "outputFormat": "webp", "includeDrafts": True},
            headers={"Accept": "text/event-stream"},
        )

    assert 5 * ": still at it\n\n" + "event: draft" in response.text


@pytest.mark.slow
async def test_a_stopping_service_finishes_conversions(gemini: Emulator, gemini_url: str) -> None:
    """
    They take longer than the server's own time limit for responses, which is 6 seconds here.
    """
    will_draw(gemini, grain(4096), times=99)
    async with (
        process(gemini_url, caller_idle_timeout_seconds=1) as (service, url),
        httpx2.AsyncClient(base_url=url, timeout=120) as client,
    ):
        body = {"prompt": "x", "outputFormat": "png", "responseFormat": "b64"}
        requests = [asyncio.create_task(client.post("/generate-image", json=body)) for _ in range(12)]
        await wait_for_calls(gemini, 12)
        await asyncio.sleep(0.5)
        service.send_signal(signal.SIGTERM)
        responses = await asyncio.gather(*requests)
        code = await asyncio.wait_for(service.wait(), 60)

    assert [response.status_code for response in responses] == [200] * 12
    assert code == 0
