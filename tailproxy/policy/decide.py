"""Decisions: whether a request of an identity goes on, and what has to be watched on its way.

`decide` is the only place that says yes. It is pure, and whatever goes wrong inside it is a no.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

import attrs

from tailproxy.policy.headers import impersonation_of
from tailproxy.policy.identity import Identity, Unsendable
from tailproxy.wire.requestinfo import NodeProxy, node_proxy

if TYPE_CHECKING:
    from tailproxy.wire.head import RequestHead


class Mode(Enum):
    """Whose rights a request is run with (dataplane.md 1.1)."""

    AUTH = "auth"
    """Those of the tailnet identity, by impersonation."""
    NOAUTH = "noauth"
    """Those of the credentials that the client brings."""


class ClientImpersonation(Enum):
    """What happens in ``auth`` mode to a client's own ``Impersonate-*`` headers."""

    REFUSE = "refuse"
    """The request is refused."""
    STRIP = "strip"
    """They are dropped, and the request runs as the caller."""


@attrs.frozen
class Rules:
    """What the configuration says about decisions.

    :ivar record: whether sessions are recorded for which no grant names a recorder.
    :ivar enforce: whether what is to be recorded and cannot be does not run, whatever grants say.
    """

    mode: Mode = Mode.AUTH
    client_impersonation: ClientImpersonation = ClientImpersonation.REFUSE
    record: bool = False
    enforce: bool = False


@attrs.frozen
class Forward:
    """The request goes on.

    :ivar session: ``exec``, ``attach``, ``portforward``, ``node-exec`` for what may run a command
        by way of a kubelet, or ``None``.
    :ivar record: whether the session is to be recorded.
    :ivar report: whether the request is to be reported as an event.
    :ivar enforced: whether it must not go on without that.
    :ivar unrecorded: why nothing of it is recorded although a grant asks for that. The caller
        must log it.
    """

    session: str | None = None
    record: bool = False
    report: bool = False
    enforced: bool = False
    unrecorded: str | None = None


@attrs.frozen
class Refusal:
    """The request ends here.

    :ivar code: the HTTP status.
    :ivar reason: a label for metrics.
    :ivar message: for people: what is refused, why, and what to do.
    :ivar cause: what went wrong inside, for our own log; never for the client.
    """

    code: int
    reason: str
    message: str
    cause: Exception | None = attrs.field(default=None, eq=False)


CROSS_SITE = (
    "a page of another site has this browser send the request, and it would run with your rights "
    "in the cluster, so it is refused. Open the address itself, or use kubectl."
)
"""What becomes of a browser's request for another site's page: a device on the tailnet needs no
password, so that without this every page that is open on it could act as its user."""

# Nearly every request.
_FORWARD = Forward()


def decide(identity: Identity, request: RequestHead, rules: Rules) -> Forward | Refusal:
    """Decide about one request. Never raises: what cannot be decided is refused.

    :param identity: the caller's.
    :param request: as the client sent it.
    :param rules: of the configuration.
    """
    try:
        return _decide(identity, request, rules)
    except Exception as error:  # noqa: BLE001 - no error may become a pass
        return Refusal(
            403,
            "undecided",
            "no decision could be made about this request, so it is refused. "
            "The proxy's log has the cause; please report it.",
            cause=error,
        )


def _decide(identity: Identity, request: RequestHead, rules: Rules) -> Forward | Refusal:
    if rules.mode is not Mode.NOAUTH:
        if request.fields.cross_site and request.cross_site:
            return Refusal(403, "cross-site", CROSS_SITE)
        refusal = _impersonation(identity, request, rules)
        if refusal is not None:
            return refusal
    session: str | None = request.info.session
    if node_proxy(request.method, request.info, request.fields.may_upgrade) is NodeProxy.EXEC:
        session = "node-exec"
    return _recorded(identity, session, rules)


def _recorded(identity: Identity, session: str | None, rules: Rules) -> Forward | Refusal:
    """Decide what has to be recorded (dataplane.md 1.7)."""
    grants = identity.grants
    if not grants.recorder_addresses:
        if not grants.fail_open:
            return _no_recorder(identity)
        if not rules.record or session is None:
            return Forward(session) if session else _FORWARD
    enforced = rules.enforce or not grants.fail_open
    report = grants.enable_events and bool(grants.recorder_addresses)
    if session == "node-exec":
        if enforced:
            return _unrecordable(identity)
        return Forward(
            session,
            report=report,
            unrecorded="session recording is asked for and cannot be had through a node's proxy",
        )
    record = session in {"exec", "attach"}
    if not (session or report):
        return _FORWARD
    return Forward(session, record, report, enforced=enforced and (record or report))


def _impersonation(identity: Identity, request: RequestHead, rules: Rules) -> Refusal | None:
    """Refuse what cannot be run as the caller and as nobody else."""
    if rules.client_impersonation is not ClientImpersonation.STRIP:
        names = impersonation_of(request)
        if names:
            return Refusal(
                403,
                "client-impersonation",
                f"{names[0]} is not accepted from a client: every request through this proxy "
                f"already acts as its tailnet identity, here {identity.user}. Without the "
                "header it would run with those rights, which is not what --as asks for, so "
                "it is not run at all. Leave out --as and --as-group, ask for a grant with the "
                "group you need, or reach the API server another way.",
            )
    try:
        identity.impersonation_lines  # noqa: B018 - built here, so that it cannot fail later
    except Unsendable as error:
        return Refusal(
            403,
            "invalid-identity",
            f"node {identity.node} cannot be let in: {error}. Ask the tailnet's administrator "
            "to correct the grant or the name.",
        )
    return None


def _no_recorder(identity: Identity) -> Refusal:
    """Refuse every request where a grant demands recording and names no recorder
    (dataplane.md 1.7).
    """
    return Refusal(
        403,
        "recorder-missing",
        f"a grant for {identity.user} demands recording (enforceRecorder), and there is no "
        "recorder in it, so every request is refused. Ask the tailnet's administrator to "
        "start a recorder with the tag that the grant names, or to correct the grant.",
    )


def _unrecordable(identity: Identity) -> Refusal:
    return Refusal(
        403,
        "node-proxy",
        f"sessions of {identity.user} must be recorded, and a command run through "
        "nodes/NAME/proxy cannot be recorded, so the request is refused. Use kubectl exec instead.",
    )
