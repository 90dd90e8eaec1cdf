"""Rolling restarts of two replicas behind a real proxy, on PostgreSQL and S3, as in `deploy/compose.yaml`."""

import asyncio
import os
import random
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.emulator import Emulator, served
from tests.conftest import Serve, image_of
from tests.processes import process
from tests.programs import require
from tests.storages import S3_ENVIRONMENT, Postgres, free_port
from tests.test_chats import Chat, images_in

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.slow


@asynccontextmanager
async def caddy(*replicas: int) -> AsyncGenerator[str]:
    """Run the proxy of `deploy/compose` in front of these ports; yield its URL."""
    program = require("caddy", "caddy")
    port = free_port()
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": "/nonexistent",
        "LISTEN": f"http://127.0.0.1:{port}",
        "REPLICAS": " ".join(f"127.0.0.1:{one}" for one in replicas),
    }
    running = await asyncio.create_subprocess_exec(
        program, "run", "--adapter", "caddyfile", "--config", str(ROOT / "deploy" / "compose" / "Caddyfile"),
        env=environment, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            for _ in range(100):
                try:
                    if (await client.get("/readyz")).is_success:
                        break
                except httpx2.TransportError:
                    pass
                await asyncio.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        running.kill()
        await running.wait()


async def test_no_request_fails_while_both_replicas_restart(
    serve: Serve, tmp_path: Path, request: pytest.FixtureRequest, own_storage: dict[str, Any]
) -> None:
    """
    Twenty callers request single images, one continues a chat for ten turns, and one reads events, all without a pause.
    Each replica gets SIGTERM, exits with 0 and is started again. Every request succeeds after exactly one generation.
    """
    emulator = Emulator(delay_seconds=0.3, keep_calls=100_000)
    rng = random.Random(20261125)
    succeeded = 0
    async with served(emulator) as gemini_url:
        ports = free_port(), free_port()

        def replica(port: int) -> Any:
            return process(
                gemini_url,
                **own_storage,
                port=port,
                data_dir=tmp_path,
                shutdown_delay_seconds=2,
                allow_anonymous=True,  # only Caddy calls the replicas
            )

        running = [replica(port) for port in ports]
        services = [(await one.__aenter__())[0] for one in running]
        try:
            async with (
                caddy(*ports) as url,
                httpx2.AsyncClient(base_url=url, timeout=60, limits=httpx2.Limits(max_connections=None)) as client,
            ):
                done = asyncio.Event()

                async def request_images(number: int) -> None:
                    nonlocal succeeded
                    accept = "text/event-stream" if number == 0 else "image/*"
                    while not done.is_set():
                        body = {"prompt": f"Caller {number}", "imageSize": "1K"}
                        response = await client.post("/generate-image", json=body, headers={"Accept": accept})
                        assert response.is_success, response.text
                        assert number or "event: done" in response.text
                        succeeded += 1
                        await asyncio.sleep(rng.uniform(0, 0.1))

                async def request_turns() -> list[bytes]:
                    nonlocal succeeded
                    chat = Chat(client, (await client.post("/chats", json={"imageSize": "1K"})).headers["location"])
                    images = []
                    for number in range(10):
                        response = await chat.say(f"Turn {number}", afterTurn=number)
                        assert response.is_success, response.text
                        assert response.json()["warnings"] == []
                        images.append(image_of(response))
                        succeeded += 1
                        await asyncio.sleep(rng.uniform(0, 1))
                    return images

                callers = [asyncio.create_task(request_images(number)) for number in range(20)]
                chatting = asyncio.create_task(request_turns())
                await asyncio.sleep(1)
                exit_codes = []
                for which, port in enumerate(ports):
                    services[which].send_signal(signal.SIGTERM)
                    exit_codes.append(await asyncio.wait_for(services[which].wait(), 30))
                    await running[which].__aexit__(None, None, None)
                    running[which] = replica(port)
                    services[which] = (await running[which].__aenter__())[0]
                    await asyncio.sleep(1.5)
                images = await chatting
                done.set()
                await asyncio.gather(*callers)
        finally:
            for one in running:
                await one.__aexit__(None, None, None)

    print(f"\n{succeeded} images while two replicas were restarted")
    assert exit_codes == [0, 0]
    assert len(emulator.calls) == succeeded
    last = next(call for call in reversed(emulator.calls) if len(call.body["contents"]) == 19)
    sent_images = [images_in(content)[-1] for content in last.body["contents"] if content["role"] == "model"]
    assert sent_images == images[:-1]


@pytest.fixture
def own_storage(_postgres: Postgres, _s3: Any) -> dict[str, Any]:
    credentials = {name.lower(): value for name, value in S3_ENVIRONMENT.items()}
    return {
        "database_url": _postgres.database(), "blob_url": _s3.bucket(), "aws_endpoint_url": _s3.url, **credentials,
    }  # fmt: skip
