"""A record of a request, to be varied."""

from ipaddress import ip_address

import attrs

from tailproxy.interfaces import AccessRecord
from tailproxy.policy.grants import Grants
from tailproxy.policy.identity import Caller, Identity
from tailproxy.wire.requestinfo import request_info

ADA = Identity(
    user="ada@corp.example",
    groups=("dev",),
    node="laptop.corp-cat.ts.net",
    node_id="nABC123CNTRL",
    login="ada@corp.example",
    tags=(),
    addresses=(),
    grants=Grants(()),
)
CALLER = Caller(ip_address("100.64.0.5"), 50123, "svc:kube")


def record(**changes) -> AccessRecord:
    """A record; without an `info` of its own that of its method and path."""
    values = {
        "id": "0f1e2d3c4b5a69788796a5b4c3d2e1f0",
        "identity": ADA,
        "caller": CALLER,
        "listener": "serve",
        "method": "GET",
        "path": "/api/v1/pods",
        "status": 200,
        "sent": 1200,
        "received": 0,
        "duration": 0.02,
        "upgrade": "",
        "session": "",
        "exit_code": None,
        "recorded": "",
        "decision": "forward",
        "denied": "",
        "reason": "",
        "user_agent": "kubectl/v1.36.0",
        **changes,
    }
    values.setdefault("info", request_info(values["method"].encode(), values["path"].encode()))
    return AccessRecord(**values)


def with_verb(verb: str, **changes) -> AccessRecord:
    """A record of a request that the API server calls so."""
    made = record(**changes)
    return attrs.evolve(made, info=attrs.evolve(made.info, verb=verb))
