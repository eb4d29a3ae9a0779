"""The proxy's own node: whether it is on the tailnet, and as what (spec/dataplane.md 3.4)."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import attrs
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from zope.interface import implementer

from tailproxy.interfaces import CheckResult, IReadinessCheck
from tailproxy.tailnet.localapi import LocalAPIError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from twisted.internet.interfaces import IDelayedCall, IReactorTime

    from tailproxy.tailnet.localapi import LocalAPI
    from tailproxy.wire.addresses import IPAddress

# The oldest tailscaled that has everything we rely on (design.md section 7).
MINIMUM = (1, 102)

# Seconds until status is asked again after a failure while the bus is connected.
_AGAIN = 1.0

RUNNING = "Running"
# The bus gives the state as a number, status by name (3.8).
STATES = (
    "NoState",
    "InUseOtherUser",
    "NeedsLogin",
    "NeedsMachineAuth",
    "Stopped",
    "Starting",
    RUNNING,
)
_NEXT_STEP = {
    "InUseOtherUser": "another user of the machine has it in use",
    "NeedsLogin": "log the node in with `tailscale up`",
    "NeedsMachineAuth": "have the node approved by the tailnet's administrator",
    "Stopped": "start it with `tailscale up`",
}


@attrs.frozen
class Node:
    """What is known of the own node; by default nothing.

    :ivar state: of the backend, as status names it; empty if tailscaled cannot be asked.
    :ivar addresses: on the tailnet.
    :ivar tun: whether it has a network interface, or uses userspace networking; ``None`` while
        that is not known.
    :ivar fqdn: lower case, without the final dot; empty before the first login.
    :ivar cert_domains: the names it may have certificates for, in lower case.
    :ivar suffix: the tailnet's MagicDNS suffix, without dots at its ends.
    :ivar version: of tailscaled.
    :ivar capability: tailscaled's capability version.
    :ivar shields_up: whether it refuses all connections from the tailnet.
    """

    state: str = ""
    addresses: tuple[IPAddress, ...] = ()
    tun: bool | None = None
    fqdn: str = ""
    cert_domains: tuple[str, ...] = ()
    suffix: str = ""
    version: str = ""
    capability: int | None = None
    shields_up: bool = False

    @property
    def up(self) -> bool:
        """Whether callers can reach it."""
        return self.state == RUNNING and bool(self.addresses)

    @property
    def outdated(self) -> bool:
        """Whether its tailscaled is older than `MINIMUM`."""
        found = re.match(r"(\d+)\.(\d+)", self.version)
        return found is not None and (int(found[1]), int(found[2])) < MINIMUM

    def check(self) -> CheckResult:
        """Whether callers can reach it, and what to do if not."""
        if self.state != RUNNING:
            hint = _NEXT_STEP.get(self.state, "it is still starting")
            return CheckResult(ok=False, detail=f"tailscaled is in state {self.state}: {hint}")
        if not self.addresses:
            return CheckResult(ok=False, detail="the node has no address on the tailnet yet")
        detail = f"{self.fqdn or 'the node'} is on the tailnet"
        for warning in _warnings(self):
            detail += f"; {warning}"
        return CheckResult(ok=True, detail=detail)

    @classmethod
    def read(cls, status: Mapping[str, Any], capability: int | None) -> Node:
        """Read an answer to ``status``.

        :raises ValueError: it is not what such an answer looks like.
        """
        own = status.get("Self") or {}
        tailnet = status.get("CurrentTailnet") or {}
        tun = status.get("TUN")
        try:
            return cls(
                state=str(status.get("BackendState", "")),
                addresses=tuple(ip_address(each) for each in status.get("TailscaleIPs") or ()),
                tun=tun if isinstance(tun, bool) else None,
                fqdn=_name(own.get("DNSName")),
                cert_domains=tuple(_name(each) for each in status.get("CertDomains") or ()),
                suffix=_name(tailnet.get("MagicDNSSuffix")),
                version=str(status.get("Version", "")),
                capability=capability,
            )
        except (AttributeError, TypeError) as error:
            raise ValueError(str(error)) from error


def _name(value: str | None) -> str:
    return (value or "").strip(".").lower()


@implementer(IReadinessCheck)
class NodeMonitor(Service):
    """Knows how the own node stands, from the bus and from status.

    The bus says when to ask; status has the answer, so that nothing depends on having heard
    every message.

    :param clock: for asking again after a failure.
    :param api: the tailscaled.
    :ivar node: what is known now.
    """

    log = Logger()
    name = "tailscaled"

    def __init__(self, clock: IReactorTime, api: LocalAPI) -> None:
        self.node = Node()
        self._clock = clock
        self._api = api
        self._watchers: list[Callable[[Node], None]] = []
        self._reason = f"tailscaled at {api.socket_path} was not asked yet"
        self._asking: Deferred[None] | None = None
        self._stale = False
        self._again: IDelayedCall | None = None

    def watch(self, watcher: Callable[[Node], None]) -> None:
        """Call somebody with the node as it is now, and at each change."""
        self._watchers.append(watcher)
        watcher(self.node)

    def check(self) -> CheckResult:
        """See `IReadinessCheck.check`: whether callers can reach the node."""
        return self.node.check() if self.node.state else CheckResult(ok=False, detail=self._reason)

    def stopService(self) -> None:
        """Ask no more."""
        super().stopService()
        self._cancel()

    def bus_connected(self) -> None:
        """Ask how things stand."""
        self._ask()

    def bus_message(self, message: Mapping[str, Any]) -> None:
        """Take what the message says, and ask for the rest."""
        prefs = message.get("Prefs")
        if isinstance(prefs, dict):
            self._set(attrs.evolve(self.node, shields_up=prefs.get("ShieldsUp") is True))
        state = message.get("State")
        if isinstance(state, int) and 0 <= state < len(STATES) and STATES[state] != RUNNING:
            # Bad news is believed at once; whether it is up again, status must say.
            self._set(attrs.evolve(self.node, state=STATES[state]))
        if any(message.get(field) is not None for field in ("State", "SelfChange", "NetMap")):
            self._ask()

    def bus_lost(self, reason: str) -> None:
        """Know nothing any more."""
        self._cancel()
        self._reason = reason
        self._set(Node())

    def _cancel(self) -> None:
        if self._again is not None:
            self._again.cancel()
            self._again = None
        if self._asking is not None:
            self._asking.cancel()

    def _ask(self) -> None:
        """Ask for the status; once more if something happens meanwhile."""
        self._stale = True
        if self._asking is not None and not self._asking.called:
            return
        if self._again is not None:
            self._again.cancel()
            self._again = None
        self._asking = Deferred.fromCoroutine(self._read())
        self._asking.addErrback(lambda failure: failure.trap(CancelledError))

    async def _read(self) -> None:
        try:
            while self._stale:
                self._stale = False
                node = Node.read(await self._api.status(), self._api.capability)
                self._set(attrs.evolve(node, shields_up=self.node.shields_up))
        except LocalAPIError as error:
            self._failed(error.message)
        except ValueError as error:
            self._failed(f"tailscaled's status cannot be read: {error}")

    def _failed(self, reason: str) -> None:
        if reason != self._reason:
            self.log.warn("Cannot find out how the node stands: {reason}", reason=reason)
        self._reason = reason
        self._set(Node(shields_up=self.node.shields_up))
        self._again = self._clock.callLater(_AGAIN, self._ask_again)

    def _ask_again(self) -> None:
        self._again = None
        self._ask()

    def _set(self, node: Node) -> None:
        """Replace what is known, and tell everybody who wants to know."""
        before, self.node = self.node, node
        if node == before:
            return
        # That nothing is known any more has been logged with its cause.
        if node.state and (node.state, node.addresses) != (before.state, before.addresses):
            self.log.info(
                "The node is now {state}, {fqdn}, addresses: {addresses}",
                state=node.state,
                fqdn=node.fqdn or "without a name",
                addresses=", ".join(map(str, node.addresses)) or "none",
            )
        for warning in _warnings(node):
            if warning not in _warnings(before):
                self.log.warn("{warning}", warning=warning)
        for watcher in self._watchers:
            watcher(node)


def _warnings(node: Node) -> list[str]:
    """What to tell the administrator about a node that works, after a fashion."""
    found = []
    if node.shields_up:
        found.append(
            "the node refuses every connection from the tailnet (ShieldsUp); allow them with "
            "`tailscale set --shields-up=false`"
        )
    if node.outdated:
        found.append(
            f"tailscaled {node.version} is older than {MINIMUM[0]}.{MINIMUM[1]}, "
            "which tailproxy needs; update it"
        )
    return found
