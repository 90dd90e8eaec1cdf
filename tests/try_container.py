"""`make container`: the image built from the Dockerfile as it is, run as a platform would, and put through its paces.

Needs root and Debian's buildah, podman and runc. Where the base image cannot be had from Docker Hub, one with the same
Python is made from Debian's packages by mmdebstrap. Everything lives in one folder, and goes with it.
"""

import asyncio
import base64
import hashlib
import json
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2

from tests.conftest import noise
from tests.storages import free_port

ROOT = Path(__file__).parent.parent
BASE = "docker.io/library/python:3.13-slim"
IMAGE = "localhost/gemini-images:tried"
HARDENED = ["--read-only", "--cap-drop=ALL", "--security-opt", "no-new-privileges", "--memory", "512m"]
SLOW_SECONDS = 4
IMAGE_BYTES = 8_000_000
AT_ONCE = 16

_CONTAINERS_CONF = """\
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=4096:4096"]
netns = "host"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""


class Containers:
    """buildah and podman, with everything they keep in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "containers.conf").write_text(_CONTAINERS_CONF)
        self._options = ["--root", str(folder / "s"), "--runroot", str(folder / "r"), "--storage-driver", "overlay"]
        self._environment = {
            "CONTAINERS_CONF": str(folder / "containers.conf"),
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        }

    async def run(self, program: str, *arguments: str, check: bool = True) -> str:
        running = await asyncio.create_subprocess_exec(
            program, *self._options, *arguments,
            env=self._environment, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        output, errors = await running.communicate()
        if check and running.returncode:
            raise SystemExit(f"{program} {' '.join(arguments)}\n{errors.decode()[-3000:]}")
        return output.decode().strip()

    async def base(self) -> None:
        """Have the base image: Docker Hub's, or one of the same Python."""
        if await self.run("buildah", "pull", "-q", BASE, check=False):
            return
        context = self._folder / "base"
        context.mkdir()
        packages = "python3,python3-venv,ca-certificates"
        making = await asyncio.create_subprocess_exec(
            "mmdebstrap", "-q", "--variant=minbase", f"--include={packages}", "trixie", str(context / "base.tar")
        )
        assert await making.wait() == 0
        (context / "Dockerfile").write_text(
            'FROM scratch\nADD base.tar /\nRUN ln -s /usr/bin/python3 /usr/local/bin/python\nCMD ["python3"]\n'
        )
        await self.run("buildah", "bud", "-q", "--isolation", "chroot", "-t", BASE, str(context))

    async def build(self) -> None:
        authorities = Path("/etc/ssl/certs/ca-certificates.crt")
        volumes = ["--volume", f"{authorities}:{authorities}:ro"] if authorities.exists() else []
        await self.run(
            "buildah", "bud", "-q", "--pull-never", "--isolation", "chroot", "--network", "host",
            "--format", "docker", *volumes, "-t", IMAGE, ".",
        )  # fmt: skip

    @asynccontextmanager
    async def running(self, name: str, *arguments: str, options: tuple[str, ...] = ()) -> AsyncGenerator[None]:
        await self.run("podman", "run", "-d", "--name", name, *options, IMAGE, *arguments)
        try:
            yield
        except BaseException:
            print(await self.run("podman", "logs", "--tail", "40", name, check=False))
            raise
        finally:
            await self.run("podman", "rm", "-f", "-t", "0", name, check=False)

    async def size(self) -> int:
        """Bytes of the image beyond its base."""
        about = [json.loads(await self.run("podman", "image", "inspect", one))[0]["Size"] for one in (IMAGE, BASE)]
        return int(about[0] - about[1])


async def up(client: httpx2.AsyncClient, path: str) -> None:
    for _ in range(300):
        try:
            if (await client.get(path)).is_success:
                return
        except httpx2.TransportError:
            pass
        await asyncio.sleep(0.1)
    raise SystemExit(f"{client.base_url}{path} does not answer")


async def order(gemini: httpx2.AsyncClient, **fault: Any) -> None:
    (await gemini.post("/emulator/faults", json=fault)).raise_for_status()


async def small_things(containers: Containers, service: httpx2.AsyncClient) -> None:
    """Health as the platform asks for it, an image, a chat, nothing to install with, nobody's rights."""
    await containers.run("podman", "healthcheck", "run", "service")
    image = await service.post("/generate-image", json={"prompt": "A lighthouse", "imageSize": "1K"})
    assert image.is_success, image.text
    chat = (await service.post("/chats", json={"prompt": "A cat", "imageSize": "1K"})).headers["location"]
    turn = await service.post(f"{chat}/turns", json={"prompt": "Blue, please"})
    assert turn.json()["turn"] == 2, turn.text
    inside = (
        "import importlib.util as i, os, shutil; "
        "print(os.getuid(), i.find_spec('pip'), i.find_spec('ensurepip'), *map(shutil.which, ('pip', 'gcc', 'cc')))"
    )
    found = await containers.run("podman", "exec", "service", "python", "-c", inside)
    assert found == "10001 None None None None None", found
    doctor = await containers.run("podman", "exec", "service", "python", "-m", "app.doctor")
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
    await containers.run("podman", "stop", "-t", "60", "service")
    took = time.monotonic() - began
    assert (await asking).is_success
    code = await containers.run("podman", "inspect", "service", "--format", "{{.State.ExitCode}} {{.State.OOMKilled}}")
    assert code == "0 false", code
    assert took < SLOW_SECONDS + 5, took


async def try_out(folder: Path) -> None:
    containers = Containers(folder)
    began = time.monotonic()

    def passed(what: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {what}", flush=True)

    await containers.base()
    passed("there is a base image")
    await containers.build()
    passed(f"the image is built; {await containers.size() / 1e6:.0f} MB beyond its base")
    ports = free_port(), free_port()
    environment = {
        "GEMINI_API_KEY": "any",
        "GOOGLE_GEMINI_BASE_URL": f"http://127.0.0.1:{ports[0]}",
        "HOST": "127.0.0.1",
        "PORT": str(ports[1]),
        "MAX_HELD_BYTES": "300000000",
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


def main() -> None:
    missing = [program for program in ("buildah", "podman", "runc", "mmdebstrap") if not shutil.which(program)]
    if missing:
        sys.exit(f"Install {', '.join(missing)} (Debian's packages of these names).")
    with tempfile.TemporaryDirectory(prefix="gemini-images-", ignore_cleanup_errors=True) as folder:
        asyncio.run(try_out(Path(folder)))


if __name__ == "__main__":
    main()
