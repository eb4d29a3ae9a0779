"""The recipes of docs/gitops.md: Secrets of ArgoCD and Flux, used as those use them."""

from __future__ import annotations

import json
import re
import subprocess

import pytest
import yaml

from tests.docs.pages import blocks
from tests.lab.tailnet import DOMAIN

pytestmark = [pytest.mark.programs("gitops"), pytest.mark.usefixtures("proxy")]

TAG = "tag:gitops"
TOOLS = {"argocd": "argocd", "flux": "flux-system"}


@pytest.fixture(scope="module")
def node(lab):
    """The tailnet node beside the controller."""
    node = lab.tailnet.add_node("gitops", tags=[TAG])
    yield node
    node.stop()


@pytest.fixture(scope="module")
def manifests(node):
    """What the page shows, with the lab's addresses in place of its examples."""
    page = "---\n".join(blocks("docs/gitops.md", "yaml"))
    page = page.replace("kube.example.ts.net", f"proxy.{DOMAIN}")
    page = re.sub(r"http://tailnet\.[\w-]+:1055", node.http_proxy, page)
    return list(yaml.safe_load_all(page))


def of_kind(manifests, kind):
    return [doc for doc in manifests if doc["kind"] == kind]


@pytest.fixture(scope="module")
def namespaces(lab, manifests):
    """The namespaces of both tools, with the Secrets of the page."""
    for name in TOOLS.values():
        lab.cluster.kubectl("create", "namespace", name)
    for secret in of_kind(manifests, "Secret"):
        lab.cluster.kubectl("apply", "-f", "-", stdin=json.dumps(secret))
    yield
    for name in TOOLS.values():
        lab.cluster.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def rights(lab, manifests):
    """What step 2 grants to the tag."""
    (binding,) = of_kind(manifests, "RoleBinding")
    lab.cluster.kubectl("apply", "-f", "-", stdin=json.dumps(binding))
    yield
    lab.cluster.kubectl("delete", "rolebinding", "gitops", "-n", "default")


def reconcile(lab, tool: str) -> subprocess.CompletedProcess[str]:
    """Run the client; a server's certificate must be of who the system trusts, here the lab's."""
    return subprocess.run(
        [
            *lab.cluster.kubectl_prefix,
            lab.binary("gitops"),
            tool,
            lab.cluster.admin_kubeconfig,
            f"{TOOLS[tool]}/kube",
        ],
        env={**lab.environment, "SSL_CERT_FILE": str(lab.tailnet.ca_file)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.usefixtures("namespaces", "rights")
def test_secret_of_the_page_lets_the_tool_list_apply_and_watch(lab, tool):
    try:
        done = reconcile(lab, tool)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert found["host"] == f"proxy.{DOMAIN}"
        assert found["user"] == f"gitops.{DOMAIN}"
        assert TAG in found["groups"]
        assert "default/shell" in found["pods"]
        assert found["watched"] == tool
    finally:
        lab.cluster.kubectl(
            "delete", "configmap", f"from-{tool}", "-n", "default", "--ignore-not-found"
        )


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.usefixtures("namespaces")
def test_without_rights_for_its_tag_the_tool_is_known_and_refused(lab, tool):
    done = reconcile(lab, tool)
    assert done.returncode == 1
    assert f'pods is forbidden: User "gitops.{DOMAIN}" cannot list' in done.stderr


@pytest.mark.usefixtures("namespaces")
def test_the_node_and_its_policy_are_accepted_by_the_api_server(lab, manifests):
    kinds = ("Deployment", "Service", "NetworkPolicy")
    mine = [doc for kind in kinds for doc in of_kind(manifests, kind)]
    assert len(mine) == len(kinds)
    for doc in mine:
        lab.cluster.kubectl(
            "apply", "--dry-run=server", "--validate=strict", "-f", "-", stdin=json.dumps(doc)
        )
    deployment, service, policy = mine
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"] == policy["spec"]["podSelector"]["matchLabels"] == labels


def test_the_kustomization_names_the_secret_of_the_page(manifests):
    (kustomization,) = of_kind(manifests, "Kustomization")
    wanted = kustomization["spec"]["kubeConfig"]["secretRef"]["name"]
    space = kustomization["metadata"]["namespace"]
    names = [doc["metadata"] for doc in of_kind(manifests, "Secret")]
    assert {"name": wanted, "namespace": space} in names
