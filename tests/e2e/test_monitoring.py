"""Dashboard and alerts, as Prometheus reads them, and what a running tailproxy counts."""

from __future__ import annotations

import json
import re
import subprocess

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.etc import ETC, text
from tests.lab.build import ensure
from tests.lab.progress import Progress


@pytest.fixture(scope="module")
def promtool():
    """promtool, Prometheus' own program for checking rules."""
    program = ensure(["promtool"], progress=Progress())["promtool"]

    def run(*words: str, cwd=ETC) -> str:
        done = subprocess.run(
            [program, *words], cwd=cwd, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def test_alerts_are_rules_without_fault(promtool):
    (group,) = yaml.safe_load(text("alerts.yaml"))["groups"]
    said = promtool("check", "rules", "--lint=all", "--lint-fatal", "alerts.yaml")
    assert f"{len(group['rules'])} rules found" in said


def test_alerts_fire_when_they_must_and_only_then(promtool):
    promtool("test", "rules", "alerts.test.yaml")


def queries() -> list[str]:
    """The dashboard's, with something in the place of its variables."""
    panels = json.loads(text("grafana.json"))["panels"]
    return [
        re.sub(r"\$(job|instance)", ".+", target["expr"]).replace("$__rate_interval", "5m")
        for panel in panels
        for target in panel.get("targets", ())
    ]


def test_the_dashboards_queries_can_be_read(promtool, tmp_path):
    rules = [{"record": f"panel:{n}", "expr": expr} for n, expr in enumerate(queries())]
    file = tmp_path / "dashboard.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    said = promtool("check", "rules", str(file))
    assert f"{len(rules)} rules found" in said


def test_what_they_look_at_is_what_is_counted(lab, proxy):
    assert lab.kubectl("alice", "get", "configmaps").returncode == 0
    assert lab.kubectl("alice", "get", "pods", "--as=grace@example.com").returncode == 1
    assert lab.kubectl("alice", "exec", "shell", "--", "true").returncode == 0
    status, page = proxy.get_admin("/metrics")
    assert status == 200
    labels: dict[str, set[str]] = {}
    known: set[str] = set()
    for family in text_string_to_metric_families(page):
        known |= {family.name + end for end in ("", "_total", "_bucket", "_count", "_sum")}
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    (group,) = yaml.safe_load(text("alerts.yaml"))["groups"]
    asked = [*queries(), *(rule["expr"] for rule in group["rules"])]
    names = {
        name
        for expr in asked
        for name in re.findall(r"\b((?:tailproxy|process)_\w+)", re.sub(r'"[^"]*"', "", expr))
    }
    # Of metrics with labels there is only the name until something has happened.
    assert names <= known
    assert {"verb", "code", "mode"} == labels["tailproxy_requests_total"]
    assert {"reason"} == labels["tailproxy_denied_total"]
    assert {"protocol", "subresource"} == labels["tailproxy_sessions_active"]
    assert {"listener"} == labels["tailproxy_connections"]
    assert {"name"} == labels["tailproxy_certificate_expiry_timestamp_seconds"]
    values = {
        sample.name: sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name.startswith("process_")
    }
    # The supervisor and its workers together.
    assert values["process_cpu_seconds_total"] * 10 > 1
    assert 3e7 < values["process_resident_memory_bytes"] < 2e9
