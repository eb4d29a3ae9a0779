"""Who looks at recorded sessions, and what they may."""

from __future__ import annotations

import pwd
import socket
import struct
from typing import TYPE_CHECKING, Any, cast

import attrs

from tailproxy.interfaces import IIdentity
from tailproxy.policy.grants import SessionRight

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.web.server import Request

    from tailproxy.policy.identity import Identity

_CREDENTIALS = struct.Struct("3i")  # struct ucred: process, user, group (unix(7))


@attrs.frozen
class Access:
    """What whoever asks may do.

    :ivar who: who that is, for the log and for the person whose session they end.
    :ivar namespaces: whose sessions they may see at all; None for all.
    :ivar rights: what they may do with sessions of a namespace.
    """

    who: str
    namespaces: frozenset[str] | None
    rights: Callable[[str], frozenset[SessionRight]]


def granted(request: Request) -> Access:
    """What the tailnet's policy lets the caller do.

    :raises TypeError: nobody knows who it is.
    """
    identity = cast("Identity", IIdentity(request))
    grants = identity.grants
    return Access(identity.user, grants.session_namespaces, grants.session_rights)


def local(request: Request) -> Access:
    """Everything, for who may open the unix socket that the request came by."""
    return Access(f"{_owner(request)} on the recorder's machine", None, _everything)


def _everything(_: str) -> frozenset[SessionRight]:
    return frozenset(SessionRight)


def _owner(request: Request) -> str:
    connection: socket.socket = cast("Any", request.transport).socket
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, user, _ = _CREDENTIALS.unpack(credentials)
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"user {user}"
