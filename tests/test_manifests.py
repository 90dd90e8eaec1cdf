"""The files in deploy/ agree with the service: its settings, its limits, the time it needs to stop."""

import importlib.util
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml  # type: ignore[import-untyped]

from app.api.http.paths import PROBE_PATHS
from app.server.settings_errors import env_names
from app.server.start_checks import require_startable
from app.settings import MIB, Settings
from tests.programs import require

DEPLOY = Path(__file__).parent.parent / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
FILES = sorted([*KUBERNETES.rglob("*.yaml"), *DEPLOY.glob("cloudrun/*.yaml")])
IDS = [str(file.relative_to(DEPLOY)) for file in FILES]

KUSTOMIZATIONS = ["base", "overlays/demo", "overlays/production"]
"""Folders of kustomize. The base is complete and is read directly; kubectl renders the overlays."""

PROCESS_BYTES = 150 * MIB
"""Memory of the process without images, as in deploy/README.md."""

LAST_RESPONSES_SECONDS = 40
"""Time after SHUTDOWN_GRACE_SECONDS to send the last responses, as in deploy/README.md."""

CLOUD_RUN_BODY_BYTES = 32 * MIB
CLOUD_RUN_SECONDS_AFTER_SIGTERM = 10

CALLERS = {"SERVICE_API_KEYS": "web:0123456789abcdef0123456789abcdef"}

SECRETS = {
    "GEMINI_API_KEY": "a-key",
    "ADMIN_API_KEY": "fedcba9876543210fedcba9876543210",
    "DATABASE_URL": "postgresql://user:password@host/name",
}

Document = dict[str, Any]


def documents(text: str) -> list[Document]:
    return [document for document in yaml.safe_load_all(text) if document]


def in_file(path: str) -> list[Document]:
    return documents((DEPLOY / path).read_text())


def kustomization(target: str) -> Document:
    return in_file(f"kubernetes/{target}/kustomization.yaml")[0]


def literals(target: str) -> dict[str, str]:
    """Return what the kustomization adds to the ConfigMap of its base."""
    own = [
        pair.split("=", 1)
        for generator in kustomization(target)["configMapGenerator"]
        for pair in generator["literals"]
    ]
    return ({} if target == "base" else literals("base")) | dict(own)


@cache
def rendered(target: str) -> list[Document]:
    kubectl = require("kubectl", "kubernetes-client")
    output = subprocess.run([kubectl, "kustomize", KUBERNETES / target], capture_output=True, text=True, timeout=60)
    assert output.returncode == 0, output.stderr
    return documents(output.stdout)


def objects(target: str) -> list[Document]:
    if target != "base":
        return rendered(target)
    return [each for file in kustomization(target)["resources"] for each in in_file(f"kubernetes/base/{file}")]


def named(target: str, kind: str) -> Document:
    (found,) = [each for each in objects(target) if each["kind"] == kind]
    return found


def pod_of(workload: Document) -> Document:
    pod: Document = workload["spec"]["template"]["spec"]
    return pod


def server_of(target: str) -> Document:
    (container,) = pod_of(named(target, "Deployment"))["containers"]
    assert isinstance(container, dict)
    return container


def cloud_run() -> Document:
    (service,) = in_file("cloudrun/service.yaml")
    return service


def cloud_run_settings() -> dict[str, str]:
    (container,) = pod_of(cloud_run())["containers"]
    return {each["name"]: each.get("value", SECRETS.get(each["name"])) for each in container["env"]}


def bytes_of(quantity: str) -> int:
    units = {"Mi": MIB, "Gi": 1024 * MIB}
    return int(quantity[:-2]) * units[quantity[-2:]]


def environments() -> dict[str, dict[str, str]]:
    secrets = {"base": SECRETS | CALLERS, "overlays/demo": {}, "overlays/production": SECRETS}
    found = {target: literals(target) | secrets[target] for target in KUSTOMIZATIONS}
    return found | {"cloudrun": cloud_run_settings()}


