"""deploy/kubernetes/overlays/demo, as kustomize renders it, run by podman in a network of its own."""

from collections.abc import Callable

import httpx2

from tests.containers.compose import a_demo_draws
from tests.containers.engine import ROOT, Containers, run, up

OVERLAY = ROOT / "deploy" / "kubernetes" / "overlays" / "demo"


async def try_kubernetes(containers: Containers, passed: Callable[[str], None]) -> None:
    rendered = containers.folder / "demo.yaml"
    rendered.write_text(await run("kubectl", "kustomize", OVERLAY))
    await containers.podman("network", "create", "kubernetes")
    await containers.podman("kube", "play", "--network", "kubernetes", str(rendered))
    pod = "gemini-images-pod-0"
    try:
        infra = await containers.podman("pod", "inspect", "--format", "{{.InfraContainerID}}", pod)
        address = await containers.address(infra)
        async with httpx2.AsyncClient(base_url=f"http://{address}:8000", timeout=60, trust_env=False) as client:
            await up(client, "/readyz")
            await a_demo_draws(client)
    except BaseException:
        print(await containers.podman("pod", "logs", pod, check=False))
        raise
    finally:
        await containers.podman("kube", "down", str(rendered), check=False)
    passed("the demo overlay draws")
