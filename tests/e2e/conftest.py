"""tailproxy in the lab."""

from __future__ import annotations

import socket
import ssl
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.client import address_of, ask
from tests.e2e.spy import upstream
from tests.lab import pki
from tests.lab.tailnet import CAPABILITY
from tests.record.recorder import Recorder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.lab.lab import Lab
    from tests.lab.service import Service
    from tests.lab.tailnet import Node


@pytest.fixture(scope="session")
def proxy(lab: Lab) -> Iterator[Service]:
    """A tailproxy in auth mode at https://proxy.lab.ts.net, as its user would start it.

    It serves the whole session; when it ends, it must have ended in good order.
    """
    service = lab.start_tailproxy("serve", "loopback")
    yield service
    assert service.stop() == 0, service.log.read_text()[-3000:]


@pytest.fixture(scope="session", autouse=True)
def nothing_leaves(lab: Lab) -> Iterator[None]:
    """On the real node every packet is seen: none may have left the lab's own networks."""
    yield
    if lab.node == "kubelet":
        assert lab.cluster.packets.strays() == []


@pytest.fixture(scope="session")
def soak(request: pytest.FixtureRequest) -> bool:
    """Whether the long counts run in full."""
    return bool(request.config.getoption("--soak"))


@pytest.fixture(scope="module")
def place(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Node]:
    """A node of the tailnet that hands its ports on to 127.0.0.1."""
    module = request.module.__name__.rpartition(".")[2].replace("_", "-")
    node = lab.tailnet.add_node(f"recorder-{module}", tags=["tag:recorder"])
    lab.tailnet.allow("*", src="tag:k8s", dst="tag:recorder")
    yield node
    node.stop()


@pytest.fixture
def recorder(lab: Lab, place: Node) -> Iterator[Recorder]:
    """A recorder at that node; its `address` is what a grant names."""
    listener = lab.cluster.network.open_socket()
    listener.bind(("127.0.0.1", 0))
    with Recorder(listener=listener) as recorder:
        recorder.address = f"{place.addresses[0]}:{recorder.port}"
        yield recorder


@pytest.fixture
def demand(lab: Lab, proxy: Service) -> Iterator[Callable[..., str]]:
    """Give alice a rule in the tailnet's policy, and wait until the proxy knows."""
    before = lab.tailnet.policy
    address = address_of(lab, "alice")

    def rules() -> list[Any]:
        found: list[Any] = ask(lab, proxy, address, "/.tailproxy/whoami").json["rules"]
        return found

    def until(count: int) -> None:
        deadline = time.monotonic() + 5
        while len(rules()) != count:
            assert time.monotonic() < deadline, rules()
            time.sleep(0.05)

    def give(recorder: str, *, enforced: bool = True, **more: bool) -> str:
        rule = {"recorderAddrs": [recorder]} if recorder else {}
        grant = {
            "src": ["alice@example.com"],
            "dst": ["tag:k8s"],
            "app": {CAPABILITY: [{**rule, "enforceRecorder": enforced, **more}]},
        }
        lab.tailnet.edit_policy(lambda policy: policy["grants"].append(grant))
        until(1)
        return address

    yield give
    lab.tailnet.set_policy(before)
    until(0)


@pytest.fixture
def played(lab: Lab, proxy: Service) -> Iterator[tuple[Service, socket.socket, ssl.SSLContext]]:
    """A tailproxy, and the listening socket of an API server that the test plays itself."""
    authority = pki.Authority("upstream-ca")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("x", names=["127.0.0.1"]).write(lab.run, "played"))
    listening = lab.cluster.network.open_socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(64)
    port = listening.getsockname()[1]
    service = lab.start_tailproxy(
        "serve",
        name="played",
        tailproxy={"Upstream": upstream(lab, "played", port, authority.certificate)},
        ready="/livez",
    )
    yield service, listening, context
    listening.close()
    assert service.stop() == 0
    proxy.announce()
