"""What a person is told who is known and to whom nothing is granted.

The API server's 403 says what is forbidden, not what to ask for. The first such answers carry a
`Warning` header, which kubectl prints: whom the cluster saw, and what an administrator could bind.
Only the first ones: a loop that is refused a thousand times needs no thousand hints.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

    from tailproxy.policy.identity import Identity

PER_CALLER = 3
"""Hints to one node in `PERIOD`, from each process."""
PERIOD = 3600.0
"""Seconds."""
CALLERS = 10_000
"""Nodes that are remembered; beyond that the one that was hinted at longest ago is forgotten."""
_NAME_CHARACTERS = 120

# What a name may show of itself inside a quoted string; RFC 2047 words would be decoded by readers.
_UNSHOWN = re.compile(r"[^ !#-\[\]-~]|=(?=\?)")


class Hints:
    """Remembers who has been told.

    :param clock: for the hour.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._told: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def hint(self, identity: Identity) -> bytes | None:
        """Return the value of a `Warning` header for a refused caller, if it is time for one.

        :param identity: the caller's, by which the API server has refused a request.
        """
        if identity.groups:
            return None
        now = self._clock.seconds()
        begun, count = self._told.get(identity.node_id, (now, 0))
        if now - begun >= PERIOD:
            begun, count = now, 0
        if count >= PER_CALLER:
            return None
        self._told[identity.node_id] = begun, count + 1
        self._told.move_to_end(identity.node_id)
        if len(self._told) > CALLERS:
            self._told.popitem(last=False)
        return _warning(identity)


def _warning(identity: Identity) -> bytes:
    """Write the hint as the API server writes its own warnings (RFC 7234, 5.5)."""
    user, node = _shown(identity.user), _shown(identity.node or identity.node_id)
    return (
        f'299 - "tailproxy: you are {user} on the node {node}, and no grant of the tailnet gives '
        f"you a group; ask the cluster's administrator to bind the user {user}, or the tailnet's "
        'for a grant with a group; /.tailproxy/whoami shows more"'
    ).encode("ascii")


def _shown(name: str) -> str:
    """Return a name as printable ASCII without quotes and backslashes, at a length to read."""
    cut = name if len(name) <= _NAME_CHARACTERS else f"{name[:_NAME_CHARACTERS]}..."
    return _UNSHOWN.sub("?", cut)
