"""`?width=`: smaller copies of the stored images of chats."""

import asyncio
import base64
import io
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image, ImageChops, ImageCms, ImageStat

from app.emulator import Emulator, Fault
from tests.conftest import Serve, image_file
from tests.stored_chats import blob_files

SIZE = (600, 400)


def picture(format_: str, size: tuple[int, int] = SIZE, **options: Any) -> bytes:
    """Return a file with soft colours, which stay nearly the same in a smaller copy."""
    across = Image.linear_gradient("L").resize(size)
    bands = [across, across.transpose(Image.Transpose.FLIP_TOP_BOTTOM), Image.new("L", size, 90)]
    out = io.BytesIO()
    Image.merge("RGB", bands).save(out, format_, **options)
    return out.getvalue()


def noise(format_: str, size: tuple[int, int], **options: Any) -> bytes:
    out = io.BytesIO()
    Image.effect_noise(size, 80).convert("RGB").save(out, format_, **options)
    return out.getvalue()


def opened(file: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(file))
    image.load()
    return image


def difference(copy: bytes, original: bytes) -> float:
    """Return the mean difference between a copy and the original at the same size, in levels of 255."""
    small = opened(copy).convert("RGB")
    expected = opened(original).convert("RGB").resize(small.size, Image.Resampling.LANCZOS)
    return max(ImageStat.Stat(ImageChops.difference(small, expected)).mean)


@dataclass
class Stored:
    """A chat with one turn."""

    client: httpx2.AsyncClient
    url: str
    image: bytes
    data_dir: Path

    async def get(self, width: object, path: str = "image", **headers: str) -> httpx2.Response:
        url = f"{self.url}/turns/1/{path}"
        return await self.client.get(url, params={"width": str(width)}, headers=headers)


async def store(client: httpx2.AsyncClient, gemini: Emulator, data_dir: Path, image: bytes, *uploads: bytes) -> Stored:
    """Return a chat whose turn has this image and these uploads."""
    chat = (await client.post("/chats", json={})).headers["location"]
    gemini.faults.append(Fault(image_base64=base64.b64encode(image).decode()))
    files = [("images", (f"{place}", file)) for place, file in enumerate(uploads or (image_file(),))]
    response = await client.post(f"{chat}/turns", data={"prompt": "A cat"}, files=files)
    assert response.is_success, response.text[:500]
    return Stored(client, chat, image, data_dir)


@pytest.fixture
async def service(serve: Serve, gemini: Emulator, tmp_path: Path) -> AsyncGenerator[httpx2.AsyncClient]:
    async with serve(data_dir=tmp_path) as client:
        yield client


@pytest.fixture
async def stored(service: httpx2.AsyncClient, gemini: Emulator, tmp_path: Path) -> Stored:
    return await store(service, gemini, tmp_path, picture("JPEG", quality=95))


