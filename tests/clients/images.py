"""Images inside answers of `/v1`."""

import base64
import io
from typing import Any

from PIL import Image


def opened(b64_json: str) -> Image.Image:
    """Return the decoded image, whose data must be complete."""
    image = Image.open(io.BytesIO(base64.b64decode(b64_json, validate=True)))
    image.load()
    return image


def images_of(answer: Any) -> list[Image.Image]:
    """Return the images of an answer to `images.generate` or `images.edit`."""
    return [opened(item["b64_json"]) for item in answer["data"]]


def sent_images(body: dict[str, Any]) -> list[bytes]:
    """Return the images in the body of a call that Gemini received."""
    parts = [part for content in body["contents"] for part in content["parts"]]
    return [base64.b64decode(part["inlineData"]["data"]) for part in parts if "inlineData" in part]
