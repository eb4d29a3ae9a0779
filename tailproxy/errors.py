"""Everything that can go wrong with a request, as one family that a Kubernetes client understands.

Each error knows the status code, the label under which it is counted and a message for people:
what it is about, why, and what to do next. `ApiError.body` renders it as a Kubernetes `Status`
(or as plain text for discovery requests, whose `Status` kubectl does not show).

Messages never hold tokens, keys, cookies or bodies.
"""

from __future__ import annotations

import json

# Reasons as the API server spells them (k8s.io/apimachinery, meta/v1 StatusReason).
_REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    409: "Conflict",
    413: "RequestEntityTooLarge",
    429: "TooManyRequests",
    500: "InternalError",
    502: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}

JSON_TYPE = b"application/json"
TEXT_TYPE = b"text/plain; charset=utf-8"


class ApiError(Exception):
    """An answer that tailproxy makes itself instead of the API server.

    :param code: HTTP status code.
    :param label: short constant name for metrics and the access log, never derived from input.
    :param message: for the person who typed the command: what, why, next step.
    """

    def __init__(self, code: int, label: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.label = label
        self.message = message

    def status(self) -> bytes:
        """The error as a Kubernetes `Status` object, JSON (spec/dataplane.md 1.9)."""
        return json.dumps(
            {
                "kind": "Status",
                "apiVersion": "v1",
                "metadata": {},
                "status": "Failure",
                "message": f"tailproxy: {self.message}",
                "reason": _REASONS.get(self.code, "Unknown"),
                "code": self.code,
            }
        ).encode()

    def text(self) -> bytes:
        """The error as a line of text."""
        return f"tailproxy: {self.message}\n".encode()

    def body(self, *, discovery: bool) -> tuple[bytes, bytes]:
        """What to send, as content type and body.

        kubectl loses the message of a `Status` when it answers a discovery request, and shows
        plain text there (spec/dataplane.md 1.9).

        :param discovery: whether the request was one of those.
        """
        return (TEXT_TYPE, self.text()) if discovery else (JSON_TYPE, self.status())


class UnknownCallerError(ApiError):
    """tailscaled knows no node with the caller's address: 401."""

    def __init__(self, address: str) -> None:
        super().__init__(
            401,
            "unknown-caller",
            f"no node of this tailnet has the address {address}; "
            "connect from a device that is logged in to the tailnet",
        )


class UnusableIdentityError(ApiError):
    """The caller is known, but what tailscaled says of it cannot be used: 403.

    :param reason: what is wrong, naming the node, and whom to ask.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(403, "unusable-identity", reason)


class ResolverUnavailableError(ApiError):
    """Who the caller is cannot be found out now: 503.

    There is no `Retry-After`: with one, client-go repeats the request ten times
    (spec/dataplane.md 1.9).

    :param reason: what failed.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(
            503,
            "resolver-unavailable",
            f"cannot ask tailscaled who is calling: {reason}; try again, and if it stays so, "
            "look at tailscaled on the proxy's host",
        )


class RecordingError(ApiError):
    """A session cannot be recorded: 403 where it must be.

    :param reason: why, without addresses.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(
            403,
            "recorder-unavailable",
            f"this session must be recorded, and cannot be: {reason}; try again,"
            " and if it stays so, ask the tailnet's administrator to look at the recorder",
        )
        self.reason = reason


class EventError(ApiError):
    """No recorder could be told about a request: 403 where one must be.

    :param reason: why, without addresses.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(
            403,
            "event-unrecorded",
            f"a recorder must be told about this request, and cannot be: {reason}; try again,"
            " and if it stays so, ask the tailnet's administrator to look at the recorder",
        )


class UpstreamError(ApiError):
    """The API server could not be reached or did not answer properly.

    :param code: 502, 503 or 504.
    :param label: kind of failure, for the metric `tailproxy_upstream_errors_total`.
    :param reason: what failed.
    """

    def __init__(self, code: int, label: str, reason: str) -> None:
        super().__init__(code, label, f"cannot use the Kubernetes API server: {reason}")
