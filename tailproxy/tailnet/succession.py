"""One source of certificates after another, without a moment in which there is none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from twisted.application.service import IService, MultiService
from zope.interface import implementer

from tailproxy.interfaces import CheckResult, ICertificateSource, IReadinessCheck

if TYPE_CHECKING:
    from tailproxy.interfaces import KeyPair

    class Source(Protocol):
        """An `ICertificateSource` that knows how it stands; a service too."""

        def pair(self, server_name: str | None) -> KeyPair | None:
            """See `ICertificateSource.pair`."""

        def check(self) -> CheckResult:
            """Whether there is a certificate that is in force."""


@implementer(ICertificateSource, IReadinessCheck)
class Succession(MultiService):
    """Shows the newest source's certificates; those of the one before until it has some.

    :param first: the first source, if there is to be one.
    """

    name = "certificate"

    def __init__(self, first: Source | None = None) -> None:
        super().__init__()
        self._newest: Source | None = None
        self._before: Source | None = None
        self.adopt(first)

    def adopt(self, source: Source | None) -> None:
        """Have another source take over; None if nobody needs certificates any more."""
        if source is self._newest:
            return
        stale = self._before
        self._newest, self._before = source, self._newest
        if stale is not None and self._before is not None and self._before.pair(None) is None:
            # The one between never had any.
            self._before, stale = stale, self._before
        self._leave(stale)
        if source is not None:
            IService(source).setServiceParent(self)
        self._look()

    def pair(self, server_name: str | None) -> KeyPair | None:
        """See `ICertificateSource.pair`."""
        self._look()
        for source in (self._newest, self._before):
            found = None if source is None else source.pair(server_name)
            if found is not None:
                return found
        return None

    def check(self) -> CheckResult:
        """See `IReadinessCheck.check`."""
        self._look()
        if self._newest is None:
            return CheckResult(ok=True, detail="no listener needs one")
        result = self._newest.check()
        if not result.ok and self._before is not None:
            before = self._before.check()
            if before.ok:
                return CheckResult(ok=True, detail=f"{before.detail}; the new one: {result.detail}")
        return result

    def _look(self) -> None:
        """The one before is done with as soon as the newest has something, or is not needed."""
        if self._before is not None and (
            self._newest is None or self._newest.pair(None) is not None
        ):
            before, self._before = self._before, None
            self._leave(before)

    def _leave(self, source: Source | None) -> None:
        if source is not None:
            IService(source).disownServiceParent()
