"""The tailnet of a lab: a control server, a node for the proxy, and a node per caller.

Nodes are tailscaled processes with userspace networking: no root, no interface of the machine. A
caller's tailscaled is also an HTTP proxy into the tailnet, for clients that take one (kubectl's
``proxy-url``).
"""

from __future__ import annotations

import http.client
import json
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.lab.errors import LabError
from tests.lab.localapi import LocalApi
from tests.lab.process import replace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from tests.lab.network import Network, Ports
    from tests.lab.process import Processes

DOMAIN = "lab.ts.net"
CAPABILITY = "tailscale.com/cap/kubernetes"
#: An address of the tailnet's range that no node owns.
STRANGER = "100.127.255.1"
PROXY = "proxy"
#: Nothing leaves the machine: no port mapping at a gateway, no logs to anyone.
QUIET = {"TS_DISABLE_PORTMAPPER": "true", "TS_NO_LOGS_NO_SUPPORT": "true"}
READY_SECONDS = 30.0


@dataclass(frozen=True)
class Member:
    """Who a node is: a user's, or tagged.

    :ivar host: its host name, the first label of its MagicDNS name.
    """

    host: str
    user: str | None = None
    tags: tuple[str, ...] = ()

    @property
    def rule(self) -> dict[str, Any]:
        """The node's entry in the policy."""
        return {"user": self.user} if self.user else {"tags": list(self.tags)}


MEMBERS: Mapping[str, Member] = {
    PROXY: Member("proxy", tags=("tag:k8s",)),
    "alice": Member("alice-laptop", user="alice@example.com"),
    "ci": Member("ci-runner", tags=("tag:engineering",)),
    "grace": Member("grace-laptop", user="grace@example.com"),
    "mallory": Member("mallory-laptop", user="mallory@example.com"),
}
CALLERS = tuple(name for name in MEMBERS if name != PROXY)


def default_policy() -> dict[str, Any]:
    """Everyone reaches the proxy by https and by the redirect's http; grace's group is granted."""
    proxies = ["tag:k8s", "svc:kube"]
    return {
        "domain": DOMAIN,
        "tailnet": "example.com",
        "nodes": {member.host: member.rule for member in MEMBERS.values()},
        "services": {"svc:kube": ["100.100.0.1", "fd7a:115c:a1e0::a01:1"]},
        "grants": [
            {"src": ["*"], "dst": proxies, "ip": ["tcp:443", "tcp:80"]},
            {
                "src": ["grace@example.com"],
                "dst": proxies,
                "app": {CAPABILITY: [{"impersonate": {"groups": ["platform-team"]}}]},
            },
        ],
    }


