"""What becomes of a request of somebody, for the person who writes grants.

It runs the very functions that decide about requests, and sends nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

import tailproxy
from tailproxy.policy.decide import Mode, Refusal, decide
from tailproxy.policy.description import describe
from tailproxy.policy.headers import outgoing_block
from tailproxy.policy.identity import Unsendable
from tailproxy.wire.head import read_head
from tailproxy.wire.http1 import BadRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tailproxy.policy.decide import Forward, Rules
    from tailproxy.policy.identity import Caller, Identity
    from tailproxy.wire.head import RequestHead
    from tailproxy.wire.http1 import Header

OURS = b"(tailproxy's own token)"
_MASKED = frozenset(("authorization", "proxy-authorization", "cookie", "sec-websocket-protocol"))
_PLUGINS = b"/.tailproxy"


@attrs.frozen
class Explanation:
    """A request, and what becomes of it.

    :ivar line: the request's first line.
    :ivar meaning: the request in the API server's words.
    :ivar outcome: the decision; ``None`` if tailproxy answers by itself.
    :ivar sent: the headers that would be sent, secrets masked; none if nothing would be.
    :ivar recording: whether something would be recorded, and why not.
    """

    identity: Identity
    caller: Caller
    mode: Mode
    line: str
    meaning: str
    outcome: Forward | Refusal | None
    sent: tuple[tuple[str, str], ...]
    recording: str

    @property
    def decision(self) -> str:
        """The outcome in a sentence."""
        if self.outcome is None:
            return "tailproxy answers this itself"
        if isinstance(self.outcome, Refusal):
            return f"refused with {self.outcome.code} ({self.outcome.reason}): " + (
                self.outcome.message
            )
        return "goes on to the API server, where RBAC decides"

    def as_json(self) -> dict[str, Any]:
        """The same for programs."""
        refused = self.outcome if isinstance(self.outcome, Refusal) else None
        return {
            "caller": describe(
                self.identity, self.caller, mode=self.mode.value, version=tailproxy.__version__
            ),
            "request": self.line,
            "meaning": self.meaning,
            "decision": (
                "answer" if self.outcome is None else "refuse" if refused is not None else "forward"
            ),
            "refusal": None
            if refused is None
            else {"code": refused.code, "label": refused.reason, "message": refused.message},
            "session": getattr(self.outcome, "session", None),
            "headers": [list(each) for each in self.sent],
            "recording": self.recording,
        }


def read_line(words: Sequence[str]) -> tuple[bytes, bytes]:
    """Read a request line as people type it.

    :param words: ``METHOD PATH``, a whole line such as ``GET /api HTTP/1.1`` in one word or
        several, or a path alone for a GET.
    :raises ValueError: it is something else.
    """
    match " ".join(words).split():
        case [target] if target.startswith("/"):
            return b"GET", target.encode()
        case [method, target] if target.startswith("/"):
            return method.upper().encode(), target.encode()
        case [method, target, version] if target.startswith("/") and version.startswith("HTTP/"):
            return method.upper().encode(), target.encode()
    raise ValueError("wanted METHOD PATH, such as: GET /api/v1/namespaces/default/pods")


def explain(
    identity: Identity,
    caller: Caller,
    rules: Rules,
    line: tuple[bytes, bytes],
    headers: Sequence[Header],
    host: bytes,
    *,
    bearer: bool,
) -> Explanation:
    """Decide about a request as the proxy would.

    :param line: method and target.
    :param headers: of the client, but for ``Host``.
    :param host: the API server's, for ``Host``.
    :param bearer: whether tailproxy shows a token to it, and not a client certificate.
    """
    method, target = line
    shown = f"{method.decode()} {target.decode()}"
    meaning = ""
    outcome: Forward | Refusal | None
    sent: tuple[tuple[str, str], ...] = ()
    try:
        head = read_head(method, target, "1.1", [(b"Host", b"kube"), *headers])
    except BadRequest as error:
        outcome = Refusal(error.code, "malformed-request", error.message)
    else:
        meaning = _meaning(head)
        outcome = None if _ours(head.path) else decide(identity, head, rules)
        if outcome is not None and not isinstance(outcome, Refusal):
            auth = rules.mode is not Mode.NOAUTH
            try:
                block = outgoing_block(
                    head,
                    identity=identity if auth else None,
                    host=host,
                    client=identity.forwarded_for(caller),
                    bearer=OURS if auth and bearer else None,
                    request_id=b"0",
                )
                sent = tuple(_masked(each) for each in block.decode("latin-1").splitlines() if each)
            except Unsendable as error:
                outcome = Refusal(403, "unsendable", f"the request cannot be forwarded: {error}")
    return Explanation(
        identity, caller, rules.mode, shown, meaning, outcome, sent, _recording(identity, outcome)
    )


def _ours(path: bytes) -> bool:
    return path == _PLUGINS or path.startswith(_PLUGINS + b"/")


def _meaning(head: RequestHead) -> str:
    """The request in the words of RBAC."""
    info = head.info
    if not info.is_resource:
        return f"{info.verb} {info.path}"
    thing = info.resource + (f".{info.api_group}" if info.api_group else "")
    if info.subresource:
        thing += f"/{info.subresource}"
    name = f" {info.name}" if info.name else ""
    where = f" in the namespace {info.namespace}" if info.namespace else ""
    return f"{info.verb} {thing}{name}{where}"


def _masked(line: str) -> tuple[str, str]:
    name, _, value = line.partition(": ")
    if name == "Audit-ID":
        return name, "(new for each request)"
    if name.lower() in _MASKED and value != f"Bearer {OURS.decode()}":
        value = "(masked)"
    return name, value


def _recording(identity: Identity, outcome: Forward | Refusal | None) -> str:
    grants = identity.grants
    if grants.fail_open and not grants.recorder_addresses:
        return "no: no rule asks for it"
    if outcome is None or isinstance(outcome, Refusal):
        return "no: it does not run"
    if outcome.record:
        where = ", ".join(map(str, dict.fromkeys(grants.recorder_addresses)))
        otherwise = "does not run" if outcome.enforced else "runs all the same"
        return f"yes, at the first of {where} that takes it; without one it {otherwise}"
    if outcome.unrecorded is not None:
        return f"no: {outcome.unrecorded}; it runs all the same"
    return "no: a rule asks for it, but not for such requests"
