"""The Next.js route of docs/frontends.md, unchanged: on Node, and in Next.js itself (`make test-install`)."""

import asyncio
import os
import re
import signal
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import httpx2
import pytest

from app.emulator import Emulator, Fault
from tests.conftest import Serve, soon, wait_for_calls
from tests.programs import require
from tests.storages import free_port
from tests.test_caller_disconnects import ASK

ROOT = Path(__file__).parent.parent
KEY = "a-key-of-the-frontend"

NEXT = (
    '{"private": true, "type": "module", "dependencies": {"next": "16.4.6", "react": "19.3.1", "react-dom": "19.3.1"}}'
)


def route() -> str:
    """Return the code of the documented route."""
    found = re.search(
        r"```js\n(// app/api/generate/route\.js\n.*?)```", (ROOT / "docs/frontends.md").read_text(), re.DOTALL
    )
    assert found
    return found[1]


class Frontend(Protocol):
    def __call__(self, images_url: str) -> AbstractAsyncContextManager[httpx2.AsyncClient]:
        """Start a frontend whose route forwards to the service at `images_url`; return a client of the frontend."""
        ...


@asynccontextmanager
async def running(folder: Path, images_url: str, *command: str | Path) -> AsyncGenerator[asyncio.subprocess.Process]:
    environment = {"IMAGES_URL": images_url, "IMAGES_KEY": KEY, "PATH": os.environ["PATH"], "HOME": str(folder)}
    started = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        env=environment | {"NEXT_TELEMETRY_DISABLED": "1"},
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield started
    finally:
        with suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)  # Next.js has processes of its own
        await started.communicate()


@asynccontextmanager
async def on_node(folder: Path, images_url: str) -> AsyncGenerator[str]:
    (folder / "route.mjs").write_text(route())
    node = require("node", "nodejs")
    async with running(folder, images_url, node, ROOT / "tests/route_server.mjs", folder / "route.mjs") as started:
        assert started.stdout
        yield (await started.stdout.readline()).decode().strip()


@pytest.fixture(scope="session")
def next_app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a Next.js application that has only the documented route."""
    folder = tmp_path_factory.mktemp("next")
    (folder / "package.json").write_text(NEXT)
    (folder / "app/api/generate").mkdir(parents=True)
    (folder / "app/api/generate/route.js").write_text(route())
    return folder


@asynccontextmanager
async def on_next(folder: Path, images_url: str) -> AsyncGenerator[str]:
    require("npm", "npm")
    if not (folder / ".next/BUILD_ID").exists():
        for command in (
            ("npm", "install", "--omit=dev", "--no-package-lock", "--no-audit", "--no-fund", "--silent"),
            ("node_modules/.bin/next", "build"),
        ):
            made = await asyncio.create_subprocess_exec(*command, cwd=folder, stdout=asyncio.subprocess.DEVNULL)
            assert await made.wait() == 0, command
    port = free_port()
    start = ("node_modules/.bin/next", "start", "-H", "127.0.0.1", "-p", str(port))
    async with running(folder, images_url, *start) as started:
        assert started.stdout
        while b"Ready" not in (line := await started.stdout.readline()):
            assert line, "Next.js does not start"
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(params=["node", pytest.param("next", marks=pytest.mark.install)])
def frontend(request: pytest.FixtureRequest, tmp_path: Path) -> Frontend:
    folder = request.getfixturevalue("next_app") if request.param == "next" else tmp_path
    served = on_next if request.param == "next" else on_node

    @asynccontextmanager
    async def start(images_url: str) -> AsyncGenerator[httpx2.AsyncClient]:
        async with (
            served(folder, images_url) as url,
            httpx2.AsyncClient(base_url=url, timeout=30, trust_env=False) as client,
        ):
            yield client

    return start


async def test_the_route_forwards_the_request_and_the_response(
    serve: Serve, gemini: Emulator, frontend: Frontend
) -> None:
    """
    Bytes, JSON and events, problems with their status and headers, and the page's time limit.
    """
    async with serve(service_api_keys=f"web:{KEY}") as service, frontend(str(service.base_url)) as page:
        image = await page.post("/api/generate", json=ASK, headers={"Accept": "image/*"})
        document = await page.post("/api/generate", json=ASK)
        events = await page.post("/api/generate", json=ASK, headers={"Accept": "text/event-stream"})
        details: list[dict[str, Any]] = [{"violations": [{"quotaId": "RequestsPerDay"}]}, {"retryDelay": "3600s"}]
        gemini.faults.append(Fault(status=429, message="You exceeded your current quota", details=details))
        quota = await page.post("/api/generate", json=ASK)
        gemini.faults.append(Fault(delay_seconds=20))
        late = await page.post("/api/generate", json=ASK, headers={"X-Timeout-Seconds": "0.5"})
        wrong = await page.post("/api/generate", content=b"{", headers={"Content-Type": "application/json"})

    assert image.headers["content-type"] == "image/jpeg"
    assert image.content.startswith(b"\xff\xd8")
    assert image.headers["x-model"]
    assert document.json()["image"]["url"].startswith("data:image/jpeg")
    assert events.headers["content-type"].startswith("text/event-stream")
    assert "event: done" in events.text
    assert (quota.status_code, quota.json()["code"]) == (429, "quota_exhausted")
    assert quota.headers["retry-after"] == "3600"
    assert quota.headers["content-type"] == "application/problem+json"
    assert (late.status_code, late.json()["code"]) == (504, "upstream_timeout")
    assert (wrong.status_code, wrong.json()["code"]) == (400, "invalid_json")


@pytest.mark.parametrize("fault", [Fault(delay_seconds=20), Fault(stall_seconds=20)])
async def test_closing_the_page_cancels_the_generation(
    serve: Serve, gemini: Emulator, frontend: Frontend, fault: Fault
) -> None:
    """
    The call to Gemini is cancelled before Gemini's response begins, and in the middle of it.
    """
    gemini.faults.append(fault)
    async with (
        serve(service_api_keys=f"web:{KEY}", metrics_access="open") as service,
        frontend(str(service.base_url)) as page,
    ):
        asking = asyncio.create_task(page.post("/api/generate", json=ASK))
        await wait_for_calls(gemini)
        assert await soon(service, "gemini_images_in_flight", 1)
        asking.cancel()

        assert await soon(service, "gemini_images_in_flight", 0, seconds=10)
    assert len(gemini.calls) == 1


async def test_a_service_that_is_down_becomes_a_problem_document(frontend: Frontend) -> None:
    async with frontend(f"http://127.0.0.1:{free_port()}") as page:
        answer = await page.post("/api/generate", json=ASK)

    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["error"] == answer.json()["detail"]
    assert answer.headers["x-should-retry"] == "true"
