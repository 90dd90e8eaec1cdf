"""Test deploy/kubernetes/overlays/demo: podman runs the manifests that kustomize renders."""

from collections.abc import Callable

import httpx2

from tests.containers.compose import check_demo
from tests.containers.engine import ROOT, Containers, run, wait_until_up

OVERLAY = ROOT / "deploy" / "kubernetes" / "overlays" / "demo"


async def check_kubernetes(containers: Containers, passed: Callable[[str], None]) -> None:
    rendered = containers.folder / "demo.yaml"
    rendered.write_text(await run("kubectl", "kustomize", OVERLAY))
    await containers.podman("network", "create", "kubernetes")
    await containers.podman("kube", "play", "--network", "kubernetes", str(rendered))
    pod = "gemini-images-pod-0"
    try:
        infra = await containers.podman("pod", "inspect", "--format", "{{.InfraContainerID}}", pod)
        address = await containers.address(infra)
        async with httpx2.AsyncClient(base_url=f"http://{address}:8000", timeout=60, trust_env=False) as client:
            await wait_until_up(client, "/readyz")
            await check_demo(client)
    except BaseException:
        print(await containers.podman("pod", "logs", pod, check=False))
        raise
    finally:
        await containers.podman("kube", "down", str(rendered), check=False)
    passed("the Kubernetes demo generates images")
