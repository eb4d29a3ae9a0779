"""Everything that kubectl does, through tailproxy, over SPDY and over WebSocket.

The same list runs straight at the API server in `tests.lab.test_node`, so that a difference is
ours.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.lab.lab import KUBECTLS
from tests.lab.operations import OPERATIONS, Kubectl, Scene

pytestmark = pytest.mark.usefixtures("proxy")

SPDY = {"KUBECTL_REMOTE_COMMAND_WEBSOCKETS": "false", "KUBECTL_PORT_FORWARD_WEBSOCKETS": "false"}
#: By name: the version of kubectl, and what makes it choose a protocol.
CLIENTS = {"1.27-spdy": ("1.27", {}), "1.36-websocket": ("1.36", {}), "1.36-spdy": ("1.36", SPDY)}
PROTOCOLS = {"1.27-spdy": "SPDY/3.1", "1.36-websocket": "websocket", "1.36-spdy": "SPDY/3.1"}


def others() -> list[Path]:
    """Any kubectl that this machine has of its own.

    Some packages put several generations beside one another, as kubectl.1.30; a plain kubectl
    there only chooses among them.
    """
    start = [Path(folder, "kubectl") for folder in os.get_exec_path()]
    folders = {file.resolve().parent for file in start if file.exists()}
    found = sorted(file for folder in folders for file in folder.glob("kubectl.1.*"))
    return found or sorted({file.resolve() for file in start if file.exists()})


@pytest.fixture(scope="module")
def device(lab, request):
    """A device of alice's for one client alone, and that client.

    A userspace tailscaled does not answer a port of a peer that it has had a connection with in
    the last minute (it is in TIME-WAIT there), so hundreds of sessions from one device in a minute
    would now and then choose such a port, and hang.
    """
    clients = [*CLIENTS, *map(str, others())]
    node = lab.tailnet.add_node(
        f"alice-device-{clients.index(request.param)}", user="alice@example.com"
    )
    yield node.name, request.param
    node.stop()


def scene_of(lab, folder: Path, device: tuple[str, str]) -> Scene:
    caller, client = device
    if client in CLIENTS:
        version, environment = CLIENTS[client]
        scene = Scene.of(lab, caller, folder, version=version)
    else:
        environment = {}
        scene = Scene.of(lab, caller, folder)
        pinned = str(lab.binary(KUBECTLS["1.36"]))
        words = tuple(client if word == pinned else word for word in scene.kubectl.words)
        scene = replace(scene, kubectl=Kubectl(words, scene.kubectl.env, scene.kubectl.network))
    kubectl = scene.kubectl
    return replace(
        scene, kubectl=Kubectl(kubectl.words, {**kubectl.env, **environment}, kubectl.network)
    )


@pytest.mark.parametrize(
    "operation",
    [
        pytest.param(row, id=row.name, marks=() if row.kwok else pytest.mark.node)
        for row in OPERATIONS
    ],
)
@pytest.mark.parametrize("device", [*CLIENTS, *map(str, others())], indirect=True)
def test_kubectl_does_it_through_tailproxy(lab, tmp_path, device, operation):
    operation(scene_of(lab, tmp_path, device))


def sessions(proxy, before: int) -> list[dict]:
    lines = [json.loads(line) for line in proxy.log.read_text().splitlines()[before:]]
    return [line for line in lines if str(line.get("path", "")).endswith("/pods/shell/exec")]


@pytest.mark.parametrize("client", CLIENTS)
def test_kubectl_speaks_the_protocol_it_was_chosen_for(lab, proxy, tmp_path, client):
    """Otherwise the list above would show less than it says."""
    before = len(proxy.log.read_text().splitlines())
    scene_of(lab, tmp_path, ("alice", client)).exec("true")
    deadline = time.monotonic() + 5
    # The line is written when the stream has ended, which kubectl does not wait for.
    while not (found := sessions(proxy, before)):
        assert time.monotonic() < deadline, "the session is not in the access log"
        time.sleep(0.02)
    [line] = found
    assert line["upgrade"] == PROTOCOLS[client]
    assert line["status"] == 101
    assert line["user"] == "alice@example.com"
