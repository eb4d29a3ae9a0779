"""The recipes of docs/clients.md: k9s, helm and kubectl proxy, as alice."""

from __future__ import annotations

import http.client
import json
import shlex
import sys
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from tests.docs.pages import blocks
from tests.lab.kubectl import Kubectl
from tests.lab.screen import Screen
from tests.lab.tailnet import DOMAIN

pytestmark = pytest.mark.usefixtures("proxy")

CHARTS = Path(__file__).parent / "charts"
#: A line of the log of the lab's pod, by the kind of node.
LOG_LINE = {"kwok": r"line \d+", "kubelet": "tick"}
#: A pod that no node takes.
POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "second", "namespace": "default"},
    "spec": {
        "nodeSelector": {"nowhere": "true"},
        "containers": [{"name": "none", "image": "none"}],
    },
}


def commands(program: str) -> list[list[str]]:
    """The page's commands of one program, as words without the program."""
    script = "".join(blocks("docs/clients.md", "sh"))
    lines = [shlex.split(line) for line in script.splitlines()]
    return [words[1:] for words in lines if words[0] == program]


@pytest.fixture(scope="module")
def environment(lab, tmp_path_factory):
    """The environment of a person whose kubeconfig has the context ``kube``, and nothing else."""
    home = tmp_path_factory.mktemp("alice")
    config = yaml.safe_load(lab.kubeconfig("alice", path=home / "config").read_text())
    config["contexts"][0]["name"] = "kube"
    del config["current-context"]
    (home / "config").write_text(yaml.safe_dump(config))
    (home / "k9s").mkdir()
    # Else k9s asks the forge whether there is a newer one.
    (home / "k9s" / "config.yaml").write_text("k9s: {skipLatestRevCheck: true}\n")
    return {
        **lab.environment,
        "HOME": str(home),
        "KUBECONFIG": str(home / "config"),
        "HELM_CACHE_HOME": str(home / "helm"),
        "HELM_CONFIG_HOME": str(home / "helm"),
        "HELM_DATA_HOME": str(home / "helm"),
        "K9S_CONFIG_DIR": str(home / "k9s"),
        "LANG": "C.UTF-8",
    }


def program(lab, name: str, environment: dict[str, str]) -> Kubectl:
    words = (*lab.cluster.kubectl_prefix, str(lab.binary(name)))
    return Kubectl(words, environment, lab.cluster.network, name)


def answers(lab, address: tuple[str, int]) -> bool:
    try:
        lab.cluster.network.connect(address).close()
    except OSError:
        return False
    return True


@pytest.mark.programs("k9s")
class TestK9s:
    @pytest.fixture
    def screen(self, lab, environment):
        (words,) = commands("k9s")
        with Screen(
            program(lab, "k9s", environment), *words, "--headless", "--splashless"
        ) as screen:
            yield screen

    def test_pods_appear_and_what_changes_is_seen(self, lab, screen):
        shown = screen.shows(r"\bshell +● +(\d)/\1 +Running\b")
        assert "pods(default)" in shown
        lab.cluster.kubectl("create", "-f", "-", stdin=json.dumps(POD))
        try:
            screen.shows(r"\bsecond\b.*\bPending\b")
        finally:
            lab.cluster.kubectl("delete", "pod", "second", "-n", "default", "--force")
        screen.shows(r"pods\(default\)\[1\]")
        assert "second" not in screen.text
        assert "<error>" not in screen.text

    def test_logs_are_followed(self, lab, screen):
        screen.shows(r"\bshell\b.*\bRunning\b")
        screen.type(b"l")
        screen.shows(r"Logs\(default/shell")
        screen.shows(LOG_LINE[lab.node])
        screen.type(b"\x1b")
        screen.shows(r"pods\(default\)")

    def test_what_rbac_refuses_is_said_and_the_rest_goes_on(self, screen):
        screen.shows(r"\bshell\b.*\bRunning\b")
        screen.type(b":nodes\r")
        assert "nodes" in screen.shows(r"<error>(.|\n)*access denied")
        screen.type(b"\r")
        screen.shows(r"pods\(default\)(?!(.|\n)*<error>)")

    def test_it_ends_by_its_own_command(self, screen):
        screen.shows(r"\bshell\b.*\bRunning\b")
        screen.type(b":q\r")
        assert screen.wait() == 0


