"""`outputFormat` and `outputQuality`: real PNG, JPEG and WebP, and Gemini's own bytes for whoever does not ask."""

import base64
import io
from typing import Any

import httpx2
import pytest
from PIL import Image, ImageChops, ImageStat

from app.emulator import Emulator, Fault
from tests.conftest import image_of

PIXELS = (64, 48)


def gradient(format_: str = "JPEG", size: tuple[int, int] = (320, 240), **options: Any) -> bytes:
    """Return a file of soft colours, which each format keeps nearly unchanged."""
    across = Image.linear_gradient("L").resize(size)
    bands = [across, across.transpose(Image.Transpose.FLIP_TOP_BOTTOM), Image.new("L", size, 90)]
    out = io.BytesIO()
    Image.merge("RGB", bands).save(out, format_, **options)
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
