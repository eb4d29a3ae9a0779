"""noauth mode: the client's own credentials count, and still nobody unknown gets in."""

from __future__ import annotations

import json
import sys

import pytest
import yaml

from tests.e2e.client import ask
from tests.lab.tailnet import STRANGER


@pytest.fixture(scope="module")
def noauth(lab, proxy):
    service = lab.start_tailproxy(
        "serve", name="noauth", config={"APIServerProxy": {"Mode": "noauth"}}
    )
    yield service
    assert service.stop() == 0
    proxy.announce()


def with_user(lab, name: str, user: dict):
    """Alice's kubeconfig with a credential of her own."""
    content = yaml.safe_load(lab.kubeconfig("alice").read_text())
    content["users"][0]["user"] = user
    path = lab.run / f"{name}.kubeconfig"
    path.write_text(yaml.safe_dump(content))
    path.chmod(0o600)
    return path


def username(lab, path) -> str:
    done = lab.kubectl("alice", "auth", "whoami", "-o", "json", f"--kubeconfig={path}")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["status"]["userInfo"]["username"]


@pytest.mark.usefixtures("noauth")
def test_client_token_counts(lab):
    token = lab.cluster.api.token("default", "default", 3600)
    path = with_user(lab, "noauth-token", {"token": token})
    assert username(lab, path) == "system:serviceaccount:default:default"


@pytest.mark.usefixtures("noauth")
def test_exec_plugin_of_the_client_counts(lab):
    token = lab.cluster.api.token("default", "default", 3600)
    credential = json.dumps(
        {
            "apiVersion": "client.authentication.k8s.io/v1",
            "kind": "ExecCredential",
            "status": {"token": token},
        }
    )
    path = with_user(
        lab,
        "noauth-exec",
        {
            "exec": {
                "apiVersion": "client.authentication.k8s.io/v1",
                "command": sys.executable,
                "args": ["-c", f"print({credential!r})"],
                "interactiveMode": "Never",
            }
        },
    )
    assert username(lab, path) == "system:serviceaccount:default:default"


@pytest.mark.usefixtures("noauth")
def test_without_credentials_the_api_server_refuses(lab):
    done = lab.kubectl("alice", "get", "pods")
    assert done.returncode != 0
    assert "Unauthorized" in done.stderr or "logged in" in done.stderr


def test_stranger_is_refused_all_the_same(lab, noauth):
    assert ask(lab, noauth, STRANGER, "/api/v1/namespaces").status == 401
