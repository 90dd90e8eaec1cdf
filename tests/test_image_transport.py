"""Images are extracted from Gemini's responses and inserted into requests without a change."""

import asyncio
import base64
import gc
import json
import random
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from google import genai
from google.genai import types

from app.api.http.inline_images import InlineImage
from app.emulator import Emulator
from app.emulator.faults import Fault
from app.gemini.transport.exchange import ImageExchange, _Received
from app.gemini.transport.http import ConnectionPool
from app.gemini.transport.http.connection import BUFFER_BYTES
from app.gemini.transport.transport import ImageTransport
from app.lib.base64_json import BufferContent, SegmentedContent
from app.lib.event_loop_scheduler import FairScheduler
from tests.conftest import Serve, image_file, image_of, wait_for_calls
from tests.tls import served_with_tls, write_certificate

ASK = {"prompt": "A lighthouse"}
NOISE = random.Random(3).randbytes(3_000_000)
JPEG = bytes.fromhex("ffd8ffe000104a46494600010100000100010000ffc00011080300040003012200021101031101") + NOISE
"""A large image with a valid header; the remaining bytes are random."""


def response_json(image: str, **text_fields: Any) -> str:
    """Return a response with the base64 `image` as a JSON string; `text_fields` extend the text part."""
    parts = f'[{json.dumps({"text": "Here it is.", **text_fields})}, {{"inlineData": {{"data": "{image}"}}}}]'
    return f'{{"candidates": [{{"content": {{"role": "model", "parts": {parts}}}, "finishReason": "STOP"}}]}}'


@pytest.mark.parametrize("chunk_bytes", [7, 100, 4096, 65_537])
@pytest.mark.parametrize("gzip", [False, True])
async def test_chunks_may_end_anywhere(
    client: httpx2.AsyncClient, gemini: Emulator, chunk_bytes: int, gzip: bool
) -> None:
    content = JPEG[:3_000]
    gemini.faults.append(Fault(chunk_bytes=chunk_bytes, gzip=gzip, image_base64=base64.b64encode(content).decode()))

    response = await client.post("/generate-image", json=ASK)

    assert image_of(response) == content


@pytest.mark.parametrize(
    "written",
    [
        pytest.param(base64.b64encode(JPEG).decode(), id="plain"),
        pytest.param(base64.urlsafe_b64encode(JPEG).decode(), id="the URL-safe alphabet"),
        pytest.param(base64.b64encode(JPEG + b"!").decode().rstrip("="), id="without padding"),
        pytest.param(base64.b64encode(JPEG).decode().replace("/", "\\/").replace("=", "\\u003d"), id="escapes"),
        pytest.param(base64.encodebytes(JPEG).decode().replace("\n", "\\n"), id="lines"),
    ],
)
async def test_base64_may_be_written_in_any_way(client: httpx2.AsyncClient, gemini: Emulator, written: str) -> None:
    gemini.faults.append(Fault(body=response_json(written)))

    response = await client.post("/generate-image", json=ASK)

    assert image_of(response).rstrip(b"!") == JPEG


async def test_text_that_looks_like_an_image_field_stays_text(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    """
    `"data"` inside a quoted prompt, a title or a text is not an image.
    """
    text = 'The "data": "QUJD" you asked for, {"thoughtSignature": "no"}, \\ and a quote: "'
    chunks = [{"web": {"uri": "https://example.com/?q=%22data%22:", "title": 'data": "QUJD'}}]
    gemini.faults.append(
        Fault(text=text, patch={"candidates": {"0": {"groundingMetadata": {"groundingChunks": chunks}}}})
    )

    response = await client.post("/generate-image", json=ASK)

    assert response.json()["text"] == text
    assert response.json()["grounding"]["sources"][0]["title"] == 'data": "QUJD'


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(response_json("AAAA")[:-20], id="cut off behind the image"),
        pytest.param(response_json(base64.b64encode(JPEG).decode())[:1_000_000], id="cut off in the image"),
        pytest.param(response_json(base64.b64encode(JPEG).decode().replace("A", "!", 1)), id="not base64"),
        pytest.param(response_json(base64.b64encode(JPEG).decode().replace("A", "=", 1)), id="padding in the middle"),
        pytest.param(response_json(base64.b64encode(JPEG).decode() + "A"), id="one character too many"),
        pytest.param(response_json(base64.b64encode(JPEG).decode().replace("A", "\\x", 1)), id="an invalid escape"),
        pytest.param(response_json(base64.b64encode(NOISE).decode()), id="no image"),
    ],
)
async def test_a_damaged_response_is_an_error_and_never_a_wrong_image(
    client: httpx2.AsyncClient, gemini: Emulator, broken: str
) -> None:
    gemini.faults.append(Fault(body=broken))

    response = await client.post("/generate-image", json=ASK)

    assert response.status_code == 502
    assert response.json()["code"] == "upstream_invalid_response"
    assert len(gemini.calls) == 1


