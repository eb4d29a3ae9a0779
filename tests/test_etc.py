"""The files below `etc/` fit the code: options, ports, times, metrics, rights."""

from __future__ import annotations

import configparser
import json
import re
import signal

import pytest
import yaml

import tailproxy
from tailproxy import config
from tailproxy.config import DEFAULT_SOURCE, Config
from tailproxy.counting import Family
from tailproxy.metrics import Metrics
from tailproxy.options import ListenerKind
from tailproxy.policy.grants import CAPABILITY, read_rules
from tailproxy.policy.rights import Rights, groups_of_policy, manifests
from tailproxy.tap import Options
from tailproxy.wire import hujson
from tests.etc import ETC, kubernetes, one, text

DRAIN = Config().tailproxy.drain
# The command that containers and units run.
ENTRYPOINT = ["twistd", "-n", "--pidfile=", "tailproxy"]


class TestKubernetes:
    def test_rights_are_those_that_the_command_prints(self):
        expected = manifests(Rights(), "tailproxy", "tailproxy")
        assert [each for each in kubernetes() if each in expected] == expected

    def test_the_configuration_can_be_used_and_tailscaled_hands_on_to_it(self):
        data = one("ConfigMap")["data"]
        read = config.parse(data["tailproxy.hujson"], "ConfigMap")
        (listener,) = read.tailproxy.listeners
        assert listener.kind is ListenerKind.SERVE
        assert json.loads(data["serve.json"])["TCP"] == {
            "443": {
                "TCPForward": str(listener.endpoint),
                "TerminateTLS": "${TS_CERT_DOMAIN}",
                "ProxyProtocol": 2,
            }
        }
        assert read.admin_enabled
        assert read.tailproxy.drain == DRAIN

    @staticmethod
    def pod():
        return one("Deployment")["spec"]["template"]["spec"]

    def containers(self):
        (sidecar,), (proxy,) = self.pod()["initContainers"], self.pod()["containers"]
        return sidecar, proxy

    def test_the_pod_stays_until_everything_is_drained(self):
        leaving = self.pod()["terminationGracePeriodSeconds"]
        assert leaving > max(DRAIN.streams, DRAIN.requests) + 10

    def test_tailscaled_is_there_first_and_leaves_last(self):
        sidecar, _ = self.containers()
        assert sidecar["restartPolicy"] == "Always"

    def test_probes_are_pages_of_the_admin_port(self):
        _, proxy = self.containers()
        (port,) = proxy["ports"]
        assert port["containerPort"] == Config().local_port
        for probe, path in (
            ("startup", "/livez"),
            ("liveness", "/livez"),
            ("readiness", "/readyz"),
        ):
            assert proxy[f"{probe}Probe"]["httpGet"] == {"path": path, "port": port["name"]}
        (service_port,) = one("Service")["spec"]["ports"]
        assert service_port["targetPort"] == port["name"]

    def test_both_share_the_socket_and_not_their_user(self):
        sidecar, proxy = self.containers()
        given = {each["name"]: each.get("value") for each in sidecar["env"]}
        socket = Config().tailproxy.tailscaled.socket
        assert given["TS_SOCKET"] == str(socket)
        for container in (sidecar, proxy):
            mounts = {each["mountPath"]: each["name"] for each in container["volumeMounts"]}
            assert mounts[str(socket.parent)] == "tailscaled"
        users = {each["securityContext"]["runAsUser"] for each in (sidecar, proxy)}
        assert len(users) == 2

    def test_every_volume_is_there_and_used(self):
        made = {each["name"] for each in self.pod()["volumes"]}
        used = {each["name"] for one_ in self.containers() for each in one_["volumeMounts"]}
        assert used == made
        data = one("ConfigMap")["data"]
        maps = [each["configMap"] for each in self.pod()["volumes"] if "configMap" in each]
        assert {item["key"] for each in maps for item in each["items"]} == set(data)

    def test_the_state_is_the_secret_that_the_account_may_write(self):
        sidecar, _ = self.containers()
        given = {each["name"]: each.get("value") for each in sidecar["env"]}
        (rule,) = one("Role")["rules"]
        assert rule["resourceNames"] == [given["TS_KUBE_SECRET"]]
        assert one("Secret")["metadata"]["name"] == given["TS_KUBE_SECRET"]

    def test_the_serve_configuration_is_mounted_where_it_is_looked_for(self):
        sidecar, _ = self.containers()
        given = {each["name"]: each.get("value") for each in sidecar["env"]}
        mounts = {each["name"]: each["mountPath"] for each in sidecar["volumeMounts"]}
        assert given["TS_SERVE_CONFIG"] == f"{mounts['serve']}/serve.json"

    def test_versions_are_this_one_and_the_one_that_is_tested(self):
        sidecar, proxy = self.containers()
        assert proxy["image"] == f"tailproxy:{tailproxy.__version__}"
        pinned = (ETC.parent / "tests/lab/go/tailscale/go.mod").read_text("utf-8")
        (version,) = re.findall(r"^require tailscale\.com (v\S+)$", pinned, re.MULTILINE)
        assert sidecar["image"] == f"docker.io/tailscale/tailscale:{version}"