@pytest.mark.programs("helm")
class TestHelm:
    def test_release_is_installed_upgraded_rolled_back_and_removed(self, lab, environment):
        helm = program(lab, "helm", environment)
        install, upgrade, history, rollback, uninstall = commands("helm")

        def field(kind: str, path: str) -> str:
            words = ("get", kind, "web", "-n", "default", "-o", f"jsonpath={path}")
            return lab.cluster.kubectl(*words)

        def run(words: list[str]) -> bytes:
            return helm.output(
                *(str(CHARTS / "web") if word == "./web" else word for word in words)
            )

        try:
            assert b"STATUS: deployed" in run(install)
            assert field("configmap", "{.data.greeting}") == "hello"
            assert b"REVISION: 2" in run(upgrade)
            assert field("configmap", "{.data.greeting}") == "bonjour"
            run(rollback)
            assert field("configmap", "{.data.greeting}") == "hello"
            rows = [row.split() for row in run(history).decode().splitlines()[1:]]
            assert [row[0] for row in rows] == ["1", "2", "3"]
            assert rows[-1][-3:] == ["Rollback", "to", "1"]
            assert "deployed" in rows[-1]
            assert field("deployment", "{.status.readyReplicas}") == "1"
        finally:
            run([*uninstall, "--ignore-not-found"])
        left = lab.cluster.kubectl(
            "get", "deployments,configmaps,secrets", "-n", "default", "-o", "name"
        ).split()
        assert not [name for name in left if "web" in name]

    def test_who_may_only_view_is_refused_by_name(self, lab, environment, tmp_path):
        """ci may view; releases are Secrets, which that does not cover."""
        config = yaml.safe_load(lab.kubeconfig("ci", path=tmp_path / "config").read_text())
        config["contexts"][0]["name"] = "kube"
        (tmp_path / "config").write_text(yaml.safe_dump(config))
        helm = program(lab, "helm", {**environment, "KUBECONFIG": str(tmp_path / "config")})
        _, _, history, _, _ = commands("helm")
        done = helm.run(*history)
        assert done.returncode == 1
        assert b'User "ci-runner.lab.ts.net" cannot list resource "secrets"' in done.stderr


@pytest.fixture(scope="module")
def laptop(lab, environment, tmp_path_factory):
    """Alice's environment on a machine that has the tailnet as a network.

    What upgrades (exec) kubectl's proxy dials by itself, past the kubeconfig's ``proxy-url``.
    """
    port = lab.ports.take()
    lab.processes.start(
        "tunnel",
        [
            *(sys.executable, "-m", "tests.lab.tunnel", str(port)),
            urlsplit(lab.tailnet.nodes["alice"].http_proxy).netloc,
            f"proxy.{DOMAIN}:443",
        ],
        network=lab.cluster.network,
        cwd=Path(__file__).parents[2],
    )
    address = ("127.0.0.1", port)
    lab.processes.wait_ready("tunnel", lambda: answers(lab, address), 30)
    config = yaml.safe_load(Path(environment["KUBECONFIG"]).read_text())
    cluster = config["clusters"][0]["cluster"]
    del cluster["proxy-url"]
    cluster |= {"server": f"https://127.0.0.1:{port}", "tls-server-name": f"proxy.{DOMAIN}"}
    file = tmp_path_factory.mktemp("laptop") / "config"
    file.write_text(yaml.safe_dump(config))
    yield {**environment, "KUBECONFIG": str(file)}
    lab.processes.stop("tunnel")


class TestKubectlProxy:
    @pytest.fixture
    def port(self, lab, laptop):
        """The port of a `kubectl proxy` as the page starts it, but at a free one."""
        (words,) = commands("kubectl")
        assert words[-1] == "--port=8001"
        kubectl = program(lab, "kubectl", laptop)
        with kubectl.running(*words[:-1], "--port=0", "--reject-paths=^[^/]") as running:
            yield int(running.until(rb"Starting to serve on 127\.0\.0\.1:(\d+)")[1])

    @pytest.fixture
    def connect(self, lab, port):
        @contextmanager
        def connect():
            with closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
                connection.sock = lab.cluster.network.connect(("127.0.0.1", port), timeout=30)
                yield connection

        return connect

    def test_plain_client_lists_and_watches(self, lab, connect):
        path = "/api/v1/namespaces/default/configmaps"
        with connect() as lister, connect() as watcher:
            lister.request("GET", path)
            listed = json.load(lister.getresponse())
            assert "small" in [item["metadata"]["name"] for item in listed["items"]]
            version = listed["metadata"]["resourceVersion"]
            watcher.request("GET", f"{path}?watch=1&resourceVersion={version}")
            events = watcher.getresponse()
            body = {"metadata": {"name": "seen"}}
            lister.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            made = lister.getresponse()
            assert made.status == 201, made.read()
            made.read()
            try:
                event = json.loads(events.readline())
                assert (event["type"], event["object"]["metadata"]["name"]) == ("ADDED", "seen")
            finally:
                lister.request("DELETE", f"{path}/seen")
                assert lister.getresponse().status == 200
            event = json.loads(events.readline())
            assert event["type"] == "DELETED"

    def test_it_is_the_person_who_started_it(self, connect):
        with connect() as connection:
            connection.request("GET", "/.tailproxy/whoami")
            answer = json.load(connection.getresponse())
            assert answer["impersonates"]["user"] == "alice@example.com"
            connection.request("GET", "/api/v1/nodes")
            refused = connection.getresponse()
            assert refused.status == 403
            assert 'User "alice@example.com" cannot list' in json.load(refused)["message"]

    def test_exec_goes_through_it(self, lab, port):
        """As dashboards do it: to them, the local proxy is the API server."""
        kubectl = program(lab, "kubectl", {**lab.environment, "KUBECONFIG": "/dev/null"})
        server = f"--server=http://127.0.0.1:{port}"
        words = ("exec", "shell", "--", "sh", "-c", "echo hello from $((6 * 7))")
        assert b"hello from 42" in kubectl.output(server, *words)
