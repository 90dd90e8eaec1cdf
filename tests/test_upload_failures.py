"""Failures of the service while it reads a body are not reported as the caller's error, and the log names the cause."""

import logging
import resource
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.http import problems
from app.emulator import Emulator, served
from tests.conftest import noise_jpeg
from tests.processes import process

LARGE = noise_jpeg(1, 10 * 1024 * 1024)


async def upload(client: httpx2.AsyncClient, image: bytes = LARGE) -> httpx2.Response:
    return await client.post(
        "/generate-image/with-references", data={"prompt": "x"}, files=[("images", ("a.jpg", image))]
    )


@pytest.mark.parametrize("fault", ["full", pytest.param("gone", marks=pytest.mark.slow)])
async def test_a_full_temporary_folder_is_an_error_of_the_service(
    gemini: Emulator, gemini_url: str, tmp_path: Path, fault: str
) -> None:
    """
    Files above 8 MiB are written to it. (A limit on file sizes simulates the full disk.)
    """
    folder = tmp_path / "uploads"
    folder.mkdir()
    async with process(gemini_url, tmpdir=folder) as (started, url):
        if fault == "full":
            resource.prlimit(started.pid, resource.RLIMIT_FSIZE, (1024 * 1024, 1024 * 1024))
        else:
            folder.rmdir()
        async with httpx2.AsyncClient(base_url=url, timeout=30, trust_env=False) as client:
            failed = await upload(client)
        async with httpx2.AsyncClient(base_url=url, timeout=30, trust_env=False) as client:
            small = await upload(client, noise_jpeg(2, 1000))
            metrics = (await client.get("/metrics")).text

    problem = failed.json()
    expected = (507, "storage_full") if fault == "full" else (503, "storage_unavailable")
    assert (failed.status_code, problem["code"], problem["part"]) == (*expected, "uploads"), failed.text
    assert str(tmp_path) not in failed.text
    assert failed.headers["retry-after"]
    assert small.status_code == 200
    assert f'gemini_images_rejections_total{{code="{problem["code"]}"}} 1.0' in metrics
    assert len(gemini.calls) == 1


class BrokenReceive:
    """Fail while a body is read, like a bug in the service."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def broken() -> Message:
            raise KeyError("a secret prompt")

        await self.app(scope, broken, send)


@pytest.mark.parametrize("type_", ["application/json", "multipart/form-data; boundary=x"])
async def test_a_bug_while_a_body_is_read_is_a_logged_500(type_: str, caplog: pytest.LogCaptureFixture) -> None:
    app = FastAPI()
    problems.install(app, problems.Reporter(log_sensitive=False))
    app.add_middleware(BrokenReceive)

    @app.post("/")
    async def read(body: dict[str, Any]) -> None: ...

    with caplog.at_level(logging.ERROR, logger="app.api.http.problems"):
        async with served(app) as url, httpx2.AsyncClient(base_url=url, trust_env=False) as client:
            response = await client.post("/", content=b"{}", headers={"Content-Type": type_})

    assert (response.status_code, response.json()["code"]) == (500, "internal")
    assert "KeyError at" in caplog.text
    assert "test_upload_failures.py" in caplog.text
    assert "secret" not in caplog.text + response.text


@pytest.mark.parametrize(
    "body",
    [b"{", b"", b'{"prompt": "\xff"}', b"[" * 100_000, b'{"prompt": "x", "seed": ' + b"9" * 5_000 + b"}", b"\xff\xfe{"],
)
async def test_json_that_cannot_be_decoded_is_an_error_of_the_caller(client: httpx2.AsyncClient, body: bytes) -> None:
    response = await client.post("/generate-image", content=body, headers={"Content-Type": "application/json"})

    assert (response.status_code, response.json()["code"]) == (400, "invalid_json")