class TestDockerfile:
    def test_it_runs_the_service_as_pods_and_units_do(self):
        lines = dict(line.split(" ", 1) for line in text("Dockerfile").splitlines() if " " in line)
        assert json.loads(lines["ENTRYPOINT"]) == ENTRYPOINT
        assert json.loads(lines["CMD"]) == ["--config", DEFAULT_SOURCE]
        (proxy,) = one("Deployment")["spec"]["template"]["spec"]["containers"]
        assert "command" not in proxy
        assert proxy["args"] == json.loads(lines["CMD"])

    def test_its_user_is_the_pods(self):
        (user,) = re.findall(r"^USER (\d+):(\d+)$", text("Dockerfile"), re.MULTILINE)
        pod = one("Deployment")["spec"]["template"]["spec"]
        (proxy,) = pod["containers"]
        assert user == (
            str(proxy["securityContext"]["runAsUser"]),
            str(pod["securityContext"]["runAsGroup"]),
        )

    def test_it_copies_what_the_wheel_is_made_of(self):
        copied = {
            source
            for line in re.findall(r"^COPY (?!--from)(.*)$", text("Dockerfile"), re.MULTILINE)
            for source in line.split()[:-1]
        }
        assert all((ETC.parent / source).exists() for source in copied)
        setup = configparser.ConfigParser()
        setup.read(ETC.parent / "setup.cfg")
        packages = setup["options"]["packages"].split()
        needed = {package.split(".")[0] for package in packages}
        needed |= {"setup.cfg", "pyproject.toml", setup["metadata"]["license_files"]}
        needed.add(setup["metadata"]["long_description"].removeprefix("file: "))
        assert copied == needed

    def test_its_python_is_one_that_is_supported(self):
        found = set(
            re.findall(r"^FROM docker\.io/library/python:(\S+)-slim", text("Dockerfile"), 8)
        )
        setup = (ETC.parent / "setup.cfg").read_text("utf-8")
        assert len(found) == 1
        assert found <= set(re.findall(r"Python :: (3\.\d+)", setup))


class TestUnit:
    @pytest.fixture
    def service(self) -> dict[str, list[str]]:
        """The settings of [Service]; one may be there several times."""
        found: dict[str, list[str]] = {}
        (part,) = re.findall(
            r"^\[Service\]\n(.*?)^\[", text("tailproxy.service"), re.MULTILINE | re.DOTALL
        )
        for line in part.splitlines():
            if line and not line.startswith("#"):
                key, _, value = line.partition("=")
                found.setdefault(key, []).append(value)
        return found

    def test_it_starts_the_service_with_options_that_there_are(self, service):
        (command,) = service["ExecStart"]
        program, *words = command.split()
        assert [program.rpartition("/")[2], *words[:3]] == ENTRYPOINT
        options = [name for name, *_ in Options.optParameters]
        assert words[3:] == ["--config", DEFAULT_SOURCE]
        assert "config" in options

    def test_a_reload_checks_the_file_and_sends_the_signal(self, service):
        check, send = service["ExecReload"]
        assert check.endswith(f" tailproxy --config {DEFAULT_SOURCE} --check")
        assert "check" in [name for name, *_ in Options.optFlags]
        assert send == "kill -HUP $MAINPID"
        assert signal.Signals["SIGHUP"] == signal.SIGHUP

    def test_it_may_drain_before_it_is_killed(self, service):
        (seconds,) = service["TimeoutStopSec"]
        assert int(seconds) > max(DRAIN.streams, DRAIN.requests) + 10
        # The supervisor alone is told; it tells its workers.
        assert service["KillMode"] == ["mixed"]

    def test_it_may_ask_who_connects_and_write_what_cffi_runs(self, service):
        (families,) = service["RestrictAddressFamilies"]
        assert set(families.split()) == {"AF_INET", "AF_INET6", "AF_UNIX", "AF_NETLINK"}
        assert service["MemoryDenyWriteExecute"] == ["no"]
        assert service["PrivateUsers"] == ["no"]

    def test_its_credentials_are_where_the_service_looks(self, service):
        assert service["Environment"] == ["KUBECONFIG=%d/kubeconfig"]
        given = dict(each.split(":") for each in service["LoadCredential"])
        assert given == {
            name: f"/etc/tailproxy/{name}" for name in ("kubeconfig", "ca.crt", "token")
        }


