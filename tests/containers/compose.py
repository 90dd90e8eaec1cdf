"""deploy/compose.yaml, started by Compose on podman: all of it but Grafana, with Gemini emulated.

Where others' images cannot be had, Debian's packages stand in for them: Caddy, PostgreSQL, Prometheus as they are,
moto for the S3 store (stand_ins/).
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

from tests.containers.engine import ROOT, Containers, packages, run, up
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
"""A fifth of a gigabyte that a small database does not use."""

_PLUGIN = "usr/libexec/docker/cli-plugins/docker-compose"


async def stand_ins(containers: Containers) -> None:
    """Make the images that compose.yaml names and does not build."""
    context = containers.folder / "stand-ins"
    shutil.copytree(Path(__file__).parent / "stand_ins", context)
    await packages(
        context / "packages.tar", "python3,python3-venv,ca-certificates,caddy,postgresql,prometheus", _WITHOUT_JIT
    )
    services = yaml.safe_load(FILE.read_text())["services"]
    for name in STAND_INS:
        image = services[name]["image"]
        tag = f"docker.io/{image if '/' in image else f'library/{image}'}"
        options = ("--layers", "--target", name, "--build-arg", f"MOTO={version('moto')}")
        await containers.build(context, tag, *options)


class Compose:
    """`docker compose` for our file."""

    def __init__(self, program: Path, folder: Path, docker_host: str, ports: tuple[int, int]) -> None:
        """
        Args:
            program: Compose.
            folder: where files may be put.
            docker_host: whom it tells what to run.
            ports: of the proxy, and of the demo.
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
    """Compose: Docker's plugin where it is installed, else Debian's."""
    installed = Path("/") / _PLUGIN
    if installed.exists():
        return installed
    await packages(folder / "compose.tar", "docker-compose", variant="extract")
    await run("tar", "xf", folder / "compose.tar", "-C", folder, f"./{_PLUGIN}")
    return folder / _PLUGIN


@asynccontextmanager
async def _checked(containers: Containers, services: Sequence[str]) -> AsyncGenerator[None]:
    """Podman has health checks run by systemd, which containers and small machines do not have."""

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


async def an_image_a_chat_and_no_metrics(client: httpx2.AsyncClient) -> None:
    assert (await client.get("/chats", headers={"X-API-Key": "another"})).status_code == 401
    image = await client.post("/generate-image", json={"prompt": "A lighthouse", "imageSize": "1K"})
    assert image.is_success, image.text
    chat = (await client.post("/chats", json={"prompt": "A cat", "imageSize": "1K"})).headers["location"]
    for number in range(2, 6):
        turn = await client.post(f"{chat}/turns", json={"prompt": f"Now in colour {number}"})
        assert turn.json().get("turn") == number, turn.text
        assert turn.json()["warnings"] == []
        drawn = await client.get(f"{chat}/turns/{number}/image")
        assert drawn.headers["content-type"].startswith("image/"), drawn.text
    assert (await client.get("/metrics")).status_code == 404, "the proxy lets metrics out"


async def both_replicas_are_watched(containers: Containers) -> None:
    """Prometheus finds them, and has read the rules."""
    address = await containers.address("gemini-images-prometheus-1")
    async with httpx2.AsyncClient(base_url=f"http://{address}:9090/api/v1", trust_env=False) as prometheus:
        rules = (await prometheus.get("/rules")).json()["data"]["groups"]
        assert sum(len(group["rules"]) for group in rules) > 10, rules
        for _ in range(60):
            targets = (await prometheus.get("/targets")).json()["data"]["activeTargets"]
            if [target["health"] for target in targets] == ["up", "up"]:
                return
            await asyncio.sleep(1)
        raise SystemExit(f"Prometheus does not see both replicas: {targets}")


async def replicas_are_replaced(compose: Compose, client: httpx2.AsyncClient) -> int:
    """As deploy/README.md tells, while four callers ask for one image after the other; how many those were."""
    made = 0
    replaced = asyncio.Event()

    async def ask() -> None:
        nonlocal made
        while not replaced.is_set():
            image = await client.post("/generate-image", json={"prompt": "A lighthouse", "imageSize": "1K"})
            assert image.is_success, (image.status_code, image.headers, image.text)
            made += 1

    async def replace() -> None:
        for replica in REPLICAS:
            await compose(*START, "--no-deps", "--wait", "--force-recreate", replica)
        replaced.set()

    await asyncio.gather(replace(), *(ask() for _ in range(4)))
    return made


async def try_compose(containers: Containers, passed: Callable[[str], None]) -> None:
    ports = free_port(), free_port()
    program = await _program(containers.folder)
    async with containers.served() as docker_host:
        compose = Compose(program, containers.folder, docker_host, ports)
        headers = {"X-API-Key": KEY}
        try:
            async with (
                _checked(containers, ["postgres", *REPLICAS]),
                httpx2.AsyncClient(
                    base_url=f"http://127.0.0.1:{ports[0]}", headers=headers, timeout=60, trust_env=False
                ) as client,
            ):
                await compose(*START, "gemini", *REPLICAS, *STAND_INS)
                await up(client, "/readyz")
                passed("compose.yaml is up: two replicas, Caddy, PostgreSQL, S3, Prometheus")
                await an_image_a_chat_and_no_metrics(client)
                await both_replicas_are_watched(containers)
                passed("an image, a chat of five turns, both replicas watched")
                made = await replicas_are_replaced(compose, client)
                passed(f"one replica replaced after the other, {made} images meanwhile, none failed")
            async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{ports[1]}", timeout=60, trust_env=False) as demo:
                await compose("--profile", "demo", *START, "demo")
                await up(demo, "/readyz")
                await a_demo_draws(demo)
                passed("its demo draws")
        except BaseException:
            print(await compose("logs", "--tail", "20"))
            raise
        finally:
            await compose("--profile", "demo", "down", "-v", "-t", "1")


async def a_demo_draws(client: httpx2.AsyncClient) -> None:
    image: dict[str, Any] = (await client.post("/generate-image", json={"prompt": "A lighthouse"})).json()
    assert image["image"]["mimeType"] == "image/jpeg", image
    chat = (await client.post("/chats", json={"prompt": "A cat", "imageSize": "1K"})).headers["location"]
    turn = await client.post(f"{chat}/turns", json={"prompt": "Blue, please"})
    assert turn.json().get("turn") == 2, turn.text
