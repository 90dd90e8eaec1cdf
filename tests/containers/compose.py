"""Test deploy/compose.yaml with Compose on podman: all services except Grafana, and the emulator in place of Gemini.

Images made from Debian packages replace the images of other projects (stand_ins/): Caddy, PostgreSQL and Prometheus.
moto replaces the S3 store.
"""

import asyncio
import os
import shutil
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx2
import yaml  # type: ignore[import-untyped]

from tests.containers.engine import ROOT, Containers, make_file_system, run, wait_until_up
from tests.storages import free_port

FILE = ROOT / "deploy" / "compose.yaml"
REPLICAS = ["service-a", "service-b"]
STAND_INS = ["proxy", "postgres", "s3", "bucket", "prometheus"]
START = ("up", "-d", "--no-build", "--pull", "never")
KEY = "0123456789abcdef0123456789abcdef"

_OVERRIDE = """\
x-emulated: &emulated
  environment: {{GOOGLE_GEMINI_BASE_URL: "http://gemini:9000"}}
services:
  service-a: *emulated
  service-b: *emulated
  gemini:
    image: gemini-images:latest
    command: ["app.emulator", "--host", "0.0.0.0", "--port", "9000"]
    healthcheck: {{disable: true}}
    networks: [inside]
  demo:
    ports: !override ["127.0.0.1:{demo_port}:8000"]
"""

_WITHOUT_JIT = "--customize-hook=rm -f $1/usr/lib/*/libLLVM* $1/usr/lib/postgresql/*/lib/llvmjit.so"
"""Remove PostgreSQL's JIT compiler, about 200 MB, which a small database does not use."""

_PLUGIN = "usr/libexec/docker/cli-plugins/docker-compose"


async def build_stand_ins(containers: Containers) -> None:
    """Build replacements for the images that compose.yaml pulls."""
    context = containers.folder / "stand-ins"
    shutil.copytree(Path(__file__).parent / "stand_ins", context)
    await make_file_system(
        context / "packages.tar", "python3,python3-venv,ca-certificates,caddy,postgresql,prometheus", _WITHOUT_JIT
    )
    services = yaml.safe_load(FILE.read_text())["services"]
    for name in STAND_INS:
        image = services[name]["image"]
        tag = f"docker.io/{image if '/' in image else f'library/{image}'}"
        options = ("--layers", "--target", name, "--build-arg", f"MOTO={version('moto')}")
        await containers.build(context, tag, *options)


class Compose:
    """Runs `docker compose` with deploy/compose.yaml."""

    def __init__(self, program: Path, folder: Path, docker_host: str, ports: tuple[int, int]) -> None:
        """
        Args:
            program: path of Compose.
            folder: for temporary files.
            docker_host: address of the Docker API.
            ports: ports of the proxy and of the demo.
        """
        secrets = {"SERVICE_API_KEYS": f"team:{KEY}", "GEMINI_API_KEY": "any", "GRAFANA_PASSWORD": "any"}
        secrets |= {"POSTGRES_PASSWORD": "a-password", "S3_SECRET_KEY": "a-secret"}
        (folder / "env").write_text(
            "".join(f"{name}={value}\n" for name, value in secrets.items()) + f"PORT={ports[0]}\n"
        )
        (folder / "override.yaml").write_text(_OVERRIDE.format(demo_port=ports[1]))
        self._command: list[str | Path] = [
            program,
            "--env-file",
            folder / "env",
            "-f",
            FILE,
            "-f",
            folder / "override.yaml",
        ]
        self._environment = {"DOCKER_HOST": docker_host, "PATH": os.environ["PATH"], "HOME": str(folder)}

    async def __call__(self, *arguments: str) -> str:
        return await run(*self._command, *arguments, env=self._environment)


async def _program(folder: Path) -> Path:
    """Return the path of Compose: the installed Docker plugin, or the one from Debian's package."""
    installed = Path("/") / _PLUGIN
    if installed.exists():
        return installed
    await make_file_system(folder / "compose.tar", "docker-compose", variant="extract")
    await run("tar", "xf", folder / "compose.tar", "-C", folder, f"./{_PLUGIN}")
    return folder / _PLUGIN


@asynccontextmanager
async def _run_health_checks(containers: Containers, services: Sequence[str]) -> AsyncGenerator[None]:
    """Run the health checks every second. Podman uses systemd for this, which is not available in containers."""

    async def check() -> None:
        while True:
            for name in services:
                await containers.podman("healthcheck", "run", f"gemini-images-{name}-1", check=False)
            await asyncio.sleep(1)

    checking = asyncio.create_task(check())
    try:
        yield
    finally:
        checking.cancel()
        with suppress(asyncio.CancelledError):
            await checking


