"""Test the image, run as a platform runs it."""

import asyncio
import base64
import hashlib
import time
from collections.abc import Callable
from typing import Any

import httpx2

from tests.conftest import noise_jpeg
from tests.containers.engine import Containers, wait_until_up
from tests.storages import free_port

HARDENED = ["--read-only", "--cap-drop=ALL", "--security-opt", "no-new-privileges", "--memory", "512m"]
SLOW_SECONDS = 4
IMAGE_BYTES = 8_000_000
CONCURRENT_IMAGES = 16


async def add_fault(gemini: httpx2.AsyncClient, **fault: Any) -> None:
    (await gemini.post("/emulator/faults", json=fault)).raise_for_status()


async def check_basics(containers: Containers, service: httpx2.AsyncClient) -> None:
    """Check the health check, an image, a chat, the user, the doctor, and that no pip or compiler is installed."""
    await containers.podman("healthcheck", "run", "service")
    image = await service.post("/generate-image", json={"prompt": "A lighthouse", "imageSize": "1K"})
    assert image.is_success, image.text
    playground = await service.get("/web/main.js")
    assert playground.is_success, playground.text
    chat = (await service.post("/chats", json={"prompt": "A cat", "imageSize": "1K"})).headers["location"]
    turn = await service.post(f"{chat}/turns", json={"prompt": "Blue, please"})
    assert turn.json()["turn"] == 2, turn.text
    inside = (
        "import importlib.util as i, os, shutil; "
        "print(os.getuid(), i.find_spec('pip'), i.find_spec('ensurepip'), *map(shutil.which, ('pip', 'gcc', 'cc')))"
    )
    found = await containers.podman("exec", "service", "python", "-c", inside)
    assert found == "10001 None None None None None", found
    doctor = await containers.podman("exec", "service", "python", "-m", "app", "doctor")
    assert "FAILURE" not in doctor, doctor


async def check_large_images(service: httpx2.AsyncClient, gemini: httpx2.AsyncClient) -> None:
    """Check 16 concurrent images of 8 MB each, in 512 MB of memory."""
    expected = noise_jpeg(1, IMAGE_BYTES)
    await add_fault(gemini, times=CONCURRENT_IMAGES, delay_seconds=1, image_base64=base64.b64encode(expected).decode())

    async def request_image() -> bytes:
        response = await service.post("/generate-image", json={"prompt": "x"}, headers={"Accept": "image/*"})
        assert response.is_success, response.text
        return hashlib.sha256(response.content).digest()

    assert set(await asyncio.gather(*(request_image() for _ in range(CONCURRENT_IMAGES)))) == {
        hashlib.sha256(expected).digest()
    }


async def check_shutdown(containers: Containers, service: httpx2.AsyncClient, gemini: httpx2.AsyncClient) -> None:
    """Check that a generation in flight is delivered after SIGTERM, and that the exit code is 0."""
    await add_fault(gemini, delay_seconds=SLOW_SECONDS)
    response = asyncio.create_task(service.post("/generate-image", json={"prompt": "A slow one", "imageSize": "1K"}))
    await asyncio.sleep(1)
    began = time.monotonic()
    await containers.podman("stop", "-t", "60", "service")
    seconds = time.monotonic() - began
    assert (await response).is_success
    code = await containers.podman("inspect", "service", "--format", "{{.State.ExitCode}} {{.State.OOMKilled}}")
    assert code == "0 false", code
    assert seconds < SLOW_SECONDS + 5, seconds


async def check_image(containers: Containers, passed: Callable[[str], None]) -> None:
    """Check two containers: the service, hardened and with 512 MB of memory, and the emulator in place of Gemini."""
    ports = free_port(), free_port()
    environment = {
        "GEMINI_API_KEY": "any",
        "GOOGLE_GEMINI_BASE_URL": f"http://127.0.0.1:{ports[0]}",
        "HOST": "127.0.0.1",
        "PORT": str(ports[1]),
        "MAX_BUFFERED_BYTES": "300000000",
    }
    options = [*HARDENED, "--tmpfs", "/tmp", "--tmpfs", "/data:U"]
    options += [part for name, value in environment.items() for part in ("-e", f"{name}={value}")]
    async with (
        containers.running("gemini", "app.emulator", "--port", str(ports[0])),
        httpx2.AsyncClient(base_url=f"http://127.0.0.1:{ports[0]}", timeout=60, trust_env=False) as gemini,
        containers.running("service", options=tuple(options)),
        httpx2.AsyncClient(base_url=f"http://127.0.0.1:{ports[1]}", timeout=60, trust_env=False) as service,
    ):
        await wait_until_up(gemini, "/emulator/faults")
        await wait_until_up(service, "/readyz")
        passed("the service runs, hardened and with 512 MB of memory")
        await check_basics(containers, service)
        passed("health check, image, chat and doctor")
        await check_large_images(service, gemini)
        passed(f"{CONCURRENT_IMAGES} concurrent images of {IMAGE_BYTES / 1e6:.0f} MB")
        await check_shutdown(containers, service, gemini)
        passed("stopped with a generation in flight, which was delivered")