@pytest.mark.parametrize("gzip", [False, True])
async def test_an_endless_response_ends_at_the_limit(serve: Serve, gemini: Emulator, gzip: bool) -> None:
    """
    The size after decompression counts. The connection is closed.
    """
    gemini.faults.append(Fault(image_base64="A" * 3_000_000, gzip=gzip))

    async with serve(max_upstream_body_bytes=1_000_000) as client:
        response = await client.post("/generate-image", json=ASK)
        after = await client.post("/generate-image", json=ASK | {"imageSize": "1K"})

    assert response.status_code == 502
    assert response.json()["code"] == "upstream_invalid_response"
    assert "larger" in response.json()["detail"]
    assert after.status_code == 200


async def test_the_last_image_is_delivered_and_drafts_on_request(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    """
    In the JSON each image has a field of its own.
    """
    gemini.faults.append(Fault(shape="unflagged_drafts"))

    body = (await client.post("/generate-image", json=ASK | {"includeDrafts": True})).json()

    images = [body["image"], *body["drafts"]]
    assert len({image["data"] for image in images}) == len(images) >= 3
    for image in images:
        assert image["url"].endswith(f",{image['data']}")
        assert base64.b64decode(image["data"], validate=True)[:3] == b"\xff\xd8\xff"


async def test_raw_bytes_are_the_file_itself(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    gemini.faults.append(Fault(image_base64=base64.b64encode(JPEG).decode()))

    response = await client.post("/generate-image", json=ASK, headers={"Accept": "image/*"})

    assert response.content == JPEG
    assert response.headers["Content-Length"] == str(len(JPEG))


async def test_an_image_header_behind_megabytes_of_metadata_is_found(
    client: httpx2.AsyncClient, gemini: Emulator
) -> None:
    metadata = b"".join(b"\xff\xe2\xff\xff" + bytes(65_533) for _ in range(40))
    content = JPEG[:2] + metadata + JPEG[2:]
    gemini.faults.append(Fault(image_base64=base64.b64encode(content).decode()))

    response = await client.post("/generate-image", json=ASK)

    assert image_of(response) == content
    assert (response.json()["image"]["width"], response.json()["image"]["height"]) == (1024, 768)


@pytest.fixture
def left() -> Iterator[Callable[[], list[str]]]:
    """Return the objects created since that hold images, while the garbage collector is off."""
    kinds = (_Received, SegmentedContent, BufferContent, InlineImage)
    gc.disable()
    gc.freeze()  # `get_objects` leaves out what is frozen
    yield lambda: [type(one).__name__ for one in gc.get_objects() if type(one) in kinds]
    gc.unfreeze()
    gc.enable()


REFERENCE = {"data": base64.b64encode(image_file(size=(300, 300))).decode()}


@pytest.mark.parametrize("accept", ["application/json", "image/*", "text/event-stream"])
@pytest.mark.parametrize(
    "fault",
    [
        Fault(),
        Fault(status=503),
        Fault(status=400),
        Fault(finish_reason="IMAGE_SAFETY"),
        Fault(reset="in_body", times=2),
    ],
    ids=["good", "retried", "rejected", "refused", "broken"],
)
async def test_no_image_stays_in_memory_after_its_response(
    client: httpx2.AsyncClient, gemini: Emulator, left: Callable[[], list[str]], accept: str, fault: Fault
) -> None:
    """
    The garbage collector may run only after minutes, too late for images. Connections stay open and keep the context in
    which they were opened; it refers to no images.
    """
    gemini.faults.append(fault)

    await client.post("/generate-image", json=ASK | {"referenceImages": [REFERENCE]}, headers={"Accept": accept})
    await asyncio.sleep(0.05)

    assert left() == []


@pytest.mark.parametrize("accept", ["application/json", "image/*", "text/event-stream"])
@pytest.mark.parametrize(
    "fault",
    [
        Fault(),
        Fault(status=503),
        Fault(status=400, message="Thought signature is not valid in content position 2, part position 1."),
        Fault(finish_reason="IMAGE_SAFETY"),
        Fault(reset="in_body", times=2),
    ],
    ids=["good", "retried", "distrusted", "refused", "broken"],
)
async def test_no_image_stays_in_memory_after_a_turn(
    client: httpx2.AsyncClient, gemini: Emulator, left: Callable[[], list[str]], accept: str, fault: Fault
) -> None:
    """
    The images of a chat are in its storage alone.
    """
    url = (await client.post("/chats", json={"prompt": "A cat", "imageSize": "1K"})).headers["location"]
    await client.post(f"{url}/turns", json={"prompt": "Blue, please", "referenceImages": [REFERENCE]})
    gemini.faults.append(fault)

    await client.post(
        f"{url}/turns", json={"prompt": "Larger", "referenceImages": [REFERENCE]}, headers={"Accept": accept}
    )
    await asyncio.sleep(0.05)

    assert left() == []


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
@pytest.mark.parametrize("fault", [Fault(delay_seconds=5), Fault(stall_seconds=5)], ids=["drawing", "in transfer"])
async def test_no_image_stays_in_memory_after_a_disconnect(
    client: httpx2.AsyncClient, gemini: Emulator, left: Callable[[], list[str]], accept: str, fault: Fault
) -> None:
    gemini.faults.append(fault)
    asking = asyncio.create_task(
        client.post("/generate-image", json=ASK | {"referenceImages": [REFERENCE]}, headers={"Accept": accept})
    )
    await wait_for_calls(gemini)
    await asyncio.sleep(0.3)

    asking.cancel()
    await asyncio.sleep(0.3)

    assert left() == []


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"prompt": "x", "referenceImages": [REFERENCE], "unknown": 1}, 422),
        ({"prompt": "x", "referenceImages": [REFERENCE, {"data": "not base64"}]}, 422),
        ({"prompt": "x", "referenceImages": [REFERENCE, {"data": REFERENCE["data"][:400]}]}, 415),
        ({"prompt": "x", "referenceImages": [REFERENCE], "model": "gemini-2.5-flash-image", "imageSize": "4K"}, 422),
        ({"prompt": "x", "referenceImages": [REFERENCE], "systemInstruction": "x" * 5_000_000}, 413),
    ],
    ids=["unknown field", "not base64", "not an image", "not for the model", "too large"],
)
async def test_no_image_stays_in_memory_after_a_rejected_request(
    client: httpx2.AsyncClient, left: Callable[[], list[str]], body: dict[str, object], status: int
) -> None:
    response = await client.post("/generate-image", json=body)
    await asyncio.sleep(0.05)

    assert response.status_code == status, response.text
    assert left() == []


