"""The manifests below `etc/`, and the rights that `tailproxy rbac` prints, in a real cluster."""

from __future__ import annotations

import json
import time

import pytest
import yaml
from click.testing import CliRunner

from tailproxy.cli.main import main
from tailproxy.policy.rights import Rights
from tests.etc import kubernetes
from tests.lab import kubeconfig

NAMESPACE = "tailproxy"
# Of the groups that callers have in the lab, those that they need.
GROUPS = "platform-team,tag:engineering"
FORMS = {
    "default": ((), Rights()),
    "narrowed": (("--groups", GROUPS), Rights(groups=tuple(GROUPS.split(",")))),
    "constrained": (("--constrained",), Rights(constrained=True)),
    "constrained-to-reading": (
        ("--constrained", "--verbs", "get,list,watch"),
        Rights(constrained=True, verbs=("get", "list", "watch")),
    ),
}


def apply(lab, documents) -> None:
    text = documents if isinstance(documents, str) else yaml.safe_dump_all(documents)
    done = lab.kubectl(
        "admin",
        "apply",
        "--force-conflicts",
        "--validate=strict",
        "--server-side",
        "-f",
        "-",
        stdin=text,
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr


@pytest.fixture(scope="module")
def installed(lab):
    """Everything of etc/kubernetes.yaml, but no pod: there is no image here."""
    documents = kubernetes()
    for document in documents:
        if document["kind"] == "Deployment":
            document["spec"]["replicas"] = 0
    apply(lab, documents)
    yield NAMESPACE
    lab.kubectl("admin", "delete", "namespace", NAMESPACE, "--wait=false")
    for kind in ("clusterrole", "clusterrolebinding"):
        lab.kubectl("admin", "delete", kind, "tailproxy-impersonator")


@pytest.fixture(scope="module")
def account(lab, installed):
    """A kubeconfig of the service account, by its own name."""
    path = lab.run / "account.kubeconfig"
    return kubeconfig.write(
        path,
        server=lab.cluster.api_url,
        ca_file=lab.cluster.ca_file,
        user=kubeconfig.with_token(lab.cluster.api.token(installed, "tailproxy")),
    )


def rules(lab, account, namespace: str) -> list[dict]:
    """What the account may do in a namespace, rule by rule."""
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": namespace},
    }
    done = lab.kubectl(
        "admin", f"--kubeconfig={account}", "create", "--validate=false", "-o", "json", "-f", "-",
        stdin=json.dumps(review),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    status = json.loads(done.stdout)["status"]
    assert not status.get("incomplete")
    return [*status["resourceRules"], *status["nonResourceRules"]]


@pytest.fixture(scope="module")
def everybodys(lab):
    """What any account may do, since it is one."""
    path = kubeconfig.write(
        lab.run / "powerless.kubeconfig",
        server=lab.cluster.api_url,
        ca_file=lab.cluster.ca_file,
        user=kubeconfig.with_token(lab.cluster.api.token("default", "default")),
    )
    return rules(lab, path, "default")


def own(lab, account, everybodys, namespace: str = "default") -> list[dict]:
    """What the account may do and others may not."""
    return [rule for rule in rules(lab, account, namespace) if rule not in everybodys]


@pytest.fixture(params=FORMS)
def form(request, lab, account, everybodys) -> str:
    """The account has these rights, and the API server knows it."""
    words, rights = FORMS[request.param]
    printed = CliRunner().invoke(main, ["rbac", *words])
    assert printed.exit_code == 0, printed.output
    apply(lab, printed.output)
    expected = sorted(map(json.dumps, _without_order(rights.rules())))
    deadline = time.monotonic() + 10
    while (
        sorted(map(json.dumps, _without_order(own(lab, account, everybodys)))) != expected
        and time.monotonic() < deadline
    ):
        time.sleep(0.1)
    return request.param


def _without_order(rows) -> list[dict]:
    return [{key: sorted(row[key]) for key in sorted(row)} for row in rows]


def test_the_account_may_impersonate_and_nothing_else(lab, account, everybodys, form):
    expected = _without_order(FORMS[form][1].rules())
    for namespace in ("default", "kube-system"):
        found = _without_order(own(lab, account, everybodys, namespace))
        assert sorted(map(json.dumps, found)) == sorted(map(json.dumps, expected)), namespace
    for words in (
        ("get", "secrets", "-A"),
        ("get", "pods", "-n", "default"),
        ("get", "secret", "tailscale-auth", "-n", NAMESPACE),
        ("create", "configmap", "mine", "-n", NAMESPACE),
        ("delete", "namespace", "default"),
    ):
        done = lab.kubectl("admin", f"--kubeconfig={account}", *words)
        assert done.returncode == 1, words
        assert "forbidden" in done.stderr.lower(), done.stderr


def test_beside_that_it_may_keep_tailscaleds_state(lab, account, everybodys):
    in_other_namespaces = _without_order(own(lab, account, everybodys))
    here = _without_order(own(lab, account, everybodys, NAMESPACE))
    assert [rule for rule in here if rule not in in_other_namespaces] == [
        {
            "apiGroups": [""],
            "resourceNames": ["tailscale-state"],
            "resources": ["secrets"],
            "verbs": ["get", "patch", "update"],
        }
    ]


@pytest.fixture
def service(lab, proxy, account, form):
    """A tailproxy with that account."""
    service = lab.start_tailproxy(
        "serve", name=f"manifests-{form}", tailproxy={"Upstream": {"Kubeconfig": str(account)}}
    )
    yield service
    assert service.stop() == 0
    proxy.announce()


def test_callers_do_what_they_may(lab, service, form):
    status, text = service.get_admin("/readyz?verbose")
    assert status == 200
    assert f"[+]impersonation ok: we may impersonate {FORMS[form][1]}\n" in text
    listed = lab.kubectl("alice", "get", "configmaps", "-n", "default")
    assert listed.returncode == 0, listed.stderr
    assert lab.kubectl("grace", "get", "nodes").returncode == 0
    assert lab.kubectl("ci", "get", "pods", "-A").returncode == 0
    assert lab.kubectl("alice", "get", "--raw", "/version").returncode == 0
    refused = lab.kubectl("mallory", "get", "pods")
    assert 'User "mallory@example.com" cannot list' in refused.stderr
    if form == "constrained-to-reading":
        # What the form before allowed the API server remembers for some seconds: not this.
        done = lab.kubectl("alice", "delete", "configmap", "small", "--dry-run=server")
        assert done.returncode == 1
        assert "forbidden" in done.stderr
        assert "impersonate" in done.stderr
    else:
        made = lab.kubectl("alice", "create", "configmap", form, "-n", "default")
        assert made.returncode == 0, made.stderr
        assert lab.kubectl("alice", "exec", "shell", "--", "echo", "hi").stdout == "hi\n"
        assert lab.kubectl("alice", "delete", "configmap", form).returncode == 0


def test_a_group_that_may_not_be_impersonated_gives_nothing(lab, account, form):
    # What a forged or careless grant of system:masters would lead to.
    done = lab.kubectl(
        "admin", f"--kubeconfig={account}", "--as=a@example.com", "--as-group=system:masters",
        "get", "secrets", "-n", "kube-system",
    )  # fmt: skip
    if form == "default":
        assert done.returncode == 0, done.stderr
    else:
        assert done.returncode == 1
        assert "Forbidden" in done.stderr


@pytest.mark.usefixtures("installed")
class TestPod:
    @staticmethod
    def create(lab, change=None):
        (template,) = (
            document["spec"]["template"]
            for document in kubernetes()
            if document["kind"] == "Deployment"
        )
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {**template["metadata"], "name": "probe", "namespace": NAMESPACE},
            "spec": template["spec"],
        }
        if change is not None:
            change(pod["spec"])
        return lab.kubectl(
            "admin", "create", "--dry-run=server", "--validate=strict", "-f", "-",
            stdin=yaml.safe_dump(pod),
        )  # fmt: skip

    def test_it_is_admitted_where_pods_are_restricted(self, lab):
        done = self.create(lab)
        assert done.returncode == 0, done.stderr
        assert "Warning" not in done.stderr

    def test_one_with_more_rights_is_not(self, lab):
        def more(spec):
            spec["initContainers"][0]["securityContext"]["capabilities"] = {"add": ["NET_ADMIN"]}

        done = self.create(lab, more)
        assert done.returncode == 1
        assert "PodSecurity" in done.stderr