async def check_requests(client: httpx2.AsyncClient) -> None:
    assert (await client.get("/chats", headers={"X-API-Key": "another"})).status_code == 401
    image = await client.post("/generate-image", json={"prompt": "A lighthouse", "imageSize": "1K"})
    assert image.is_success, image.text
    chat = (await client.post("/chats", json={"prompt": "A cat", "imageSize": "1K"})).headers["location"]
    for number in range(2, 6):
        turn = await client.post(f"{chat}/turns", json={"prompt": f"Now in colour {number}"})
        assert turn.json().get("turn") == number, turn.text
        assert turn.json()["warnings"] == []
        stored = await client.get(f"{chat}/turns/{number}/image")
        assert stored.headers["content-type"].startswith("image/"), stored.text
    assert (await client.get("/metrics")).status_code == 404, "the proxy forwards /metrics"


async def check_prometheus(containers: Containers) -> None:
    """Check that Prometheus has loaded the rules and scrapes both replicas."""
    address = await containers.address("gemini-images-prometheus-1")
    async with httpx2.AsyncClient(base_url=f"http://{address}:9090/api/v1", trust_env=False) as prometheus:
        rules = (await prometheus.get("/rules")).json()["data"]["groups"]
        assert sum(len(group["rules"]) for group in rules) > 10, rules
        for _ in range(60):
            targets = (await prometheus.get("/targets")).json()["data"]["activeTargets"]
            if [target["health"] for target in targets] == ["up", "up"]:
                return
            await asyncio.sleep(1)
        raise SystemExit(f"Prometheus does not scrape both replicas: {targets}")


async def check_rolling_restart(compose: Compose, client: httpx2.AsyncClient) -> int:
    """Replace both replicas as in deploy/README.md while four callers request images. Return the number of images."""
    images = 0
    replaced = asyncio.Event()

    async def request_images() -> None:
        nonlocal images
        while not replaced.is_set():
            image = await client.post("/generate-image", json={"prompt": "A lighthouse", "imageSize": "1K"})
            assert image.is_success, (image.status_code, image.headers, image.text)
            images += 1

    async def replace() -> None:
        for replica in REPLICAS:
            await compose(*START, "--no-deps", "--wait", "--force-recreate", replica)
        replaced.set()

    await asyncio.gather(replace(), *(request_images() for _ in range(4)))
    return images


async def check_compose(containers: Containers, passed: Callable[[str], None]) -> None:
    ports = free_port(), free_port()
    program = await _program(containers.folder)
    async with containers.served() as docker_host:
        compose = Compose(program, containers.folder, docker_host, ports)
        headers = {"X-API-Key": KEY}
        try:
            async with (
                _run_health_checks(containers, ["postgres", *REPLICAS]),
                httpx2.AsyncClient(
                    base_url=f"http://127.0.0.1:{ports[0]}", headers=headers, timeout=60, trust_env=False
                ) as client,
            ):
                await compose(*START, "gemini", *REPLICAS, *STAND_INS)
                await wait_until_up(client, "/readyz")
                passed("compose.yaml runs: two replicas, Caddy, PostgreSQL, S3, Prometheus")
                await check_requests(client)
                await check_prometheus(containers)
                passed("an image, a chat of five turns, metrics of both replicas")
                images = await check_rolling_restart(compose, client)
                passed(f"both replicas replaced, {images} images meanwhile, none failed")
            async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{ports[1]}", timeout=60, trust_env=False) as demo:
                await compose("--profile", "demo", *START, "demo")
                await wait_until_up(demo, "/readyz")
                await check_demo(demo)
                passed("the demo generates images")
        except BaseException:
            print(await compose("logs", "--tail", "20"))
            raise
        finally:
            await compose("--profile", "demo", "down", "-v", "-t", "1")


async def check_demo(client: httpx2.AsyncClient) -> None:
    image: dict[str, Any] = (await client.post("/generate-image", json={"prompt": "A lighthouse"})).json()
    assert image["image"]["mimeType"] == "image/jpeg", image
    chat = (await client.post("/chats", json={"prompt": "A cat", "imageSize": "1K"})).headers["location"]
    turn = await client.post(f"{chat}/turns", json={"prompt": "Blue, please"})
    assert turn.json().get("turn") == 2, turn.text