# Requests to Gemini.


async def test_a_large_upload_arrives_bit_for_bit(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    """
    Files over 8 MiB are sent from disk, others from memory. The length equals the announced one.
    """
    large, huge = (image_file(size=(side, side), format_="PNG", compress_level=0) for side in (1400, 1800))
    assert len(large) < 8 * 1024 * 1024 < len(huge)
    files = [("images", (str(number), image)) for number, image in enumerate([huge, image_file(), large, huge])]

    response = await client.post("/generate-image/with-references", data={"prompt": "All"}, files=files)

    assert response.status_code == 200, response.text
    assert _images_sent(gemini) == [huge, image_file(), large, huge]
    assert int(gemini.calls[-1].headers["content-length"]) > (2 * len(huge) + len(large)) * 4 / 3


async def test_inline_references_arrive_bit_for_bit(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    large = image_file(size=(1400, 1400), format_="PNG", compress_level=0)
    written = base64.b64encode(large).decode()
    references = [
        {"data": written, "role": "style"},
        {"url": f"data:image/png;base64,{written}"},
        {"data": f"DATA:image/png;charset=binary;base64,{base64.urlsafe_b64encode(large).decode()}"},
    ]

    response = await client.post("/generate-image", json=ASK | {"referenceImages": references})

    assert response.status_code == 200, response.text
    assert _images_sent(gemini) == [large] * 3


async def test_a_prompt_that_looks_like_a_placeholder_stays_a_prompt(
    client: httpx2.AsyncClient, gemini: Emulator
) -> None:
    """
    Placeholders are random for each message, so that a caller who has seen one cannot guess the next.
    """
    prompt = f'{"0" * 32}0001 "{"f" * 36}" "data": "QUJD"'
    reference = {"data": base64.b64encode(image_file()).decode(), "name": "0" * 36}

    response = await client.post("/generate-image", json={"prompt": prompt, "referenceImages": [reference]})

    assert response.status_code == 200, response.text
    assert gemini.calls[-1].body["contents"][0]["parts"][0]["text"] == prompt
    assert _images_sent(gemini) == [image_file()]


async def test_text_in_a_request_has_a_limit_of_its_own(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    """
    Images may be large. A body whose other parts are too large is refused while it arrives.
    """
    response = await client.post("/generate-image", json=ASK | {"systemInstruction": "x" * 5_000_000})

    assert response.status_code == 413
    assert response.json()["code"] == "too_large"
    assert not gemini.calls


def _images_sent(gemini: Emulator) -> list[bytes]:
    parts = gemini.calls[-1].body["contents"][0]["parts"]
    return [base64.b64decode(part["inlineData"]["data"], validate=True) for part in parts if "inlineData" in part]


# The transport by itself, under the official SDK.


@asynccontextmanager
async def sdk(url: str, max_bytes: int = 10**8) -> AsyncGenerator[genai.Client]:
    http = httpx2.AsyncClient(
        transport=ImageTransport(ConnectionPool(FairScheduler(), trust_env=False), max_bytes), trust_env=False
    )
    options = types.HttpOptions(
        base_url=url,
        api_version="v1beta",
        timeout=10_000,
        retry_options=types.HttpRetryOptions(attempts=1),
        httpx_async_client=http,
    )
    async with http:
        yield genai.Client(api_key="key", http_options=options)


async def test_images_are_extracted_from_a_stream_while_it_arrives(gemini: Emulator, gemini_url: str) -> None:
    """
    The SDK gets each server-sent event as soon as it arrives, with placeholders in it.
    """
    gemini.faults.append(Fault(chunk_bytes=1000))
    config = types.GenerateContentConfig(response_modalities=["TEXT", "IMAGE"])
    texts, images = [], []

    async with sdk(gemini_url) as client:
        with ImageExchange() as exchange:
            stream = await client.aio.models.generate_content_stream(
                model="gemini-3-pro-image", contents="A lighthouse", config=config
            )
            async for chunk in stream:
                for part in chunk.parts or []:
                    assert not part.thought_signature
                    if part.text:
                        texts.append(part.text)
                    elif part.inline_data and part.inline_data.data:
                        placeholder = base64.b64encode(part.inline_data.data).decode()
                        assert len(placeholder) == 36
                        images.append(exchange.content_for(placeholder).head(10**9))

    assert texts == ["Here it is."]
    assert [image[:3] for image in images] == [b"\xff\xd8\xff"]


async def test_an_exchange_may_be_sent_again(gemini: Emulator, gemini_url: str) -> None:
    """
    Each attempt sends the references from their beginning, and drops what an earlier attempt received.
    """
    content = image_file(size=(900, 900), compress_level=0)
    config = types.GenerateContentConfig(response_modalities=["IMAGE"], should_return_http_response=True)

    async with sdk(gemini_url) as client:
        with ImageExchange(keep_signatures=True) as exchange:
            parts = [
                types.Part(text="Blue"),
                types.Part(
                    inline_data=types.Blob(data=exchange.placeholder_for(BufferContent(content)), mime_type="image/png")
                ),
            ]
            bodies = []
            for _ in range(2):
                response = await client.aio.models.generate_content(
                    model="gemini-3-pro-image", contents=types.Content(role="user", parts=parts), config=config
                )
                assert response.sdk_http_response and response.sdk_http_response.body
                bodies.append(json.loads(response.sdk_http_response.body)["candidates"][0]["content"]["parts"][0])
            first, second = bodies
            assert exchange.content_for(second["inlineData"]["data"]).head(3) == b"\xff\xd8\xff"
            assert len(exchange.content_for(second["thoughtSignature"])) > 0
            assert exchange.content_for(first["inlineData"]["data"]).head(99).hex() not in first["inlineData"]["data"]

    for call in gemini.calls:
        assert base64.b64decode(call.body["contents"][0]["parts"][1]["inlineData"]["data"]) == content


async def test_a_call_outside_an_exchange_passes_unchanged(gemini_url: str) -> None:
    async with sdk(gemini_url) as client:
        response = await client.aio.models.generate_content(
            model="gemini-3-pro-image",
            contents="A lighthouse",
            config=types.GenerateContentConfig(response_modalities=["IMAGE"]),
        )

    assert response.parts and response.parts[0].inline_data and response.parts[0].inline_data.data
    assert response.parts[0].inline_data.data[:3] == b"\xff\xd8\xff"
    assert response.parts[0].thought_signature


async def test_the_status_of_a_long_error_is_enough(client: httpx2.AsyncClient, gemini: Emulator) -> None:
    """
    Its body is not parsed, because that would block other requests for seconds.
    """
    gemini.faults.append(Fault(status=503, message="limit: 0 " * 3_000_000, times=9))

    response = await client.post("/generate-image", json=ASK)

    assert (response.status_code, response.json()["code"]) == (503, "upstream_busy")
    assert len(gemini.calls) == 3


def test_signatures_are_kept_only_on_request() -> None:
    text = b'{"thoughtSignature": "QUJD", "thought_signature": "REVG", "data": "R0hJ"}'

    with ImageExchange() as plain, ImageExchange(keep_signatures=True) as keeping:
        dropped, kept = json.loads(plain.extract(text)), json.loads(keeping.extract(text))

        assert (dropped["thoughtSignature"], dropped["thought_signature"]) == ("", "")
        assert plain.content_for(dropped["data"]).head(9) == b"GHI"
        assert [keeping.content_for(kept[key]).head(9) for key in kept] == [b"ABC", b"DEF", b"GHI"]


# Connections.


async def test_an_idle_connection_that_the_server_closes_is_not_used_again(gemini_url: str) -> None:
    """
    The client notices the end even if the last response filled the buffer, so that reading was paused.
    """
    connections = 0
    body = response_json(base64.b64encode(JPEG[:BUFFER_BYTES]).decode()).encode()
    body += b" " * (4 * BUFFER_BYTES - len(body))

    async def serve_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split()[0])
        await reader.readexactly(length)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body))
        for start in range(0, len(body), BUFFER_BYTES):
            writer.write(body[start : start + BUFFER_BYTES])
            await writer.drain()
        await asyncio.sleep(0.1)
        writer.close()

    server = await asyncio.start_server(serve_once, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, sdk(f"http://127.0.0.1:{port}") as client:
        for _ in range(3):
            with ImageExchange():
                await client.aio.models.generate_content(
                    model="m", contents="x", config=types.GenerateContentConfig(should_return_http_response=True)
                )
            await asyncio.sleep(0.3)

    assert connections == 3


async def test_certificates_are_checked(
    serve: Serve, gemini: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    An untrusted certificate authority is an upstream error. `SSL_CERT_FILE` names one to trust.
    """
    gemini.faults.append(Fault(image_base64=base64.b64encode(JPEG).decode()))

    async with served_with_tls(gemini) as url:
        async with serve(google_gemini_base_url=url) as client:
            refused = await client.post("/generate-image", json=ASK)
        monkeypatch.setenv("SSL_CERT_FILE", write_certificate(tmp_path))
        async with serve(google_gemini_base_url=url) as client:
            response = await client.post("/generate-image", json=ASK)

    assert refused.status_code == 502
    assert refused.json()["code"] == "upstream_error"
    assert image_of(response) == JPEG
