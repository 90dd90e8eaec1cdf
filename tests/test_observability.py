"""Files for operators: alerts that fire when they should, a runbook and a dashboard, based on metrics that exist."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml  # type: ignore[import-untyped]  # installed with uvicorn

from app.domain import errors
from app.domain.progress import Stage
from tests.programs import require
from tests.test_start import ROOT

FOLDER = ROOT / "deploy" / "observability"
REFUSED = {"content_blocked", "recitation", "no_image"}
ERRORS = [
    error for error in vars(errors).values() if isinstance(error, type) and issubclass(error, errors.ServiceError)
]
CODES = {error.code: error for error in ERRORS if "code" in vars(error)}
OUTCOMES = {"ok", *CODES}
"""All outcomes of a generation."""
TRY_OUTCOMES = {"delivered", "retried", "failed"}
"""All outcomes of a try to deliver a webhook."""
NOT_COUNTED = {"caller_left", "slow_reader"} | {
    code for code, error in CODES.items() if issubclass(error, errors.CallerError)
}


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((FOLDER / "rules.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    return [rule for rule in rules() if "alert" in rule]


def dashboard() -> dict[str, Any]:
    read: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text())
    return read


def panels() -> Iterator[dict[str, Any]]:
    for panel in dashboard()["panels"]:
        yield panel
        yield from panel.get("panels", [])


def dashboard_expressions() -> list[str]:
    """Return the expressions of the dashboard, with values for its variables."""
    expressions = [target["expr"] for panel in panels() for target in panel.get("targets", [])]
    return [one.replace("$__rate_interval", "5m").replace("$job", ".+") for one in expressions]


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    program = require("promtool", "prometheus")
    return subprocess.run([program, *map(str, arguments)], cwd=FOLDER, capture_output=True, text=True, check=False)


# Checks by promtool.


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "rules", "rules.yaml"),
        pytest.param(("test", "rules", "rules_test.yaml"), marks=pytest.mark.slow),
        ("check", "config", "--syntax-only", "prometheus.yaml"),
    ],
    ids=" ".join,
)
def test_promtool_accepts_the_files_for_prometheus(arguments: tuple[str, ...]) -> None:
    checked = promtool(*arguments)

    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_promtool_accepts_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    named = [
        {"record": f"panel:{number}", "expr": expression} for number, expression in enumerate(dashboard_expressions())
    ]
    (tmp_path / "panels.yaml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": named}]}))

    checked = promtool("check", "rules", tmp_path / "panels.yaml")

    assert checked.returncode == 0, checked.stdout + checked.stderr


# Alerts, their tests, and the runbook.


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert["alert"])
def test_an_alert_has_both_kinds_of_test_and_a_runbook_section(alert: dict[str, Any]) -> None:
    name = alert["alert"]
    tests = yaml.safe_load((FOLDER / "rules_test.yaml").read_text())["tests"]
    cases = [case for test in tests for case in test.get("alert_rule_test", []) if case["alertname"] == name]
    headings = re.findall(r"^## (.+)$", (FOLDER / "runbook.md").read_text(), re.MULTILINE)

    assert {bool(case["exp_alerts"]) for case in cases} == {True, False}
    assert headings.count(name) == 1
    assert alert["labels"]["severity"] in {"page", "ticket"}
    assert set(alert["annotations"]) == {"summary", "description", "runbook"}
    assert alert["annotations"]["runbook"] == f"deploy/observability/runbook.md#{name.lower()}"


def test_the_runbook_has_one_section_for_each_alert_in_order() -> None:
    headings = re.findall(r"^## (.+)$", (FOLDER / "runbook.md").read_text(), re.MULTILINE)

    assert headings == [alert["alert"] for alert in alerts()]


# Metrics that rules and dashboard use.


async def test_every_metric_that_is_used_exists(client: httpx2.AsyncClient) -> None:
    """
    The service has made one image. A metric with labels exports its name before its first event, but not `_created`.
    """
    await client.post("/generate-image", json={"prompt": "A lighthouse", "imageSize": "1K"})
    metrics = (await client.get("/metrics")).text

    exported = set(re.findall(r"^(?:# TYPE )?(gemini_images_\w+)", metrics, re.MULTILINE))
    exported |= {name.removesuffix("_total") + "_created" for name in exported if name.endswith("_total")}
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    expressions = [*(rule["expr"] for rule in rules()), *dashboard_expressions()]
    used = {name for expression in expressions for name in re.findall(r"[\w:]*gemini_images_[\w:]+", expression)}
    variables = re.findall(r"gemini_images_\w+", json.dumps(dashboard()["templating"]))
    assert {*used, *variables} <= exported | recorded
    assert recorded <= used


def test_every_outcome_and_stage_that_is_used_exists() -> None:
    expressions = " ".join([*(rule["expr"] for rule in rules()), *dashboard_expressions()])
    outcomes = re.findall(r'outcome=~?"([^"]+)"', expressions)
    stages = re.findall(r'stage=~?"([^"]+)"', expressions)

    used = {part for one in outcomes for part in one.split("|") if not re.search(r"\W", part)}
    assert used <= OUTCOMES | TRY_OUTCOMES
    assert set(stages) <= set(Stage)


@pytest.mark.parametrize("window", ["5m", "30m", "1h", "6h"])
def test_an_outcome_is_an_slo_error_or_a_refusal_or_is_not_counted(window: str) -> None:
    """
    A new error must be added to one of these groups, which decides whether it can page.
    """
    failed, counted = (
        re.compile(re.findall(r'outcome=~"([^"]+)"', rule["expr"])[0])
        for name in ("slo_errors", "slo_requests")
        for rule in rules()
        if rule.get("record") == f"job:gemini_images_{name}:increase{window}"
    )

    assert {code for code in OUTCOMES if failed.fullmatch(code)} == OUTCOMES - REFUSED - NOT_COUNTED - {"ok"}
    assert {code for code in OUTCOMES if counted.fullmatch(code)} == OUTCOMES - NOT_COUNTED


# The dashboard and its provisioning.


def test_grafana_can_import_the_dashboard() -> None:
    ids = [panel["id"] for panel in panels()]
    charts = [panel for panel in panels() if panel["type"] != "row"]
    sources = {one["datasource"]["uid"] for panel in charts for one in (panel, *panel["targets"])}

    assert dashboard()["uid"] == "gemini-images"
    assert len(ids) == len(set(ids))
    assert sources == {"${datasource}"}
    assert "datasource" in [variable["name"] for variable in dashboard()["templating"]["list"]]


def test_provisioning_files_match_the_compose_services() -> None:
    [source] = yaml.safe_load((FOLDER / "grafana" / "datasources.yaml").read_text())["datasources"]
    [provider] = yaml.safe_load((FOLDER / "grafana" / "dashboards.yaml").read_text())["providers"]
    prometheus = yaml.safe_load((FOLDER / "prometheus.yaml").read_text())
    [job] = prometheus["scrape_configs"]

    assert (source["type"], source["url"]) == ("prometheus", "http://prometheus:9090")
    assert source["jsonData"]["timeInterval"] == prometheus["global"]["scrape_interval"]
    assert (provider["type"], provider["options"]["path"]) == ("file", "/var/lib/grafana/dashboards")
    assert all((FOLDER / file).is_file() for file in prometheus["rule_files"])
    assert job["job_name"] == "gemini-images"
    assert job.get("metrics_path", "/metrics") == "/metrics"
