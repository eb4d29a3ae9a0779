"""Asks a proxy who the person is there, and the cluster behind it what they may do."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any

import attrs

from tailproxy.client.connection import Answer, Connection, ConnectionFailed
from tailproxy.client.rules import Permission, condense

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tailproxy.client.access import Access

WHOAMI = "/.tailproxy/whoami"
REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews"
REPEATS = 5
"""Requests on the open connection whose median is the latency."""


@attrs.frozen
class Latency:
    """How long answers took, in seconds.

    :ivar first: of the proxy, with the time to connect.
    :ivar proxy: of the proxy on the open connection: the median of `REPEATS`.
    :ivar cluster: of the API server through the proxy, on the same connection.
    """

    first: float
    proxy: float
    cluster: float


@attrs.frozen
class Finding:
    """What was found out.

    :ivar access: the way that was taken.
    :ivar caller: what the proxy says, as `docs/whoami.md` describes it.
    :ivar namespace: for which the cluster was asked.
    :ivar status: of the SelfSubjectRulesReview; ``None`` if it was refused.
    :ivar refused: why it was; empty if not.
    """

    access: Access
    caller: Mapping[str, Any]
    namespace: str
    status: Mapping[str, Any] | None
    refused: str
    latency: Latency

    @property
    def permissions(self) -> tuple[Permission, ...]:
        """What may be done in the namespace, with or without a namespace in the request."""
        return condense((self.status or {}).get("resourceRules") or ())

    @property
    def complete(self) -> bool:
        """Whether these are all: an authorizer may be unable to list what it allows."""
        return not (self.status or {}).get("incomplete")

    def as_json(self) -> dict[str, Any]:
        """The same for programs."""
        return {
            "context": self.access.context,
            "server": self.access.server,
            "caller": dict(self.caller),
            "namespace": self.namespace,
            "rules": None if self.status is None else dict(self.status),
            "rulesRefused": self.refused or None,
            "latencySeconds": {
                name: round(value, 6) for name, value in attrs.asdict(self.latency).items()
            },
        }


def who_am_i(access: Access, namespace: str) -> Finding:
    """Ask the proxy and the cluster, over one connection.

    :raises ConnectionFailed: there is no answer, or none of a proxy that knows the person.
    """
    with Connection(access) as connection:
        first = connection.ask(WHOAMI)
        caller = _caller(access, first)
        repeated = [connection.ask(WHOAMI).seconds for _ in range(REPEATS)]
        review = connection.ask(
            REVIEWS,
            {
                "apiVersion": "authorization.k8s.io/v1",
                "kind": "SelfSubjectRulesReview",
                "spec": {"namespace": namespace},
            },
            authorized=True,
        )
    status = review.body.get("status") if isinstance(review.body, dict) else None
    allowed = review.status == 201 and isinstance(status, dict)
    return Finding(
        access,
        caller,
        namespace,
        status if allowed else None,
        "" if allowed else review.message,
        Latency(first.seconds, median(repeated), review.seconds),
    )


def _caller(access: Access, answer: Answer) -> Mapping[str, Any]:
    """What the proxy says of the caller.

    :raises ConnectionFailed: it is no proxy of ours, or refuses the caller.
    """
    body = answer.body
    if answer.status == 200 and isinstance(body, dict) and "user" in body and "node" in body:
        return body
    if answer.message.startswith("tailproxy: "):
        # The message has its own next step.
        raise ConnectionFailed(f"{access.server} refuses you ({answer.status}): {answer.message}")
    raise ConnectionFailed(
        f"{access.server} is no tailproxy: it answers {WHOAMI} with {answer.status}; name the "
        "context of one with --context, or make one with `tailproxy kubeconfig URL`"
    )