class TestPolicy:
    @pytest.fixture
    def policy(self):
        return hujson.parse(text("policy.hujson")).plain()

    def test_its_grants_give_groups(self, policy):
        given = {
            source: read_rules(grant["app"]).groups
            for grant in policy["grants"]
            if "app" in grant
            for source in grant["src"]
        }
        assert given == {"group:platform": ("platform", "oncall"), "group:dev": ("dev",)}
        assert {each for grant in policy["grants"] for each in grant.get("app", ())} == {CAPABILITY}

    def test_only_the_port_of_https_is_open(self, policy):
        assert {port for grant in policy["grants"] for port in grant.get("ip", ())} == {"tcp:443"}

    def test_it_names_no_tag_group_or_service_that_is_not_there(self, policy):
        known = {*policy["groups"], *policy["tagOwners"], *policy["autoApprovers"]["services"]}
        named = set(re.findall(r'"((?:group|tag|svc):[\w-]+)', text("policy.hujson")))
        assert named == known

    def test_it_is_the_tag_of_the_manifest(self, policy):
        sidecar = one("Deployment")["spec"]["template"]["spec"]["initContainers"][0]
        (tag,) = [
            each["value"].removeprefix("--advertise-tags=")
            for each in sidecar["env"]
            if each["name"] == "TS_EXTRA_ARGS"
        ]
        assert all(tag in grant["dst"] for grant in policy["grants"])

    def test_rights_can_be_made_of_it(self, policy):
        assert groups_of_policy(policy) == ("platform", "oncall", "dev", "tag:kube-proxy", "tag:ci")


def known() -> dict[str, set[str]]:
    """Every sample there may be, with its labels."""
    metrics = Metrics("")
    suffixes = {
        "counter": {"_total": ()},
        "gauge": {"": ()},
        "histogram": {"_bucket": ("le",), "_sum": (), "_count": ()},
    }
    found = {
        f"{each.name}{suffix}": {*each.label_names, *further}
        for each in vars(metrics).values()
        if isinstance(each, Family)
        for suffix, further in suffixes[each.kind].items()
    }
    for family in metrics.registry.collect():
        for sample in family.samples:
            found.setdefault(sample.name, set(sample.labels))
    return found


def used(expression: str) -> list[tuple[str, set[str]]]:
    """The metrics in an expression, each with the labels that are asked for or kept."""
    kept = {
        label.strip()
        for inside in re.findall(r"\bby \(([^)]*)\)", expression)
        for label in inside.split(",")
    }
    found = re.findall(r"\b((?:tailproxy|process|up)[a-z_]*)\b(?:\{([^}]*)\})?", expression)
    return [
        (name, kept | set(re.findall(r"(\w+)\s*(?:=~|!=|!~|=)", labels))) for name, labels in found
    ]


# What Prometheus adds.
TARGET = {"job", "instance"}


def check(expression: str) -> None:
    metrics = known()
    expression = re.sub(r'"[^"]*"', '""', expression)
    assert used(expression), expression
    for name, labels in used(expression):
        if name != "up":
            assert name in metrics, f"{name}: no such metric"
            assert labels <= metrics[name] | TARGET, f"{name}: {labels - metrics[name]}"


class TestAlerts:
    @pytest.fixture
    def alerts(self) -> list[dict]:
        (group,) = yaml.safe_load(text("alerts.yaml"))["groups"]
        return group["rules"]

    def test_they_refer_to_metrics_that_there_are(self, alerts):
        for alert in alerts:
            check(alert["expr"])

    def test_each_has_its_section(self, alerts):
        headings = re.findall(
            r"^### (Tailproxy\w+)$",
            (ETC.parent / "docs/monitoring.md").read_text("utf-8"),
            re.MULTILINE,
        )
        assert headings == [alert["alert"] for alert in alerts]
        for alert in alerts:
            wanted = f"docs/monitoring.md#{alert['alert'].lower()}"
            assert alert["annotations"]["runbook"] == wanted

    def test_each_is_seen_to_fire(self, alerts):
        tests = text("alerts.test.yaml")
        for alert in alerts:
            assert f'alertname="{alert["alert"]}"' in tests


class TestDashboard:
    @pytest.fixture
    def panels(self) -> list[dict]:
        return [
            each for each in json.loads(text("grafana.json"))["panels"] if each["type"] != "row"
        ]

    def test_it_refers_to_metrics_that_there_are(self, panels):
        for panel in panels:
            for target in panel["targets"]:
                check(target["expr"])
                legend = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
                (name, *_) = (name for name, _ in used(target["expr"]))
                assert legend <= known()[name] | TARGET, panel["title"]

    def test_it_shows_every_metric_of_ours(self, panels):
        shown = {
            re.sub(r"_(bucket|sum|count)$", "", name)
            for panel in panels
            for target in panel["targets"]
            for name, _ in used(target["expr"])
        }
        ours = {
            re.sub(r"_(bucket|sum|count)$", "", name)
            for name in known()
            if name.startswith("tailproxy_") and not name.endswith("_created")
        }
        assert ours == {name for name in shown if name.startswith("tailproxy_")}

    def test_panels_lie_beside_one_another(self, panels):
        taken = set()
        for panel in panels:
            at = panel["gridPos"]
            assert at["x"] + at["w"] <= 24
            cells = {
                (x, y)
                for x in range(at["x"], at["x"] + at["w"])
                for y in range(at["y"], at["y"] + at["h"])
            }
            assert not cells & taken, panel["title"]
            taken |= cells

    def test_no_two_have_the_same_number(self):
        numbers = [each["id"] for each in json.loads(text("grafana.json"))["panels"]]
        assert len(set(numbers)) == len(numbers)
