"""A typical first version: FastAPI and the SDK as their documentation shows them, returning a dict."""

import base64
from typing import Any

from fastapi import FastAPI, Form, HTTPException, UploadFile
from google import genai
from google.genai import types
from pydantic import BaseModel

app = FastAPI()
client = genai.Client(api_key="benchmark")


class Body(BaseModel):
    prompt: str
    aspectRatio: str = "1:1"  # noqa: N815
    imageSize: str = "2K"  # noqa: N815


@app.get("/healthz")
async def healthz() -> dict[str, str]:
    return {"status": "ok"}


@app.post("/generate-image")
async def generate(body: Body) -> dict[str, Any]:
    return await _generate([body.prompt], body.aspectRatio, body.imageSize)


@app.post("/generate-image/with-references")
async def generate_with_references(prompt: str = Form(), images: list[UploadFile] = []) -> dict[str, Any]:  # noqa: B006
    parts = [
        types.Part.from_bytes(data=await image.read(), mime_type=image.content_type or "image/jpeg") for image in images
    ]
    return await _generate([prompt, *parts], "1:1", "2K")


async def _generate(contents: list[Any], aspect_ratio: str, image_size: str) -> dict[str, Any]:
    response = await client.aio.models.generate_content(
        model="gemini-3-pro-image",
        contents=contents,
        config=types.GenerateContentConfig(
            response_modalities=["TEXT", "IMAGE"],
            image_config=types.ImageConfig(aspect_ratio=aspect_ratio, image_size=image_size),
        ),
    )
    text, image = None, None
    for part in response.parts or []:
        if part.text:
            text = part.text
        elif part.inline_data and part.inline_data.data:
            data = base64.b64encode(part.inline_data.data).decode()
            mime_type = part.inline_data.mime_type
            image = {"data": data, "mimeType": mime_type, "url": f"data:{mime_type};base64,{data}"}
    if image is None:
        raise HTTPException(502, "no image")
    return {"image": image, "text": text}