ENVIRONMENTS = environments()


def settings_in(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name in Settings.model_fields:
        for variable in env_names(name):
            monkeypatch.delenv(variable, raising=False)
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    return Settings(_env_file=None)


@pytest.mark.parametrize("file", FILES, ids=IDS)
def test_every_file_is_yaml_and_not_empty(file: Path) -> None:
    assert documents(file.read_text())


@pytest.mark.parametrize("target", ENVIRONMENTS)
def test_each_environment_variable_is_a_setting(target: str) -> None:
    known = {variable for name in Settings.model_fields for variable in env_names(name)}

    assert set(ENVIRONMENTS[target]) <= known


def test_the_job_uses_settings_and_runs_a_module_of_the_service() -> None:
    (job,) = in_file("kubernetes/overlays/production/migrate.yaml")
    (container,) = pod_of(job)["containers"]

    assert {each["name"] for each in container["env"]} <= set(SECRETS)
    assert importlib.util.find_spec(*container["args"])


@pytest.mark.parametrize("target", ENVIRONMENTS)
def test_the_service_starts_with_the_settings_of_each_environment(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    require_startable(settings_in(ENVIRONMENTS[target], monkeypatch), "0.0.0.0")


def test_replicas_store_chats_in_a_shared_storage(monkeypatch: pytest.MonkeyPatch) -> None:
    for target in ("overlays/production", "cloudrun"):
        settings = settings_in(ENVIRONMENTS[target], monkeypatch)

        assert settings.database_url is not None
        assert settings.blob_url is not None
        assert not settings.auto_migrate
        assert not settings.demo


@pytest.mark.parametrize("target", KUSTOMIZATIONS)
def test_the_config_map_has_the_values_of_the_kustomization(target: str) -> None:
    (config_map,) = [each for each in rendered(target) if each["kind"] == "ConfigMap"]
    sources = [each.get("configMapRef", {}).get("name") for each in server_of(target)["envFrom"]]

    assert config_map["data"] == literals(target)
    assert config_map["metadata"]["name"].startswith("gemini-images")
    assert target == "base" or config_map["metadata"]["name"] in sources


@pytest.mark.parametrize("target", KUSTOMIZATIONS)
def test_kubernetes_waits_until_the_last_response_is_sent(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The grace period includes the seconds of preStop.
    """
    settings = settings_in(ENVIRONMENTS[target], monkeypatch)
    pre_stop = server_of(target)["lifecycle"]["preStop"]["sleep"]["seconds"]

    needed = pre_stop + settings.shutdown_grace_seconds + LAST_RESPONSES_SECONDS
    assert needed == pod_of(named(target, "Deployment"))["terminationGracePeriodSeconds"]


@pytest.mark.parametrize("target", ["base", "overlays/production"])
def test_the_grace_period_is_long_enough_for_a_running_generation(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_in(ENVIRONMENTS[target], monkeypatch)

    assert settings.shutdown_grace_seconds >= settings.upstream_timeout_seconds


@pytest.mark.parametrize("target", KUSTOMIZATIONS)
def test_the_memory_limit_is_enough_for_the_process(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_in(ENVIRONMENTS[target], monkeypatch)
    resources = server_of(target)["resources"]

    needed = PROCESS_BYTES + settings.max_buffered_bytes * 6 // 5
    assert needed <= bytes_of(resources["limits"]["memory"]) == bytes_of(resources["requests"]["memory"])
    assert "cpu" in resources["requests"]
    assert "cpu" not in resources["limits"]


@pytest.mark.parametrize("target", KUSTOMIZATIONS)
def test_the_temporary_directory_is_large_enough_for_all_uploads(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_in(ENVIRONMENTS[target], monkeypatch)
    volumes = {each["name"]: each["emptyDir"] for each in pod_of(named(target, "Deployment"))["volumes"]}

    assert bytes_of(volumes["tmp"]["sizeLimit"]) >= max(settings.max_buffered_bytes // 2, settings.max_body_bytes)
    assert {each["mountPath"] for each in server_of(target)["volumeMounts"]} == {"/tmp", "/data"}


@pytest.mark.parametrize("target", KUSTOMIZATIONS)
def test_every_pod_has_minimal_rights(target: str) -> None:
    """
    The restricted profile of Pod Security, and a read-only root file system.
    """
    for workload in objects(target):
        if workload["kind"] not in ("Deployment", "Job"):
            continue
        pod = pod_of(workload)
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 10001
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }


@pytest.mark.parametrize("target", KUSTOMIZATIONS)
def test_services_and_disruption_budgets_select_only_the_servers(target: str) -> None:
    labels = {
        each["kind"]: each["spec"]["template"]["metadata"]["labels"].items()
        for each in objects(target)
        if "template" in each.get("spec", {})
    }
    servers = labels.pop("Deployment")
    for each in objects(target):
        if each["kind"] not in ("Deployment", "Service", "PodDisruptionBudget"):
            continue
        selector = each["spec"]["selector"]
        wanted = selector.get("matchLabels", selector).items()
        assert wanted <= servers
        for others in labels.values():
            assert not wanted <= others


@pytest.mark.parametrize("target", KUSTOMIZATIONS)
def test_the_network_policy_applies_to_all_pods_and_allows_only_requests(target: str) -> None:
    policy = named(target, "NetworkPolicy")["spec"]
    egress_ports = {port["port"] for rule in policy["egress"] for port in rule["ports"]}
    for each in objects(target):
        if each["kind"] in ("Deployment", "Job"):
            labels = each["spec"]["template"]["metadata"]["labels"].items()
            assert policy["podSelector"]["matchLabels"].items() <= labels

    assert [port["port"] for rule in policy["ingress"] for port in rule["ports"]] == [8000]
    assert egress_ports == ({53} if target == "overlays/demo" else {53, 443, 5432})


@pytest.mark.parametrize("target", [*KUSTOMIZATIONS, "cloudrun"])
def test_probes_use_paths_that_the_service_has(target: str) -> None:
    (container,) = pod_of(cloud_run() if target == "cloudrun" else named(target, "Deployment"))["containers"]
    probes = {name: probe["httpGet"] for name, probe in container.items() if name.endswith("Probe")}

    assert probes
    for probe in probes.values():
        assert probe["path"] in PROBE_PATHS
        assert probe["port"] == 8000
    if target not in ("cloudrun", "overlays/demo"):
        assert set(probes) == {"startupProbe", "livenessProbe", "readinessProbe"}


async def test_the_autoscaler_uses_a_metric_of_the_service(client: httpx2.AsyncClient) -> None:
    (metric,) = named("base", "HorizontalPodAutoscaler")["spec"]["metrics"]
    name = metric["pods"]["metric"]["name"]
    (rule,) = in_file("kubernetes/adapter-rule.yaml")[0]["rules"]["custom"]

    assert rule["name"]["as"] == name
    assert rule["seriesQuery"].startswith(f"{name}{{")
    assert f"\n{name} " in (await client.get("/metrics")).text


def test_production_names_the_version_of_the_image() -> None:
    for workload in rendered("overlays/production"):
        if workload["kind"] in ("Deployment", "Job"):
            (container,) = pod_of(workload)["containers"]
            assert container["image"].rpartition(":")[2] not in ("latest", container["image"])


def test_the_demo_has_one_pod_and_no_secrets() -> None:
    deployment = named("overlays/demo", "Deployment")

    assert deployment["spec"]["replicas"] == 1
    assert [list(each) for each in server_of("overlays/demo")["envFrom"]] == [["configMapRef"]]
    assert not {"HorizontalPodAutoscaler", "PodDisruptionBudget"} & {each["kind"] for each in objects("overlays/demo")}


def test_only_the_autoscaler_sets_the_number_of_replicas() -> None:
    assert "replicas" not in named("base", "Deployment")["spec"]
    assert named("base", "HorizontalPodAutoscaler")["spec"]["minReplicas"] == 2


def test_cloud_run_has_enough_time_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    On Cloud Run the temporary folder is memory, so uploads count twice.
    """
    settings = settings_in(ENVIRONMENTS["cloudrun"], monkeypatch)
    revision = pod_of(cloud_run())
    (container,) = revision["containers"]

    assert settings.deadline_seconds < revision["timeoutSeconds"] <= 3600
    assert settings.shutdown_grace_seconds < CLOUD_RUN_SECONDS_AFTER_SIGTERM
    assert settings.max_body_bytes <= CLOUD_RUN_BODY_BYTES
    assert settings.max_references_bytes <= settings.max_body_bytes
    needed = PROCESS_BYTES + settings.max_buffered_bytes * 6 // 5 + settings.max_buffered_bytes // 2
    assert needed <= bytes_of(container["resources"]["limits"]["memory"])


# Compose.


def compose() -> dict[str, Document]:
    """Return the services, with the default values of variables from `.env`."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", (DEPLOY / "compose.yaml").read_text())
    services: dict[str, Document] = documents(text)[0]["services"]
    return services


SERVICES = ["service-a", "service-b", "demo"]


@pytest.mark.parametrize("name", SERVICES)
def test_compose_uses_only_existing_settings(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {
        variable: (SECRETS | CALLERS).get(variable, str(value or ""))
        for variable, value in compose()[name]["environment"].items()
        if not variable.startswith("AWS_")
    }

    settings = settings_in(environment, monkeypatch)

    assert environment.keys() <= {variable for field in Settings.model_fields for variable in env_names(field)}
    require_startable(settings, "0.0.0.0")


@pytest.mark.parametrize("name", SERVICES)
def test_compose_gives_the_service_minimal_rights_and_enough_memory(name: str) -> None:
    service = compose()[name]
    files = sum(int(size) * MIB for size in re.findall(r"size=(\d+)m", " ".join(service["tmpfs"])))

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["mem_limit"] == "1g"
    buffered = int(service["environment"]["MAX_BUFFERED_BYTES"])
    assert PROCESS_BYTES + 1.2 * buffered + (files if name != "demo" else 0) <= 1024 * MIB


@pytest.mark.parametrize("name", SERVICES[:2])
def test_compose_waits_until_the_last_response_is_sent(name: str) -> None:
    service = compose()[name]
    seconds = sum(int(service["environment"][f"SHUTDOWN_{one}_SECONDS"]) for one in ("DELAY", "GRACE"))

    assert int(service["stop_grace_period"].removesuffix("s")) >= seconds + LAST_RESPONSES_SECONDS


@pytest.mark.parametrize("name", SERVICES[:2])
def test_compose_passes_every_setting_of_its_env_file_to_the_service(name: str) -> None:
    """
    The file may be missing. Values in compose.yaml have priority, in upper or lower case.
    """
    service = compose()[name]

    assert service["env_file"] == [{"path": ".env", "required": False}]
    assert service["environment"]["PORT"] == "8000"
    assert service["environment"]["HOST"] == "0.0.0.0"


def test_compose_mounts_files_that_exist() -> None:
    mounted = [one.split(":")[0] for service in compose().values() for one in service.get("volumes", ())]

    assert [one for one in mounted if one.startswith(".") and not (DEPLOY / one).is_file()] == []


def test_the_proxy_forwards_to_the_replicas_of_compose() -> None:
    caddyfile = (DEPLOY / "compose" / "Caddyfile").read_text()

    assert "REPLICAS:service-a:8000 service-b:8000" in caddyfile
    assert f"health_uri {PROBE_PATHS[1]}" in caddyfile
    assert {"service-a", "service-b"} == {job for job in compose() if job.startswith("service")}
