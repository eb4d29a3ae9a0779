"""How long to wait before what has ended is started again."""

from __future__ import annotations

_FIRST = 0.1
_LONGEST = 30.0
# Who has run this long did not fail at the start.
_STABLE = 60.0


class Backoff:
    """Waits that double from 0.1 s to 30 s, and begin anew after a minute that went well."""

    def __init__(self) -> None:
        self._next = _FIRST

    def after(self, lived: float) -> float:
        """Seconds to wait now.

        :param lived: seconds between the last start and its end.
        """
        if lived >= _STABLE:
            self._next = _FIRST
        wait, self._next = self._next, min(2 * self._next, _LONGEST)
        return wait
