"""The log: every line has its request id, and no line has a key, a prompt or an image, at any level."""

import asyncio
import base64
import io
import json
import logging
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from pydantic import SecretStr

from app.emulator import Emulator, Fault, served
from app.main import create_app
from app.settings import Settings
from tests.conftest import KEY, Serve, image_file, wait_for_calls

PROMPT = "A very secret plan of a lighthouse"
SECRET = "service-secret-that-nobody-may-see"


@pytest.fixture
def all_records() -> Iterator[io.StringIO]:
    """The text of all log records of all loggers, at debug level."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    root = logging.getLogger()
    old = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield written
    root.removeHandler(handler)
    root.setLevel(old)


FAULTS = [
    Fault(),
    Fault(status=400, message=f"Bad prompt: {PROMPT}, key {KEY}"),
    Fault(status=500, message=f"Oops: {PROMPT}"),
    Fault(finish_reason="IMAGE_SAFETY", finish_message=f"Will not draw {PROMPT}"),
    Fault(shape="text_only", text=PROMPT),
    Fault(body=f'{{"candidates": "{PROMPT}"}}'),
    Fault(image_base64="aGVsbG8="),
    Fault(reset="in_body"),
]


@pytest.mark.parametrize("log_format", ["text", "json"])
async def test_no_key_prompt_or_image_is_ever_logged(
    serve: Serve,
    gemini: Emulator,
    all_records: io.StringIO,
    capfd: pytest.CaptureFixture[str],
    log_format: str,
) -> None:
    """
    Not for any failure, even at debug level and with the loggers of all libraries enabled.
    """
    data = base64.b64encode(image_file()).decode()
    key = {"X-API-Key": SECRET}
    async with serve(service_api_keys=f"web:{SECRET}", log_level="debug", log_format=log_format) as client:
        for fault in FAULTS:
            gemini.faults.append(fault)
            await client.post(
                "/generate-image", json={"prompt": PROMPT, "referenceImages": [{"data": data}]}, headers=key
            )
        for wrong in (
            {"prompt": PROMPT, "bogus": PROMPT},
            {"prompt": PROMPT, "referenceImages": [{"data": data[:-9] + "%"}]},
        ):
            await client.post("/generate-image", json=wrong, headers=key)
        await client.post(
            "/generate-image", content=f'{{"prompt": "{PROMPT}', headers=key | {"Content-Type": "application/json"}
        )

    written = all_records.getvalue() + "".join(capfd.readouterr())
    assert written.count("POST /generate-image") >= len(FAULTS)
    for secret in (PROMPT, KEY, SECRET, data[:40], "iVBORw0KGgo"):
        assert secret not in written


async def test_every_line_has_the_request_s_id(
    serve: Serve, gemini: Emulator, capfd: pytest.CaptureFixture[str]
) -> None:
    async with serve(log_format="json") as client:
        gemini.faults.append(
            Fault(status=429, message="You exceeded your current quota", details=[{"retryDelay": "50s"}])
        )
        capfd.readouterr()
        await client.post("/generate-image", json={"prompt": "x"}, headers={"X-Request-Id": "order-66"})
        lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]

    assert [line["requestId"] for line in lines] == ["order-66"] * 3
    generation, problem, access = lines
    assert (generation["message"], generation["outcome"]) == ("generation", "quota_exhausted")
    assert problem["message"] == "problem quota_exhausted"
    assert problem["cause"] == "429 RESOURCE_EXHAUSTED"
    assert access["status"] == 429
    assert access["caller"] == "local"


async def test_the_name_of_an_unknown_field_is_not_logged(serve: Serve, capfd: pytest.CaptureFixture[str]) -> None:
    async with serve() as client:
        capfd.readouterr()
        await client.post("/generate-image", json={"prompt": "x", f"\n2026 INFO {PROMPT}": 1, "aspectRatio": 7})
        lines = capfd.readouterr().err.splitlines()

    assert len(lines) == 2
    assert PROMPT not in "".join(lines)
    assert "aspectRatio,?" in lines[0]


async def test_an_unknown_field_of_a_reference_is_not_logged(serve: Serve, capfd: pytest.CaptureFixture[str]) -> None:
    references = [{"data": "aGVsbG8=", PROMPT: 1}, {"data": 7}]
    async with serve() as client:
        capfd.readouterr()
        response = await client.post("/generate-image", json={"prompt": "x", "referenceImages": references})
        written = capfd.readouterr().err

    assert PROMPT in response.json()["errors"][0]["field"]
    assert PROMPT not in written
    assert "referenceImages,referenceImages[1].data" in written


async def test_gemini_s_message_is_logged_if_log_sensitive_is_set(
    serve: Serve, gemini: Emulator, capfd: pytest.CaptureFixture[str]
) -> None:
    gemini.faults.append(Fault(status=400, message="Something only Google understands"))
    async with serve(log_sensitive=True) as client:
        await client.post("/generate-image", json={"prompt": "x"})

    assert "Something only Google understands" in capfd.readouterr().err


@asynccontextmanager
async def broken(settings: Settings, **overrides: Any) -> AsyncGenerator[httpx2.AsyncClient]:
    """A service in which every generation fails unexpectedly: no HTTP header can carry its key for Gemini."""
    unchecked = settings.model_copy(update={"gemini_api_key": SecretStr("schlüssel\u2603"), **overrides})
    async with (
        served(create_app(unchecked)) as url,
        httpx2.AsyncClient(base_url=url, timeout=30, trust_env=False) as client,
    ):
        yield client


async def test_an_unexpected_error_is_a_500_without_details_and_a_log_line_with_its_source(
    settings: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    """
    The exception's message contains the key, so it must not be logged.
    """
    async with broken(settings, cors_allow_origins=("*",)) as client:
        response = await client.post(
            "/generate-image", json={"prompt": PROMPT}, headers={"Origin": "https://a.example"}
        )

    assert response.status_code == 500
    assert response.json()["code"] == "internal"
    assert response.headers["access-control-allow-origin"] == "*"
    line = next(line for line in capfd.readouterr().err.splitlines() if "unexpected" in line)
    assert response.headers["x-request-id"] in line
    assert "UnicodeEncodeError" in line
    assert "client.py" in line
    assert "schlüssel" not in line


async def stream_of(client: httpx2.AsyncClient, **options: Any) -> list[dict[str, Any]]:
    """Return the data of all events of a stream."""
    response = await client.post(headers={"Accept": "text/event-stream"}, **options)
    assert response.status_code == 200
    return [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: ")]


@pytest.mark.parametrize("log_sensitive", [True, False])
async def test_an_unexpected_error_in_a_stream_is_logged_like_any_other(
    settings: Settings, capfd: pytest.CaptureFixture[str], log_sensitive: bool
) -> None:
    """
    Its message can quote a prompt and is logged only if `LOG_SENSITIVE` is set.
    """
    async with broken(settings, log_sensitive=log_sensitive) as client:
        *_, problem = await stream_of(client, url="/generate-image", json={"prompt": PROMPT})

    assert (problem["status"], problem["code"]) == (500, "internal")
    line = next(line for line in capfd.readouterr().err.splitlines() if "unexpected" in line)
    assert problem["requestId"] in line
    assert "client.py" in line
    assert ("UnicodeEncodeError (" in line) is log_sensitive


@pytest.mark.parametrize("log_sensitive", [True, False])
async def test_gemini_s_message_in_a_stream_is_logged_only_if_log_sensitive_is_set(
    serve: Serve, gemini: Emulator, capfd: pytest.CaptureFixture[str], log_sensitive: bool
) -> None:
    gemini.faults.append(Fault(status=400, message="Something only Google understands"))
    async with serve(log_sensitive=log_sensitive) as client:
        await stream_of(client, url="/generate-image", json={"prompt": "x"})

    assert ("Something only Google understands" in capfd.readouterr().err) is log_sensitive


async def test_a_turn_that_fails_after_its_caller_has_left_is_logged(
    serve: Serve, gemini: Emulator, capfd: pytest.CaptureFixture[str]
) -> None:
    """
    A chat's turn continues without its caller. Only the log can say why it failed.
    """
    gemini.faults.append(Fault(status=400, delay_seconds=0.3, message="Something only Google understands"))
    async with serve(log_sensitive=True) as client:
        url = (await client.post("/chats", json={})).json()["url"]
        leaving = asyncio.create_task(client.post(f"{url}/turns", json={"prompt": "x"}))
        await wait_for_calls(gemini)
        leaving.cancel()
        while (await client.get(url)).json()["lastTurn"] == 0:  # noqa: ASYNC110 - nothing else tells
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.05)

    [line] = [line for line in capfd.readouterr().err.splitlines() if "problem invalid_request" in line]
    assert "Something only Google understands" in line
