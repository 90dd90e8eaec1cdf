"""The image as it is, run as a platform would, and put through its paces."""

import asyncio
import base64
import hashlib
import time
from collections.abc import Callable
from typing import Any

import httpx2

from tests.conftest import noise
from tests.containers.engine import Containers, up
from tests.storages import free_port

HARDENED = ["--read-only", "--cap-drop=ALL", "--security-opt", "no-new-privileges", "--memory", "512m"]
SLOW_SECONDS = 4
IMAGE_BYTES = 8_000_000
AT_ONCE = 16


async def order(gemini: httpx2.AsyncClient, **fault: Any) -> None:
    (await gemini.post("/emulator/faults", json=fault)).raise_for_status()


async def small_things(containers: Containers, service: httpx2.AsyncClient) -> None:
    """Health as the platform asks for it, an image, a chat, nothing to install with, nobody's rights."""
    await containers.podman("healthcheck", "run", "service")
    image = await service.post("/generate-image", json={"prompt": "A lighthouse", "imageSize": "1K"})
    assert image.is_success, image.text
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


async def many_large_images(service: httpx2.AsyncClient, gemini: httpx2.AsyncClient) -> None:
    """Sixteen at once of eight megabytes each, in 512 MB."""
    sent = noise(1, IMAGE_BYTES)
    await order(gemini, times=AT_ONCE, delay_seconds=1, image_base64=base64.b64encode(sent).decode())

    async def ask() -> bytes:
        response = await service.post("/generate-image", json={"prompt": "x"}, headers={"Accept": "image/*"})
        assert response.is_success, response.text
        return hashlib.sha256(response.content).digest()

    assert set(await asyncio.gather(*(ask() for _ in range(AT_ONCE)))) == {hashlib.sha256(sent).digest()}


async def an_end_in_good_order(containers: Containers, service: httpx2.AsyncClient, gemini: httpx2.AsyncClient) -> None:
    """SIGTERM with an image in flight: it is delivered, and the exit code is 0."""
    await order(gemini, delay_seconds=SLOW_SECONDS)
    asking = asyncio.create_task(service.post("/generate-image", json={"prompt": "A slow one", "imageSize": "1K"}))
    await asyncio.sleep(1)
    began = time.monotonic()
    await containers.podman("stop", "-t", "60", "service")
    took = time.monotonic() - began
    assert (await asking).is_success
    code = await containers.podman("inspect", "service", "--format", "{{.State.ExitCode}} {{.State.OOMKilled}}")
    assert code == "0 false", code
    assert took < SLOW_SECONDS + 5, took


async def try_image(containers: Containers, passed: Callable[[str], None]) -> None:
    """Two containers: the service, hardened and in 512 MB, and the emulator that it takes for Gemini."""
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
        await up(gemini, "/emulator/faults")
        await up(service, "/readyz")
        passed("two containers run, the service hardened and in 512 MB")
        await small_things(containers, service)
        passed("health, an image, a chat, the doctor")
        await many_large_images(service, gemini)
        passed(f"{AT_ONCE} images of {IMAGE_BYTES / 1e6:.0f} MB at once")
        await an_end_in_good_order(containers, service, gemini)
        passed("stopped in good order, with an image in flight")
