"""Looks at everything that a request needs, in the order in which a request would meet it.

What is behind something broken is not looked at if it could not be found out: one cause, one
problem. Each look asks the real thing; none changes anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import treq
from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectError, ConnectionLost
from twisted.internet.task import deferLater
from twisted.web.client import Agent, ResponseFailed

from tailproxy.admin.service import admin_address
from tailproxy.config import load
from tailproxy.listener_options import ListenerKind
from tailproxy.options import CertificatesFrom, ResolverKind
from tailproxy.parts import Parts
from tailproxy.schema import ConfigError
from tailproxy.tailnet.checkup import name_of, serves
from tailproxy.tailnet.localapi import LocalAPIError
from tailproxy.tailnet.node import Node

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tailproxy.config import Config
    from tailproxy.interfaces import CheckResult
    from tailproxy.tailnet.localapi import LocalAPI

# How often the API server is asked before it counts as a problem: a login takes its time.
_ATTEMPTS = 3
_PAUSE = 1.0
_SECONDS = 5.0
# Addresses to connect to, of those that stand for all.
_ANY = {"::": "::1", "0.0.0.0": "127.0.0.1"}  # noqa: S104 - not to be listened on


@attrs.frozen
class Finding:
    """One thing that was looked at.

    :ivar name: a word or two.
    :ivar ok: whether it is well; ``None`` if it could not be looked at, or need not be.
    :ivar detail: how it stands, and what to do if it is not well.
    """

    name: str
    ok: bool | None
    detail: str


async def examine(source: str, reactor: Any) -> AsyncIterator[Finding]:
    """Look at one thing after the other.

    :param source: the configuration file.
    """
    try:
        config = load(source).config
        parts = Parts(config, reactor)
    except ConfigError as error:
        yield Finding("configuration", False, str(error))
        return
    yield Finding("configuration", True, source)
    if config.tailproxy.resolver.kind is ResolverKind.STATIC:
        yield Finding("tailscaled", None, "not used: the resolver is static")
    else:
        async for finding in _tailnet(config, parts.tailnet.api):
            yield finding
    yield await _admin(config, reactor)
    async for finding in _cluster(parts, reactor):
        yield finding


async def _tailnet(config: Config, api: LocalAPI) -> AsyncIterator[Finding]:
    listeners = [each for each in config.tailproxy.listeners if each.kind is ListenerKind.SERVE]
    try:
        node = Node.read(await api.status(), api.capability)
        refusing = (await api.prefs()).get("ShieldsUp") is True
        serve = (await api.serve_config()).config
    except (LocalAPIError, ValueError) as error:
        yield Finding("tailscaled", False, str(error))
        for name in ("node", "name", *(f"serve ({each.label})" for each in listeners)):
            yield Finding(name, None, "cannot be looked at without tailscaled")
        return
    finally:
        await api.close()
    yield Finding("tailscaled", True, f"version {node.version} at {api.socket_path}")
    found = attrs.evolve(node, shields_up=refusing).check()
    yield Finding("node", found.ok and not refusing, found.detail)
    tailnet = config.tailproxy.certificates.source is CertificatesFrom.TAILNET
    certified = any(tailnet or not each.own_tls for each in config.tailproxy.listeners)
    yield _finding("name", name_of(node, certified=certified))
    for each in listeners:
        service = each.service or config.api_server_proxy.service_name
        yield _finding(f"serve ({each.label})", serves(serve, each.endpoint, service))


async def _admin(config: Config, reactor: Any) -> Finding:
    """Whether the service runs and says that it is ready."""
    name = "readiness"
    if not config.admin_enabled:
        return Finding(name, None, "there is no admin port; to have one, set Tailproxy.Admin to {}")
    host, port = admin_address(config)
    host = _ANY.get(host, host)
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}/readyz?verbose"
    try:
        response = await treq.get(
            url, agent=Agent(reactor, connectTimeout=_SECONDS), timeout=_SECONDS
        )
        text = await treq.text_content(response)
    except (ConnectError, ConnectionLost, ResponseFailed, CancelledError) as error:
        return Finding(
            name,
            False,
            f"nothing answers at {url} ({type(error).__name__}); start the service with"
            " `twistd tailproxy`, and see its log if it does not stay",
        )
    if response.code == 200:
        return Finding(name, True, f"{url} says that the service is ready")
    failing = "; ".join(
        line.removeprefix("[-]") for line in text.splitlines() if line.startswith("[-]")
    )
    return Finding(name, False, f"{url} answers {response.code}: {failing or 'no reason given'}")


async def _cluster(parts: Parts, reactor: Any) -> AsyncIterator[Finding]:
    """Whether the API server is there, is the right one, and lets us impersonate."""
    review = parts.review()
    parts.upstream.startService()
    try:
        for attempt in range(_ATTEMPTS):
            if attempt:
                await deferLater(reactor, _PAUSE)
            await review.ask()
            if all(check.check().ok for check in review.checks):
                break
    finally:
        await parts.upstream.stopService()
    reached, *others = review.checks
    found = reached.check()
    if found.ok:
        yield _finding(reached.name, found)
        for check in others:
            yield _finding(check.name, check.check())
        return
    hint = "see whether it runs, and whether Tailproxy.Upstream leads to it"
    yield Finding(reached.name, False, f"{found.detail.rstrip('.')}; {hint}")
    for check in others:
        yield Finding(check.name, None, f"cannot be looked at without {reached.name}")


def _finding(name: str, result: CheckResult) -> Finding:
    return Finding(name, result.ok, result.detail)
