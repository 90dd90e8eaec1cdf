"""What comes along for operators: alerts that fire when they should, a runbook, a dashboard, on series that exist."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml  # type: ignore[import-untyped]  # comes with uvicorn

from app.domain import errors
from app.domain.progress import Stage
from tests.test_start import ROOT

FOLDER = ROOT / "deploy" / "observability"
REFUSED = {"content_blocked", "recitation", "no_image"}
KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.ServiceError)]
CODES = {kind.code: kind for kind in KINDS if "code" in vars(kind)}
OUTCOMES = {"ok", *CODES}
"""What a generation can come to."""
UNJUDGED = {"caller_left", "slow_reader"} | {
    code for code, kind in CODES.items() if issubclass(kind, errors.CallerError)
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


def shown() -> list[str]:
    """The expressions of the dashboard, with something in the place of its variables."""
    expressions = [target["expr"] for panel in panels() for target in panel.get("targets", [])]
    return [one.replace("$__rate_interval", "5m").replace("$job", ".+") for one in expressions]


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    return subprocess.run([program, *map(str, arguments)], cwd=FOLDER, capture_output=True, text=True, check=False)


# Prometheus' own tool.


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "rules", "rules.yaml"),
        pytest.param(("test", "rules", "rules_test.yaml"), marks=pytest.mark.slow),
        ("check", "config", "--syntax-only", "prometheus.yaml"),
    ],
    ids=" ".join,
)
def test_prometheus_takes_what_is_written_for_it(arguments: tuple[str, ...]) -> None:
    checked = promtool(*arguments)

    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_prometheus_can_read_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    named = [{"record": f"panel:{number}", "expr": expression} for number, expression in enumerate(shown())]
    (tmp_path / "panels.yaml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": named}]}))

    checked = promtool("check", "rules", tmp_path / "panels.yaml")

    assert checked.returncode == 0, checked.stdout + checked.stderr


# One alert, and what belongs to it.


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert["alert"])
def test_an_alert_is_tested_both_ways_and_tells_what_to_do(alert: dict[str, Any]) -> None:
    name = alert["alert"]
    tests = yaml.safe_load((FOLDER / "rules_test.yaml").read_text())["tests"]
    cases = [case for test in tests for case in test.get("alert_rule_test", []) if case["alertname"] == name]
    headings = re.findall(r"^## (.+)$", (FOLDER / "runbook.md").read_text(), re.MULTILINE)

    assert {bool(case["exp_alerts"]) for case in cases} == {True, False}
    assert headings.count(name) == 1
    assert alert["labels"]["severity"] in {"page", "ticket"}
    assert set(alert["annotations"]) == {"summary", "description", "runbook"}
    assert alert["annotations"]["runbook"] == f"deploy/observability/runbook.md#{name.lower()}"


def test_the_runbook_is_about_these_alerts_and_no_others() -> None:
    headings = re.findall(r"^## (.+)$", (FOLDER / "runbook.md").read_text(), re.MULTILINE)

    assert headings == [alert["alert"] for alert in alerts()]


# The series that rules and dashboard speak of.


async def test_every_series_that_is_named_is_there(client: httpx2.AsyncClient) -> None:
    """
    In a service that has made one image. A series that needs a label's first event is there by its name.
    """
    await client.post("/generate-image", json={"prompt": "A lighthouse", "imageSize": "1K"})
    answer = (await client.get("/metrics")).text

    measured = set(re.findall(r"^(?:# TYPE )?(gemini_images_\w+)", answer, re.MULTILINE))
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    expressions = [*(rule["expr"] for rule in rules()), *shown()]
    named = {name for expression in expressions for name in re.findall(r"[\w:]*gemini_images_[\w:]+", expression)}
    variables = re.findall(r"gemini_images_\w+", json.dumps(dashboard()["templating"]))
    assert {*named, *variables} <= measured | recorded
    assert recorded <= named


def test_every_outcome_and_stage_that_is_named_is_one() -> None:
    expressions = " ".join([*(rule["expr"] for rule in rules()), *shown()])
    outcomes = re.findall(r'outcome=~?"([^"]+)"', expressions)
    stages = re.findall(r'stage=~?"([^"]+)"', expressions)

    assert {part for one in outcomes for part in one.split("|") if not re.search(r"\W", part)} <= OUTCOMES
    assert set(stages) <= set(Stage)


@pytest.mark.parametrize("window", ["5m", "30m", "1h", "6h"])
def test_an_outcome_is_a_fault_or_an_answer_or_is_not_judged(window: str) -> None:
    """
    A new error has to be one of these: whoever adds one decides whether it wakes somebody.
    """
    faults, judged = (
        re.compile(re.findall(r'outcome=~"([^"]+)"', rule["expr"])[0])
        for name in ("faults", "judged")
        for rule in rules()
        if rule.get("record") == f"job:gemini_images_{name}:increase{window}"
    )

    assert {code for code in OUTCOMES if faults.fullmatch(code)} == OUTCOMES - REFUSED - UNJUDGED - {"ok"}
    assert {code for code in OUTCOMES if judged.fullmatch(code)} == OUTCOMES - UNJUDGED


# The dashboard, and what provides it.


def test_the_dashboard_is_one_that_grafana_can_be_given() -> None:
    ids = [panel["id"] for panel in panels()]
    drawn = [panel for panel in panels() if panel["type"] != "row"]
    sources = {one["datasource"]["uid"] for panel in drawn for one in (panel, *panel["targets"])}

    assert dashboard()["uid"] == "gemini-images"
    assert len(ids) == len(set(ids))
    assert sources == {"${datasource}"}
    assert "datasource" in [variable["name"] for variable in dashboard()["templating"]["list"]]


def test_grafana_and_prometheus_are_told_where_to_look() -> None:
    [source] = yaml.safe_load((FOLDER / "grafana" / "datasources.yaml").read_text())["datasources"]
    [provider] = yaml.safe_load((FOLDER / "grafana" / "dashboards.yaml").read_text())["providers"]
    prometheus = yaml.safe_load((FOLDER / "prometheus.yaml").read_text())
    [scraped] = prometheus["scrape_configs"]

    assert (source["type"], source["url"]) == ("prometheus", "http://prometheus:9090")
    assert source["jsonData"]["timeInterval"] == prometheus["global"]["scrape_interval"]
    assert (provider["type"], provider["options"]["path"]) == ("file", "/var/lib/grafana/dashboards")
    assert all((FOLDER / file).is_file() for file in prometheus["rule_files"])
    assert scraped["job_name"] == "gemini-images"
    assert scraped.get("metrics_path", "/metrics") == "/metrics"
