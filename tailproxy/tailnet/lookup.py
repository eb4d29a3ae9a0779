"""One look at tailscaled, for people who ask about a node: its address, and who that is.

The same questions are asked and the same rules applied as for a request (`tailnet/resolver.py`);
nothing is kept.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING

from tailproxy.policy.identity import identify, parse_whois
from tailproxy.tailnet.localapi import LocalAPIError
from tailproxy.wire.addresses import is_tailnet_address

if TYPE_CHECKING:
    from tailproxy.policy.identity import Caller, Identity
    from tailproxy.tailnet.localapi import LocalAPI
    from tailproxy.wire.addresses import IPAddress


class UnknownNodeError(Exception):
    """There is no such node, or more than one; the text says which there are, or where to look."""


async def node_address(api: LocalAPI, name: str) -> IPAddress:
    """Find the address of a node by its name.

    :param name: the whole MagicDNS name, its first label, or the host name; in any case.
    :raises UnknownNodeError: no node that ours knows has it, or several have.
    :raises LocalAPIError: tailscaled does not say.
    """
    status = await api.status(peers=True)
    nodes = [status.get("Self") or {}, *(status.get("Peer") or {}).values()]
    wanted = name.strip(".").lower()
    found: dict[str, str] = {}
    for node in nodes:
        fqdn = str(node.get("DNSName") or "").strip(".").lower()
        names = {fqdn, fqdn.partition(".")[0], str(node.get("HostName") or "").lower()}
        if wanted and wanted in names and node.get("TailscaleIPs"):
            found[fqdn] = node["TailscaleIPs"][0]
    if wanted in found:
        return ip_address(found[wanted])
    if len(found) > 1:
        raise UnknownNodeError(
            f"{name} is the name of several nodes; name one in full: {', '.join(sorted(found))}"
        )
    if not found:
        raise UnknownNodeError(
            f"none of the {len(nodes)} nodes that the proxy's node knows has the name {name}; "
            "`tailscale status` on the proxy's host lists them"
        )
    return ip_address(next(iter(found.values())))


async def identity_at(api: LocalAPI, caller: Caller) -> Identity:
    """Find out who a caller is.

    :raises UnknownNodeError: no node has the address.
    :raises IdentityError: there is no identity in what tailscaled says.
    :raises LocalAPIError: tailscaled does not say.
    """
    if not is_tailnet_address(caller.address):
        raise UnknownNodeError(f"{caller.shown} is not an address of a tailnet")
    names = (None,) if caller.service is None else (None, caller.service)
    try:
        answers = [await api.whois(caller.shown, None, name) for name in names]
    except LocalAPIError as error:
        if error.status != 404:
            raise
        raise UnknownNodeError(
            f"no node has the address {caller.shown}, so its requests are refused with 401"
        ) from error
    return identify(*map(parse_whois, answers))
