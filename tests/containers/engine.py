"""Run buildah and podman with all their files in one folder."""

import asyncio
import json
import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2

ROOT = Path(__file__).parent.parent.parent
BASE = "docker.io/library/python:3.13-slim"
IMAGE = "localhost/gemini-images:latest"

_CONTAINERS_CONF = """\
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=4096:4096"]
netns = "host"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
[network]
network_backend = "netavark"
network_config_dir = "{folder}/networks"
"""

_AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")


async def run(*command: str | Path, env: Mapping[str, str] | None = None, check: bool = True) -> str:
    """Run a command and return its output.

    Raises:
        SystemExit: the command failed; contains its error output.
    """
    running = await asyncio.create_subprocess_exec(
        *command, env=env, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, errors = await running.communicate()
    if check and running.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{errors.decode()[-3000:]}")
    return output.decode().strip()


class Containers:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "containers.conf").write_text(_CONTAINERS_CONF.format(folder=folder))
        self._options = ["--root", str(folder / "s"), "--runroot", str(folder / "r"), "--storage-driver", "overlay"]
        self._environment = {
            "CONTAINERS_CONF": str(folder / "containers.conf"),
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        }

    async def podman(self, *arguments: str, check: bool = True) -> str:
        return await run("podman", *self._options, *arguments, env=self._environment, check=check)

    async def _buildah(self, *arguments: str, check: bool = True) -> str:
        return await run("buildah", *self._options, *arguments, env=self._environment, check=check)

    async def ensure_base(self) -> None:
        """Pull the base image from Docker Hub, or make one with the same Python."""
        if await self._buildah("pull", "-q", BASE, check=False):
            return
        context = self.folder / "base"
        context.mkdir()
        await make_file_system(context / "base.tar", "python3,python3-venv,ca-certificates")
        (context / "Dockerfile").write_text(
            'FROM scratch\nADD base.tar /\nRUN ln -s /usr/bin/python3 /usr/local/bin/python\nCMD ["python3"]\n'
        )
        await self.build(context, BASE)

    async def build(self, context: Path, tag: str, *options: str) -> None:
        volumes = ["--volume", f"{_AUTHORITIES}:{_AUTHORITIES}:ro"] if _AUTHORITIES.exists() else []
        await self._buildah(
            "bud", "-q", "--pull-never", "--isolation", "chroot", "--network", "host", "--format", "docker",
            *volumes, *options, "-t", tag, str(context),
        )  # fmt: skip

    async def size(self) -> int:
        """Return the bytes of the image on top of its base image."""
        sizes = [json.loads(await self.podman("image", "inspect", one))[0]["Size"] for one in (IMAGE, BASE)]
        return int(sizes[0] - sizes[1])

    @asynccontextmanager
    async def running(self, name: str, *arguments: str, options: tuple[str, ...] = ()) -> AsyncGenerator[None]:
        await self.podman("run", "-d", "--name", name, *options, IMAGE, *arguments)
        try:
            yield
        except BaseException:
            print(await self.podman("logs", "--tail", "40", name, check=False))
            raise
        finally:
            await self.podman("rm", "-f", "-t", "0", name, check=False)

    @asynccontextmanager
    async def served(self) -> AsyncGenerator[str]:
        """Serve podman's Docker-compatible API. Yield its address."""
        socket = self.folder / "podman.sock"
        service = await asyncio.create_subprocess_exec(
            "podman", *self._options, "system", "service", "-t", "0", f"unix://{socket}",
            env=self._environment, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            while not socket.exists():
                assert service.returncode is None
                await asyncio.sleep(0.05)
            yield f"unix://{socket}"
        finally:
            service.terminate()
            await service.wait()

    async def address(self, container: str) -> str:
        """Return the container's IP address in its network."""
        form = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        return await self.podman("inspect", "--format", form, container)


async def make_file_system(tar: Path, names: str, *options: str, variant: str = "minbase") -> None:
    """Write a file system with the named Debian packages to `tar`."""
    environment = {"PATH": os.environ["PATH"]}
    await run(
        "mmdebstrap", "-q", f"--variant={variant}", f"--include={names}", *options, "trixie", tar, env=environment
    )


async def wait_until_up(client: httpx2.AsyncClient, path: str) -> None:
    for _ in range(300):
        try:
            if (await client.get(path)).is_success:
                return
        except httpx2.TransportError:
            pass
        await asyncio.sleep(0.1)
    raise SystemExit(f"{client.base_url}{path} did not succeed within 30 s")