async def memory(client: httpx2.AsyncClient) -> float:
    text = (await client.get("/metrics")).text
    name = 'gemini_images_buffered_bytes{kind="responses"}'
    return next(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP"])
async def test_a_copy_has_the_width_and_the_type_of_its_original(
    service: httpx2.AsyncClient, gemini: Emulator, tmp_path: Path, format_: str
) -> None:
    chat = await store(service, gemini, tmp_path, picture(format_))

    response = await chat.get(150)

    copy = opened(response.content)
    assert (copy.format, copy.size) == (format_, (150, 100))
    assert response.headers["content-type"] == f"image/{format_.lower()}"
    assert response.headers["content-length"] == str(len(response.content))
    assert "immutable" in response.headers["cache-control"]
    assert difference(response.content, chat.image) < 3
    assert await memory(service) == 0


@pytest.mark.parametrize(("format_", "options"), [("JPEG", {"progressive": True}), ("PNG", {}), ("WEBP", {})])
async def test_an_upload_has_copies_too(
    service: httpx2.AsyncClient, gemini: Emulator, tmp_path: Path, format_: str, options: dict[str, Any]
) -> None:
    upload = picture(format_, (1600, 1200), **options)
    chat = await store(service, gemini, tmp_path, picture("JPEG"), image_file(), upload)

    response = await chat.get(64, "references/2")

    assert (opened(response.content).format, opened(response.content).size) == (format_, (64, 48))
    assert difference(response.content, upload) < 3


@pytest.mark.parametrize("width", [600, 601, 2048])
async def test_an_image_is_never_made_larger(stored: Stored, width: int) -> None:
    response, original = await stored.get(width), await stored.client.get(f"{stored.url}/turns/1/image")

    assert response.content == stored.image
    assert response.headers["etag"] == original.headers["etag"]


@pytest.mark.parametrize("width", [16, 599])
async def test_the_smallest_width_and_the_width_below_the_original_work(stored: Stored, width: int) -> None:
    response = await stored.get(width)

    assert opened(response.content).width == width


@pytest.mark.parametrize("width", [0, 15, 2049, -1, "x", "", "1.5", 10**30])
async def test_another_width_is_rejected_by_name(stored: Stored, width: object) -> None:
    response = await stored.get(width)

    assert response.status_code == 422
    assert [error["field"] for error in response.json()["errors"]] == ["width"]


async def test_each_width_has_an_etag_of_its_own(stored: Stored) -> None:
    tags = [(await stored.get(width)).headers["etag"] for width in (100, 200, 600)]
    again = await stored.get(100)

    assert len(set(tags)) == 3
    assert again.headers["etag"] == tags[0]


async def test_a_caller_that_has_the_copy_gets_304_and_nothing_is_read(stored: Stored) -> None:
    """
    The file is deleted before the request, so a service that read it would fail.
    """
    tag = (await stored.get(100)).headers["etag"]
    for blob in blob_files({"data_dir": stored.data_dir}):
        next((stored.data_dir / "blobs").glob(f"*/{blob}")).unlink()

    response = await stored.get(100, **{"If-None-Match": f'"x", W/{tag}'})
    without_tag = await stored.get(100)

    assert (response.status_code, response.content, response.headers["etag"]) == (304, b"", tag)
    assert (without_tag.status_code, without_tag.json()["code"]) == (500, "storage_damaged")


async def test_the_tag_of_another_width_does_not_match(stored: Stored) -> None:
    tag = (await stored.get(100)).headers["etag"]

    response = await stored.get(101, **{"If-None-Match": tag})

    assert (response.status_code, opened(response.content).width) == (200, 101)


async def test_head_has_the_headers_of_the_copy(stored: Stored) -> None:
    tag = (await stored.get(100)).headers["etag"]

    response = await stored.client.head(f"{stored.url}/turns/1/image", params={"width": 100})
    after = await stored.get(120)

    assert (response.status_code, response.content) == (200, b"")
    assert (response.headers["etag"], response.headers["content-type"]) == (tag, "image/jpeg")
    assert after.is_success


async def test_a_type_that_cannot_be_made_smaller_is_rejected(
    service: httpx2.AsyncClient, gemini: Emulator, tmp_path: Path
) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    chat = await store(service, gemini, tmp_path, picture("JPEG"), picture("HEIF", (320, 240)))

    smaller, whole = await chat.get(64, "references/1"), await chat.get(640, "references/1")

    assert (smaller.status_code, smaller.json()["errors"][0]["field"]) == (422, "width")
    assert whole.is_success


async def test_an_image_that_cannot_be_decoded_has_no_copies_and_is_still_served(
    service: httpx2.AsyncClient, gemini: Emulator, tmp_path: Path
) -> None:
    """
    Gemini sends a JPEG that breaks off. Its header is complete, so that it is stored.
    """
    whole = noise("JPEG", (640, 480))
    chat = await store(service, gemini, tmp_path, whole[: len(whole) // 2])

    smaller, stored = await chat.get(64), await chat.client.get(f"{chat.url}/turns/1/image")

    assert (smaller.status_code, smaller.json()["errors"][0]["field"]) == (422, "width")
    assert stored.content == chat.image
    assert await memory(service) == 0


async def test_an_image_that_claims_more_pixels_than_a_model_draws_is_not_decoded(
    service: httpx2.AsyncClient, gemini: Emulator, tmp_path: Path
) -> None:
    bomb = io.BytesIO()
    Image.new("L", (8000, 8000)).save(bomb, "PNG")
    chat = await store(service, gemini, tmp_path, bomb.getvalue())

    response = await chat.get(64)

    assert (response.status_code, response.json()["errors"][0]["field"]) == (422, "width")


async def test_an_upload_may_have_more_pixels_than_a_model_draws(
    service: httpx2.AsyncClient, gemini: Emulator, tmp_path: Path
) -> None:
    large = picture("JPEG", (7000, 5000))
    chat = await store(service, gemini, tmp_path, picture("JPEG"), large)

    response = await chat.get(70, "references/1")

    assert opened(response.content).size == (70, 50)


async def test_profile_and_rotation_are_kept(service: httpx2.AsyncClient, gemini: Emulator, tmp_path: Path) -> None:
    """
    A browser rotates the copy as it rotates the original, so the pixels are not rotated.
    """
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x0112] = 6
    upload = picture("JPEG", icc_profile=profile, exif=exif)
    chat = await store(service, gemini, tmp_path, picture("JPEG"), upload)

    copy = opened((await chat.get(300, "references/1")).content)

    assert copy.size == (300, 200)
    assert copy.info["icc_profile"] == profile
    assert copy.getexif()[0x0112] == 6


async def test_many_copies_at_once_stay_within_the_memory(serve: Serve, gemini: Emulator, tmp_path: Path) -> None:
    """
    Each of them needs more than the whole budget, so that they are made one after the other.
    """
    async with serve(data_dir=tmp_path, max_buffered_bytes=16_000_000) as client:
        chat = await store(client, gemini, tmp_path, noise("PNG", (2000, 1000)))
        copies = asyncio.gather(*(chat.get(400 + place) for place in range(12)))
        peak = 0.0
        while not copies.done():
            peak = max(peak, await memory(client))
            await asyncio.sleep(0.005)

        assert [opened(one.content).width for one in await copies] == list(range(400, 412))
        assert 0 < peak < 64_000_000
        assert await memory(client) == 0


async def test_a_copy_whose_caller_disconnects_is_stopped(
    service: httpx2.AsyncClient, gemini: Emulator, tmp_path: Path
) -> None:
    chat = await store(service, gemini, tmp_path, picture("JPEG"), picture("PNG", (8000, 6000), compress_level=1))
    asking = [asyncio.create_task(chat.get(1900 + place, "references/1")) for place in range(6)]
    while await memory(service) < 20_000_000:  # noqa: ASYNC110 - there is no event to wait for
        await asyncio.sleep(0.005)
    for one in asking:
        one.cancel()

    for _ in range(60):
        if (left := await memory(service)) == 0:
            break
        await asyncio.sleep(0.02)

    assert left == 0
