"""The pages of the admin port: probes, metrics and version. They only show; nothing acts."""

from __future__ import annotations

import json
import platform
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, generate_latest
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

import twisted

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from prometheus_client import Metric
    from twisted.web.resource import IResource
    from twisted.web.server import Request

    from tailproxy.interfaces import IReadinessCheck

_TEXT = "text/plain; charset=utf-8"
# The Prometheus text format, which tailscaled speaks too.
_METRICS = "text/plain; version=0.0.4; charset=utf-8"


class Page(Resource):
    """A page that can be looked at: GET and HEAD, nothing else. There is nothing below it."""

    def getChild(self, path: bytes, request: Request) -> Resource:
        """404."""
        return _Missing()

    def render(self, request: Request) -> Any:
        """The page, or 405."""
        if request.method not in {b"GET", b"HEAD"}:
            request.setHeader("Allow", "GET, HEAD")
            return answer(request, 405, "only GET and HEAD are allowed\n")
        return self.show(request)

    def show(self, request: Request) -> Any:
        """What `render` returns for a request that may look."""
        raise NotImplementedError


def answer(request: Request, code: int, text: str, content_type: str = _TEXT) -> bytes:
    """Set an answer's head; its body is returned for `render` to return."""
    request.setResponseCode(code)
    request.setHeader("Content-Type", content_type)
    request.setHeader("Cache-Control", "no-store")
    request.setHeader("X-Content-Type-Options", "nosniff")
    return text.encode()


class _Missing(Page):
    def show(self, request: Request) -> bytes:
        return answer(request, 404, "there is no such page\n")


class LivePage(Page):
    """`/livez`: whoever gets this answer knows that the event loop runs."""

    def show(self, request: Request) -> bytes:
        """Always 200."""
        return answer(request, 200, "ok\n")


class ReadyPage(Page):
    """`/readyz`: whether a request that arrives now would be served (design.md section 7).

    :param checks: all that must be well.
    """

    def __init__(self, checks: Sequence[IReadinessCheck]) -> None:
        super().__init__()
        self._checks = checks

    def show(self, request: Request) -> bytes:
        """200 or 503, with a line for each check if one fails or `?verbose` asks for it."""
        results = [(check.name, check.check()) for check in self._checks]
        ready = all(result.ok for _, result in results)
        query = request.uri.partition(b"?")[2]
        verbose = any(part.partition(b"=")[0] == b"verbose" for part in query.split(b"&"))
        if ready and not verbose:
            return answer(request, 200, "ok\n")
        lines = [
            f"[+]{name} ok: {result.detail}" if result.ok else f"[-]{name} failed: {result.detail}"
            for name, result in results
        ]
        lines.append(f"readyz check {'passed' if ready else 'failed'}")
        return answer(request, 200 if ready else 503, "\n".join(lines) + "\n")


class HealthPage(Page):
    """`/healthz`, as those expect it who come from the Tailscale operator
    (spec/dataplane.md 2.10).

    :param has_address: whether the node has an address now.
    """

    def __init__(self, has_address: Callable[[], bool]) -> None:
        super().__init__()
        self._has_address = has_address

    def show(self, request: Request) -> bytes:
        """200 or 503."""
        if self._has_address():
            return answer(request, 200, "ok")
        return answer(request, 503, "node currently has no tailscale IPs")


class MetricsPage(Page):
    """`/metrics`: ours, and tailscaled's own user metrics behind them.

    :param ours: asks for ours.
    :param tailscaled: asks for the others, in the Prometheus text format; if that fails they are
        left out.
    """

    _log = Logger()

    def __init__(
        self,
        ours: Callable[[], Awaitable[Iterable[Metric]]],
        tailscaled: Callable[[], Deferred[bytes]] | None,
    ) -> None:
        super().__init__()
        self._ours = ours
        self._tailscaled = tailscaled

    def show(self, request: Request) -> int:
        """200."""
        waiting = Deferred.fromCoroutine(self._show(request))
        request.notifyFinish().addErrback(lambda _: waiting.cancel())
        waiting.addErrback(lambda failure: failure.trap(CancelledError))
        return NOT_DONE_YET

    async def _show(self, request: Request) -> None:
        theirs = b""
        if self._tailscaled is not None:
            try:
                theirs = await self._tailscaled()
            except CancelledError:
                raise
            except Exception as error:  # noqa: BLE001 - whatever it is, ours are still worth having
                self._log.debug("no metrics of tailscaled: {reason}", reason=str(error))
        ours = generate_latest(_Collected(await self._ours()))
        text = (ours + theirs).decode(errors="replace")
        request.write(answer(request, 200, text, _METRICS))
        request.finish()


class _Collected(CollectorRegistry):
    """Families that were collected before."""

    def __init__(self, families: Iterable[Metric]) -> None:
        super().__init__()
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


class VersionPage(Page):
    """`/version`: what is running, as JSON.

    :param version: of tailproxy.
    """

    def __init__(self, version: str) -> None:
        super().__init__()
        self._versions = {
            "version": version,
            "python": platform.python_version(),
            "twisted": twisted.__version__,
        }

    def show(self, request: Request) -> bytes:
        """200."""
        return answer(request, 200, json.dumps(self._versions) + "\n", "application/json")


class RootPage(Page):
    """`/`: what there is."""

    def __init__(self, pages: Mapping[str, IResource]) -> None:
        super().__init__()
        self._names = sorted(pages)
        self.putChild(b"", self)
        for name, page in pages.items():
            self.putChild(name.encode("ascii"), page)

    def show(self, request: Request) -> bytes:
        """200."""
        return answer(request, 200, "".join(f"/{name}\n" for name in self._names))
