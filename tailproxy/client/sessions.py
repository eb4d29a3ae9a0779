"""Recorded sessions, as a recorder of ours shows them to who may look."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from tailproxy.client.connection import ConnectionFailed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tailproxy.client.connection import Answer, Asking

SESSIONS = "/.tailproxy/sessions/"
IDENTIFIER = re.compile(r"[0-9]{8}T[0-9]{6}-[0-9a-f]{16}", re.ASCII)
"""What IDs of recordings look like."""
_PAGE = 200


class Sessions:
    """Asks for recordings.

    :param connection: to the proxy that has the recorder.
    """

    def __init__(self, connection: Asking) -> None:
        self._connection = connection

    def search(self, wanted: Mapping[str, str], limit: int) -> Iterator[dict[str, Any]]:
        """Those that fit, the latest first.

        :param wanted: what `docs/sessions.md` names as filters.
        :param limit: how many at most.
        :raises ConnectionFailed: there is no answer, or it is refused.
        """
        after = ""
        while limit > 0:
            query = {**wanted, "limit": str(min(limit, _PAGE))}
            if after:
                query["after"] = after
            page = self._body(self._connection.ask(f"{SESSIONS}?{urlencode(query)}"))
            items = page.get("items")
            if not isinstance(items, list):
                raise ConnectionFailed("the answer is no list of recordings; see both versions")
            yield from items
            limit -= len(items)
            after = page.get("next") or ""
            if not after:
                return

    def find(self, identifier: str) -> dict[str, Any]:
        """What is known of one.

        :raises ConnectionFailed: there is no answer, there is no such recording, or it is refused.
        """
        return self._body(self._connection.ask(SESSIONS + _checked(identifier)))

    def lines(self, identifier: str) -> Iterator[bytes]:
        """Its lines.

        :raises ConnectionFailed: as `find`.
        """
        return self._connection.lines(f"{SESSIONS}{_checked(identifier)}/cast")

    def end(self, identifier: str) -> dict[str, Any]:
        """End the session that is being recorded.

        :returns: what is known of it.
        :raises ConnectionFailed: as `find`, or it has ended already.
        """
        return self._body(self._connection.ask(f"{SESSIONS}{_checked(identifier)}/end", {}))

    def _body(self, answer: Answer) -> dict[str, Any]:
        if answer.status == HTTPStatus.OK and isinstance(answer.body, dict):
            return answer.body
        if answer.message.startswith("tailproxy: "):
            raise ConnectionFailed(answer.message)
        raise ConnectionFailed(
            f"there is no tailproxy with a recorder: {SESSIONS} is answered with {answer.status}; "
            "name the context of one with --context, or its socket with --socket"
        )


def _checked(identifier: str) -> str:
    if not IDENTIFIER.fullmatch(identifier):
        raise ConnectionFailed(
            f"{identifier!r} is no ID of a recording; `tailproxy sessions ls` lists them"
        )
    return identifier
