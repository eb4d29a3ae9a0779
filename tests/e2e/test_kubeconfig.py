"""`tailproxy kubeconfig` beside `tailscale configure kubeconfig`, and kubectl with the results."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tailproxy.client.kubeconfigfile import change
from tailproxy.wire.kubeconfig import Edit, Entry, add
from tests.lab.tailnet import DOMAIN

pytestmark = pytest.mark.usefixtures("proxy")

NAME = f"proxy.{DOMAIN}"
ROOT = Path(__file__).parent.parent.parent
HEAD = "apiVersion: v1\nkind: Config\n"
LAB = f"""\
# mine
{HEAD}clusters:
- cluster:
    certificate-authority-data: QUJD
    server: https://127.0.0.1:1
  name: lab
contexts:
- context:
    cluster: lab
    user: bob
  name: lab
current-context: lab
users:
- name: bob
  user:
    token: secret
"""
# The inputs of the golden cases (spec/dataplane.md 10.6), as far as both commands take them.
GOLDEN = {
    "dp_K1": "",
    "dp_K3": LAB,
    "dp_K5": f"{HEAD}clusters:\n- name: {NAME}\n  cluster:\n    server: https://127.0.0.1:1\n"
    "    certificate-authority-data: QUJD\n",
    "dp_K6": f"{HEAD}users:\n- name: tailscale-auth\n  user: {{token: keepme}}\n",
    "dp_K7": f"{HEAD}clusters: null\nusers: null\ncontexts: null\n",
    "dp_K8": f"{HEAD}clusters: {{a: b}}\npreferences: {{colors: true}}\n",
    "dp_K10": "# a comment alone\n",
}
REFUSED = {"kind": "apiVersion: v1\nkind: Pod\n", "empty": "{}", "list": "- a\n", "broken": "{"}


class Person:
    """Alice at her laptop, with a kubeconfig of her own."""

    def __init__(self, lab, folder: Path) -> None:
        self.lab = lab
        self.node = lab.tailnet.nodes["alice"]
        self.file = folder / "config"
        # Her tailscaled has no network interface: kubectl goes by its HTTP proxy. The lab's
        # certificates are not among those that every system trusts.
        self.environ = {
            **lab.environment,
            "KUBECONFIG": str(self.file),
            "HTTPS_PROXY": self.node.http_proxy,
            "SSL_CERT_FILE": str(lab.tailnet.ca_file),
        }

    def run(self, *words: object, code: int | None = 0, **environ: str):
        done = subprocess.run(
            [str(word) for word in words],
            capture_output=True,
            text=True,
            env={**self.environ, **environ},
            cwd=ROOT,
            timeout=60,
            check=False,
        )
        assert code is None or done.returncode == code, done.stderr
        return done

    def ours(self, *words: object, **options):
        program = "from tailproxy.cli.main import main; main()"
        return self.run(
            sys.executable, "-c", program, "kubeconfig", *words, "--socket", self.node.socket,
            **options,
        )  # fmt: skip

    def theirs(self, *words: object, **options):
        program = self.lab.binary("tailscale")
        return self.run(
            program, f"--socket={self.node.socket}", "configure", "kubeconfig", *words, **options
        )

    def kubectl(self, *words: object, **options):
        prefix = self.lab.cluster.kubectl_prefix
        return self.run(*prefix, self.lab.binary("kubectl"), *words, **options)

    def sees_pods(self) -> bool:
        return "shell" in self.kubectl("get", "pods", "-o", "name").stdout

    def wait_until_a_peer_has(self, prefix: str) -> None:
        deadline = time.monotonic() + 10
        while True:
            peers = self.node.api.call("GET", "status")["Peer"].values()
            if any(prefix in (peer.get("AllowedIPs") or ()) for peer in peers):
                return
            assert time.monotonic() < deadline, f"no peer has {prefix}"
            time.sleep(0.05)

    def user(self, **options) -> str:
        done = self.kubectl("auth", "whoami", "-o", "json", **options)
        return json.loads(done.stdout)["status"]["userInfo"]["username"]


@pytest.fixture
def alice(lab, tmp_path) -> Person:
    return Person(lab, tmp_path)


class TestBoth:
    @pytest.mark.parametrize("first", ["ours", "theirs"])
    def test_one_after_the_other_on_one_file_and_kubectl_with_each(self, alice, first):
        commands = [alice.ours, alice.theirs]
        if first == "theirs":
            commands.reverse()
        found = []
        for command in commands:
            command("proxy")
            found.append(yaml.safe_load(alice.file.read_text()))
            assert alice.sees_pods()
            assert alice.user() == "alice@example.com"
        assert found[0] == found[1]

    @pytest.mark.parametrize("text", GOLDEN.values(), ids=GOLDEN)
    def test_the_same_becomes_of_the_same_file(self, alice, text):
        results = []
        for command in (alice.theirs, alice.ours):
            alice.file.write_text(text)
            command("proxy")
            results.append(yaml.safe_load(alice.file.read_text()))
        assert results[0] == results[1]
        assert results[0]["current-context"] == NAME

    @pytest.mark.parametrize(
        "words", [["--http", "proxy"], ["--http", "https://Proxy"], ["http://proxy"], [f"{NAME}."]]
    )
    def test_the_same_is_meant_by_the_same_words(self, alice, words):
        """dp_K2, dp_K13, dp_K16."""
        results = []
        for command in (alice.theirs, alice.ours):
            alice.file.unlink(missing_ok=True)
            command(*words)
            results.append(alice.file.read_text())
        assert results[0] == results[1]

    def test_an_address_becomes_the_name(self, alice):
        """dp_K15, of a node."""
        results = []
        for command in (alice.theirs, alice.ours):
            alice.file.unlink(missing_ok=True)
            command(alice.lab.tailnet.nodes["proxy"].addresses[0])
            results.append(alice.file.read_text())
        assert results[0] == results[1]
        assert f"server: https://{NAME}\n" in results[0]

    @pytest.mark.parametrize("text", REFUSED.values(), ids=REFUSED)
    def test_what_is_no_kubeconfig_is_refused_by_both_dp_K9(self, alice, text):
        alice.file.write_text(text)
        for command in (alice.theirs, alice.ours):
            assert "invalid kubeconfig" in command("proxy", code=1).stderr
            assert alice.file.read_text() == text

    def test_the_same_file_of_a_list_is_taken_dp_K11(self, alice, tmp_path):
        (tmp_path / "dir").mkdir()
        listed = f"{tmp_path}/no:{tmp_path}/dir:{tmp_path}/b"
        for command in (alice.theirs, alice.ours):
            (tmp_path / "b").write_text("")
            command("proxy", KUBECONFIG=listed)
            assert NAME in (tmp_path / "b").read_text()
            assert not (tmp_path / "no").exists()

    def test_a_service_that_no_node_has_now_dp_K14(self, alice):
        """Theirs refuses it; we warn, since the node may be back in a minute."""
        assert "not currently reachable" in alice.theirs("kube", code=1).stderr
        assert not alice.file.exists()
        for argument in ("kube", "svc:kube", "100.100.0.1"):
            said = alice.ours(argument).stderr
            assert f"Warning: kube.{DOMAIN} is in MagicDNS, and no node" in said
            assert f"server: https://kube.{DOMAIN}\n" in alice.file.read_text()

    def test_a_service_that_a_node_has_becomes_its_name(self, alice):
        """dp_K13, dp_K15 of a Service."""
        host = alice.lab.tailnet.nodes["proxy"]
        before = host.api.call("GET", "serve-config") or {}
        host.serve(443, "127.0.0.2:1", service="svc:kube")
        try:
            alice.wait_until_a_peer_has("100.100.0.1/32")
            for argument in ("https://Kube", "100.100.0.1"):
                texts = []
                for command in (alice.theirs, alice.ours):
                    alice.file.unlink(missing_ok=True)
                    done = command("--http", argument)
                    texts.append(alice.file.read_text())
                assert "Warning" not in done.stderr
                assert texts[0] == texts[1]
        finally:
            host.api.call("POST", "serve-config", before)
            host.api.call("PATCH", "prefs", {"AdvertiseServicesSet": True, "AdvertiseServices": []})

    def test_a_name_that_nobody_has_is_refused_by_both_dp_K17(self, alice):
        assert "no peer found" in alice.theirs("nobody", code=1).stderr
        said = alice.ours("nobody", code=1).stderr
        assert f"a full name such as nobody.{DOMAIN} is taken as it is" in said
        assert not alice.file.exists()


class TestOurs:
    def test_the_file_holds_all_that_kubectl_needs(self, alice):
        """With CA and HTTP proxy in the file, nothing is needed in the environment."""
        alice.file.write_text(LAB)
        alice.ours(
            "proxy", "--context=x", "--namespace=kube-system", f"--ca={alice.lab.tailnet.ca_file}",
            f"--proxy-url={alice.node.http_proxy}", "--no-set-current",
        )  # fmt: skip
        bare = {"HTTPS_PROXY": "", "SSL_CERT_FILE": ""}
        done = alice.kubectl("--context=x", "get", "pods", code=1, **bare)
        assert 'User "alice@example.com" cannot list' in done.stderr
        assert 'in the namespace "kube-system"' in done.stderr
        assert alice.kubectl("config", "current-context").stdout == "lab\n"
        assert alice.file.read_text().startswith("# mine\n")

    def test_a_printed_kubeconfig_is_a_whole_one(self, alice, tmp_path):
        printed = alice.ours("proxy", "-o", "-").stdout
        (tmp_path / "printed").write_text(printed)
        assert not alice.file.exists()
        assert alice.user(KUBECONFIG=str(tmp_path / "printed")) == "alice@example.com"

    @pytest.mark.parametrize(
        "text",
        [
            json.dumps(yaml.safe_load(LAB), indent="\t"),
            json.dumps(yaml.safe_load(LAB), separators=(",", ":")),
            LAB.replace("\n", "\r\n"),
            "\ufeff" + LAB,
            f"%YAML 1.1\n---\n{LAB}---\nanother: document\n",
            LAB.replace("server: https", "server: &s https") + "x: *s\n",
            f"{HEAD}clusters: [] # none\ncontexts:\nusers: ~",
        ],
        ids=["tabs", "compact", "crlf", "mark", "documents", "anchor", "empty"],
    )
    def test_kubectl_reads_what_becomes_of_any_file(self, alice, text):
        alice.file.write_text(text, newline="")
        alice.ours("proxy")
        seen = json.loads(alice.kubectl("config", "view", "-o", "json", "--raw").stdout)
        assert seen["current-context"] == NAME
        assert {"name": NAME, "cluster": {"server": f"https://{NAME}"}} in seen["clusters"]
        others = {each["name"] for each in seen["clusters"]} - {NAME}
        assert others == ({"lab"} if "lab" in text else set())
        assert alice.user() == "alice@example.com"

    def test_kubectl_completes_the_command(self, alice, tmp_path):
        for name, entry in (
            ("kubectl-tailproxy", "main:kubectl"),
            ("kubectl_complete-tailproxy", "completion:complete"),
        ):
            module, _, function = entry.partition(":")
            script = tmp_path / name
            script.write_text(
                f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(ROOT)!r})\n"
                f"from tailproxy.cli.{module} import {function}\n{function}()\n"
            )
            script.chmod(0o755)
        path = f"{tmp_path}:{alice.environ['PATH']}"
        done = alice.kubectl("__complete", "tailproxy", "kubec", PATH=path)
        assert done.stdout.splitlines()[0].startswith("kubeconfig\tHave kubectl reach")
        done = alice.kubectl(
            "tailproxy", "kubeconfig", "https://kube.example.ts.net", "-o", "-", PATH=path
        )
        assert "server: https://kube.example.ts.net\n" in done.stdout

    def test_kubectl_waits_outside_while_we_write(self, alice):
        alice.file.write_text(LAB)
        seen = []

        def edit(text: str) -> Edit:
            done = alice.kubectl("config", "set-context", "lab", "--namespace=x", code=1)
            seen.append(done.stderr)
            return add(text, Entry(f"https://{NAME}", NAME, NAME))

        change(alice.file, edit)
        assert f"{alice.file}.lock: file exists" in seen[0]
        alice.kubectl("config", "set-context", "lab", "--namespace=x")
        assert "namespace: x" in alice.file.read_text()


@pytest.fixture
def noauth(lab, proxy):
    service = lab.start_tailproxy(
        "serve", name="kubeconfig-noauth", config={"APIServerProxy": {"Mode": "noauth"}}
    )
    yield service
    assert service.stop() == 0
    proxy.announce()


@pytest.mark.usefixtures("noauth")
def test_own_credentials_are_kept_behind_a_proxy_in_noauth_mode(alice):
    token = alice.lab.cluster.api.token("default", "default", 3600)
    alice.file.write_text(LAB.replace("secret", token))
    alice.ours("proxy", "--keep-user")
    assert alice.user() == "system:serviceaccount:default:default"
    alice.ours("proxy")
    done = alice.kubectl("get", "pods", code=1)
    assert "Unauthorized" in done.stderr or "must be logged in" in done.stderr