class Node:
    """One tailscaled. Its state is in a file: started again it is the same node.

    :ivar name: what the lab calls it, such as ``alice``.
    :ivar api: its LocalAPI.
    :ivar http_proxy: URL of its HTTP proxy into the tailnet.
    """

    def __init__(
        self,
        tailnet: Tailnet,
        name: str,
        member: Member,
        port: int,
        tun: str = "userspace-networking",
    ) -> None:
        self._tailnet = tailnet
        self._tun = tun
        self.name = name
        self.member = member
        self._port = port
        self.folder = tailnet.run / name
        self.socket = self.folder / "tailscaled.sock"
        self.api = LocalApi(self.socket)
        self.http_proxy = f"http://127.0.0.1:{port}"

    @property
    def process(self) -> str:
        """Name of its process, and of the log."""
        return f"tailscaled-{self.name}"

    @property
    def fqdn(self) -> str:
        """Its MagicDNS name, without the final dot."""
        return f"{self.member.host}.{DOMAIN}"

    @property
    def addresses(self) -> list[str]:
        """Its tailnet addresses, IPv4 first; the same as long as the lab lives."""
        found = self.api.call("GET", "status?peers=false")["TailscaleIPs"]
        return sorted((str(address) for address in found), key=lambda text: ":" in text)

    def start(self) -> None:
        """Start it; see `wait`."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        self._tailnet.processes.start(
            self.process,
            [
                self._tailnet.binaries["tailscaled"],
                f"--tun={self._tun}",
                f"--statedir={self.folder}",
                f"--state={self.folder / 'tailscaled.state'}",
                f"--socket={self.socket}",
                "--port=0",
                "--no-logs-no-support",
                f"--outbound-http-proxy-listen=127.0.0.1:{self._port}",
            ],
            network=self._tailnet.network,
            env={
                **QUIET,
                "TS_LOGS_DIR": str(self.folder),
                "TS_DEBUG_ACME_DIRECTORY_URL": f"{self._tailnet.control_url}/acme/directory",
            },
        )

    def login(self) -> None:
        """Bring it into the tailnet, the first time."""
        self._wait(lambda: bool(self.api.call("GET", "prefs")))
        prefs = {
            "ControlURL": self._tailnet.control_url,
            "Hostname": self.member.host,
            "WantRunning": True,
            "RouteAll": True,  # the addresses of Services
            "CorpDNS": True,
        }
        if self._tun != "userspace-networking":
            # Neither the machine's resolver nor its packet filter is ours to change.
            prefs |= {"CorpDNS": False, "NetfilterMode": 0}
        self.api.call("POST", "start", {"AuthKey": "lab", "UpdatePrefs": prefs})
        self.api.call("POST", "login-interactive")  # with the key: nobody is asked

    def wait(self) -> None:
        """Wait until it is connected to its tailnet."""
        self._wait(self.api.running)

    def _wait(self, condition: Callable[[], bool]) -> None:
        self._tailnet.processes.wait_ready(self.process, condition, READY_SECONDS)

    def stop(self) -> None:
        """End it. It stays a node of the tailnet, offline."""
        self._tailnet.processes.stop(self.process)

    def serve(
        self,
        port: int,
        target: str,
        *,
        terminate_tls: bool = True,
        proxy_protocol: int = 2,
        service: str | None = None,
    ) -> None:
        """Hand connections to a port of the node on to a listener of this machine.

        :param target: ``IP:PORT`` of that listener.
        :param terminate_tls: whether tailscaled ends TLS, with the node's certificate.
        :param proxy_protocol: version of the PROXY header in front; 0 for none.
        :param service: a Tailscale Service (``svc:NAME``) whose port it is, instead of the node's;
            it is advertised.
        """
        name = f"{service.removeprefix('svc:')}.{DOMAIN}" if service else self.fqdn
        handler: dict[str, Any] = {"TCPForward": target}
        if terminate_tls:
            handler["TerminateTLS"] = name
        if proxy_protocol:
            handler["ProxyProtocol"] = proxy_protocol
        config = self.api.call("GET", "serve-config") or {}
        scope = config
        if service:
            services = config["Services"] = config.get("Services") or {}
            scope = services.setdefault(service, {})
        scope["TCP"] = {**(scope.get("TCP") or {}), str(port): handler}
        self.api.call("POST", "serve-config", config)
        if service:
            advertised = self.api.call("GET", "prefs").get("AdvertiseServices") or []
            self.api.call(
                "PATCH",
                "prefs",
                {
                    "AdvertiseServicesSet": True,
                    "AdvertiseServices": sorted({*advertised, service}),
                },
            )

    def serve_nothing(self) -> None:
        """Undo every `serve`."""
        self.api.call("POST", "serve-config", {})


class Tailnet:
    """The control server and the nodes.

    :param run: folder for state; each node has one of its own below it.
    :param network: where all of it lives.
    :param binaries: paths of the programs in `parts`.
    :ivar nodes: by name; see `MEMBERS`.
    :ivar ca_file: PEM file of who issues the nodes' certificates.
    """

    parts = ("labcontrol", "tailscaled")

    def __init__(
        self,
        run: Path,
        processes: Processes,
        ports: Ports,
        binaries: Mapping[str, Path],
        network: Network,
    ) -> None:
        self.run = run
        self.processes = processes
        self.ports = ports
        self.binaries = binaries
        self.network = network
        self.ca_file = run / "acme-ca.crt"
        self.policy_file = run / "policy.json"
        self._control = ("127.0.0.1", ports.take())
        self._policy = default_policy()
        self.nodes: dict[str, Node] = {}

    @property
    def control_url(self) -> str:
        """URL of the control server."""
        return "http://{}:{}".format(*self._control)

    def start(self, say: Callable[[str], None]) -> None:
        """Start everything; return when all nodes are connected and the proxy has a certificate.

        :param say: is told what is done, in short lines.
        :raises LabError: a part does not start.
        """
        self.set_policy(self._policy)
        self.processes.start(
            "labcontrol",
            [
                self.binaries["labcontrol"],
                f"-listen={self._control[0]}:{self._control[1]}",
                f"-policy={self.policy_file}",
                f"-ca={self.ca_file}",
            ],
            network=self.network,
        )
        self.processes.wait_ready("labcontrol", lambda: self.listed() == [], READY_SECONDS)
        self._join(MEMBERS)
        proxy = self.nodes[PROXY]
        proxy.api.certificate(proxy.fqdn)
        say(f"the tailnet is ready: {', '.join(node.fqdn for node in self.nodes.values())}")

    def _join(self, members: Mapping[str, Member], **options: str) -> list[Node]:
        nodes = [
            Node(self, name, member, self.ports.take(), **options)
            for name, member in members.items()
        ]
        for node in nodes:
            self.nodes[node.name] = node
            node.start()
        for node in nodes:
            node.login()
        for node in nodes:
            node.wait()
        return nodes

    def add_node(
        self,
        name: str,
        *,
        user: str | None = None,
        tags: Iterable[str] = (),
        tun: str = "userspace-networking",
    ) -> Node:
        """A further node, host name *name*, connected.

        :param tun: name of a network interface to make for it, which takes root and a network
            namespace of the lab's own.
        :raises LabError: there is one of that name, or neither a user nor tags were given.
        """
        member = Member(name, user, tuple(tags))
        if name in self.nodes or bool(user) == bool(member.tags):
            raise LabError(f"a node {name} needs a name of its own, and either a user or tags")

        def add(policy: dict[str, Any]) -> None:
            policy["nodes"][name] = member.rule

        self.edit_policy(add)
        return self._join({name: member}, tun=tun)[0]

    def stop(self) -> None:
        """End the nodes and the control server; the tailnet is forgotten."""
        for node in self.nodes.values():
            node.stop()
        self.processes.stop("labcontrol")

    @property
    def policy(self) -> dict[str, Any]:
        """A copy of the policy; its form is that of ``go/tailscale/policy.go``."""
        return deepcopy(self._policy)

    def set_policy(self, policy: dict[str, Any]) -> None:
        """Give the tailnet another policy; the nodes have it within half a second."""
        self._policy = deepcopy(policy)
        replace(self.policy_file, json.dumps(self._policy, indent=1))

    def edit_policy(self, edit: Callable[[dict[str, Any]], None]) -> None:
        """Change the policy: *edit* changes the dictionary it is given."""
        policy = self.policy
        edit(policy)
        self.set_policy(policy)

    def allow(self, *flows: str, src: str = "*", dst: str = "tag:k8s") -> None:
        """Grant flows, such as ``tcp:8443``, besides those granted already."""
        grant = {"src": [src], "dst": [dst], "ip": list(flows)}
        self.edit_policy(lambda policy: policy["grants"].append(grant))

    def listed(self) -> list[dict[str, Any]]:
        """The nodes as the control server sees them: host, addresses, online, services.

        :raises OSError: it is not there.
        """
        connection = http.client.HTTPConnection(*self._control)
        connection.sock = self.network.connect(self._control)
        try:
            connection.request("GET", "/lab/nodes")
            rows: list[dict[str, Any]] = json.load(connection.getresponse())
        except http.client.HTTPException as error:
            raise OSError(f"{self.control_url}: {error!r}") from error
        finally:
            connection.close()
        return rows
