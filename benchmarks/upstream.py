"""A stand-in for Gemini: it sends responses that were encoded before, at the speed of a network.

`python -m benchmarks.upstream --port 9100`. The latest prompt says what to send: `8000000 bytes after 20 s` is an image
of 8 MB after 20 seconds; each size has an image of its own. `signed by 1000` sets the size of the thought signatures.
`GET /references` returns the number of complete reference images. `GET /most-in-flight` returns the largest number of
calls that waited at the same time. Both values are for the time since the last such request.
"""

import argparse
import asyncio
import base64
import functools
import json
import random
import re
import time
from typing import Any

import uvicorn

PACE_BYTES_PER_SECOND = 100_000_000
"""Speed of one connection: typical for a good connection to a data centre, and slower than loopback."""

_SLICE = 256 * 1024

REFERENCE_BYTES = 7_000_000

SIGNATURES = (1_100_000, 2_000_000)
"""Bytes of base64 on the text part and on the image part, as recorded from Nano Banana Pro."""

_PROMPT = re.compile(rb"(\d+) bytes after ([0-9.]+) s(?: signed by (\d+))?")

_JPEG_START = bytes.fromhex(
    "ffd8"
    "ffe000104a46494600010100000100010000"  # JFIF
    "ffc000110808000800030122000211010311 01"  # 2048 x 2048 pixels, three components
    "ffda000c03010002110311003f00"  # a scan of them
)


@functools.lru_cache(64)
def image(size: int) -> bytes:
    """Return a JPEG of exactly `size` bytes. Its structure is complete, and its pixels are noise."""
    noise = random.Random(size).randbytes(size - len(_JPEG_START) - 2)  # noqa: S311 - the same in every run
    return _JPEG_START + noise.replace(b"\xff", b"\xfe") + b"\xff\xd9"


@functools.lru_cache(64)
def encoded_image(size: int) -> bytes:
    return base64.b64encode(image(size))


@functools.lru_cache(64)
def response_body(size: int, signature_bytes: tuple[int, int] = SIGNATURES) -> bytes:
    """Return the body of a response of Gemini with an image of `size` bytes."""
    text_signature, image_signature = (
        base64.b64encode(random.Random(f"{size} {index}").randbytes(length * 3 // 4)).decode()  # noqa: S311
        for index, length in enumerate(signature_bytes)
    )
    parts: list[dict[str, Any]] = [
        {"text": "Here it is.", "thoughtSignature": text_signature},
        {
            "inlineData": {"mimeType": "image/jpeg", "data": encoded_image(size).decode()},
            "thoughtSignature": image_signature,
        },
    ]
    document = {
        "candidates": [{"content": {"parts": parts, "role": "model"}, "finishReason": "STOP", "index": 0}],
        "usageMetadata": {
            "promptTokenCount": 12,
            "candidatesTokenCount": 1240,
            "thoughtsTokenCount": 208,
            "totalTokenCount": 1460,
            "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 12}],
            "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 1120}],
        },
        "modelVersion": "gemini-3-pro-image",
        "responseId": "benchmark",
    }
    return json.dumps(document, indent=2).encode()  # Google indents its JSON


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    if scope["method"] == "GET":
        name = scope["path"].strip("/")
        await _reply(send, b"%d" % _counts[name])
        _counts[name] = 0
        return
    _counts["references"] += _count_references(body)
    # Search only near the end: a search through megabytes of base64 would distort the measurement.
    prompt = _PROMPT.search(body, body.rindex(b" bytes after ") - len(str(10**9)))
    assert prompt, "the prompt does not say what to send"
    size, delay, signature_size = prompt.groups()
    _counts["in-flight"] += 1
    _counts["most-in-flight"] = max(_counts["most-in-flight"], _counts["in-flight"])
    await asyncio.sleep(float(delay))
    _counts["in-flight"] -= 1
    signature_bytes = (int(signature_size), int(signature_size)) if signature_size else SIGNATURES
    await _reply(send, response_body(int(size), signature_bytes), paced=True)


_counts = {"references": 0, "in-flight": 0, "most-in-flight": 0}


def _count_references(body: bytearray) -> int:
    """Return the number of complete references in the body: as base64 in either alphabet, or as bytes."""
    if len(body) < 1_000_000:
        return 0
    standard = body.translate(bytes.maketrans(b"-_", b"+/"))
    as_bytes = body.count(image(REFERENCE_BYTES))  # the relay forwards the form
    return standard.count(encoded_image(REFERENCE_BYTES)) + as_bytes


async def _reply(send: Any, body: bytes, *, paced: bool = False) -> None:
    length = str(len(body)).encode()
    headers = [(b"content-type", b"application/json; charset=UTF-8"), (b"content-length", length)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    began, view = time.perf_counter(), memoryview(body)
    for start in range(0, len(body), _SLICE):
        if paced:
            ahead = start / PACE_BYTES_PER_SECOND - (time.perf_counter() - began)
            if ahead > 0:
                await asyncio.sleep(ahead)
        await send({"type": "http.response.body", "body": bytes(view[start : start + _SLICE]), "more_body": True})
    await send({"type": "http.response.body", "body": b""})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    uvicorn.run(
        app,
        port=parser.parse_args().port,
        log_level="warning",
        access_log=False,
        lifespan="off",
        timeout_keep_alive=300,
    )
