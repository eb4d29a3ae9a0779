"""The process that stands in front of the workers: keeps them, feeds them, instructs them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, DeferredList, gatherResults
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.logger import Logger
from zope.interface import implementer

from tailproxy.interfaces import CheckResult, IDrainable, IReadinessCheck
from tailproxy.workers.figures import merge, totals
from tailproxy.workers.post import Post

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable

    from prometheus_client import Metric
    from twisted.internet.interfaces import IDelayedCall, IReactorTime

    from tailproxy.metrics import Metrics
    from tailproxy.workers.balance import Dispatcher
    from tailproxy.workers.messages import Adopt
    from tailproxy.workers.process import WorkerProcess

    #: Starts a worker: its number, and who hears about it.
    Launch = Callable[[int, "Supervisor"], WorkerProcess]

# A worker that is done with its drain has this long to end.
_GRACE = 5.0
# A drain closes whoever has said nothing yet. Where another worker goes on serving, those who
# were handed to the old one at the last moment have this long to be no such client.
_LAST_CALL = 1.0
_METRICS_SECONDS = 1.0
# What a worker has for taking up another configuration; it takes a few milliseconds.
_ADOPT_SECONDS = 10.0


@implementer(IDrainable, IReadinessCheck)
class Supervisor(Service):
    """Keeps a number of workers running.

    :param clock: for waits.
    :param count: of workers.
    :param launch: starts one.
    :param dispatcher: gives them connections.
    """

    _log = Logger()
    name = "workers"

    def __init__(
        self,
        clock: IReactorTime,
        count: int,
        launch: Launch,
        dispatcher: Dispatcher,
        metrics: Metrics,
    ) -> None:
        self.draining = False
        self._clock = clock
        self._launch = launch
        self._dispatcher = dispatcher
        self._metrics = metrics
        self._posts: list[Post] = []
        self.resize(count)
        self._all: dict[WorkerProcess, IDelayedCall | None] = {}
        self._kept: list[Metric] = []
        self._waiting: list[Deferred[None]] = []

    def startService(self) -> None:
        """Start the workers."""
        super().startService()
        self._dispatcher.hold()
        for post in self._posts:
            post.fill()

    def resize(self, count: int) -> None:
        """Have that many workers from now on. Those with the highest numbers leave."""
        while len(self._posts) < count:
            number = len(self._posts) + 1
            post = Post(self._clock, number, self._start, self._metrics.worker_restarts.inc)
            self._posts.append(post)
            if self.running:
                post.fill()
        while len(self._posts) > count:
            post = self._posts.pop()
            post.close()
            for worker in list(self._all):
                if worker is post.holder:
                    self._see_off(worker, _LAST_CALL)

    def _start(self, number: int) -> WorkerProcess:
        worker = self._launch(number, self)
        self._all[worker] = None
        return worker

    @property
    def workers(self) -> list[WorkerProcess]:
        """Those that have not ended, the leaving ones included."""
        return list(self._all)

    def check(self) -> CheckResult:
        """See `IReadinessCheck.check`."""
        ready = sum(worker.ready for worker in self._all)
        return CheckResult(ok=bool(ready), detail=f"{ready} of {len(self._posts)} ready")

    def worker_check(self, name: str) -> CheckResult:
        """How a check of the workers' own stands: as it does with the one that is worst off. A
        new one that is still to take over does not count.

        :param name: of the check.
        """
        serving = [worker for worker in self._all if worker.ready]
        found = [
            CheckResult(ok=well, detail=why)
            for worker in serving or self._all
            for check, well, why in worker.checks
            if check == name
        ]
        unknown = CheckResult(ok=False, detail="no worker has told yet")
        return min(found, key=lambda result: result.ok, default=unknown)

    def worker_ready(self, worker: WorkerProcess) -> None:
        """See `tailproxy.workers.process.Chief`."""
        if self.draining:
            return
        self._log.info(
            "worker {number} is ready: process {process}", number=worker.number, process=worker.pid
        )
        if self._all.get(worker) is None:  # else there is no place for it any more
            self._dispatcher.join(worker)
        self._count()

    def worker_leaving(self, worker: WorkerProcess) -> None:
        """See `tailproxy.workers.process.Chief`."""
        self._see_off(worker, 0.0 if self.draining else _LAST_CALL)
        self._left(worker, "it was told to by somebody else")

    def worker_silent(self, worker: WorkerProcess) -> None:
        """See `tailproxy.workers.process.Chief`."""
        self._see_off(worker)

    def worker_roomy(self, worker: WorkerProcess) -> None:
        """See `tailproxy.workers.process.Chief`."""
        self._dispatcher.resume()

    def worker_ended(
        self, worker: WorkerProcess, reason: str, unsent: list[tuple[str, socket.socket]]
    ) -> None:
        """See `tailproxy.workers.process.Chief`."""
        deadline = self._all.pop(worker, None)
        if deadline is not None and deadline.active():
            deadline.cancel()
        self._kept = merge((self._kept, totals(worker.families)))
        self._dispatcher.leave(worker)
        for listener, connection in unsent:
            self._dispatcher.admit(listener, connection)
        self._count()
        self._left(worker, reason)
        self._look()

    def _left(self, worker: WorkerProcess, reason: str) -> None:
        if not self.draining:
            for post in self._posts:
                post.left(worker, reason)

    def _see_off(self, worker: WorkerProcess, after: float = 0.0) -> None:
        """Have a worker drain, after so many seconds, and see that it ends."""
        self._dispatcher.leave(worker)
        if self._all.get(worker) is None:
            worker.leave(after)
            self._all[worker] = self._clock.callLater(worker.patience + _GRACE, self._end, worker)
        self._count()

    def _end(self, worker: WorkerProcess) -> None:
        self._log.error("worker {number} does not end and is killed", number=worker.number)
        worker.kill()

    def _count(self) -> None:
        self._metrics.workers.set(sum(worker.ready for worker in self._all))

    def adopt(self, order: Adopt) -> Deferred[str]:
        """Have every worker take up another configuration; those that are leaving keep theirs.

        :returns: why one of them cannot; empty when all have done so.
        """
        return Deferred.fromCoroutine(self._adopt(order))

    async def _adopt(self, order: Adopt) -> str:
        workers = [worker for worker, deadline in self._all.items() if deadline is None]
        late = "a worker has not taken it up in time"
        answers = [
            worker.adopt(order).addTimeout(_ADOPT_SECONDS, self._clock) for worker in workers
        ]
        for answer in answers:
            answer.addErrback(
                lambda failure: failure.trap(DeferredTimeout, CancelledError) and late
            )
        problems: list[str] = await gatherResults(answers)
        return next(filter(None, problems), "")

    def drain(self) -> Deferred[None]:
        """See `IDrainable.drain`: fires when no worker is left."""
        if not self.draining:
            self.draining = True
            self._metrics.draining.set(1)
            for post in self._posts:
                post.close()
            self._dispatcher.close()
            for worker in list(self._all):
                self._see_off(worker)
        done: Deferred[None] = Deferred()
        self._waiting.append(done)
        self._look()
        return done

    def _look(self) -> None:
        if self.draining and not self._all:
            waiting, self._waiting = self._waiting, []
            for deferred in waiting:
                deferred.callback(None)

    def kill(self) -> None:
        """End every worker at once."""
        for worker in self._all:
            worker.kill()

    async def collect(self) -> list[Metric]:
        """The metrics of all processes, those that have ended included, as of one."""
        workers = list(self._all)
        answers = [
            worker.ask_metrics().addTimeout(_METRICS_SECONDS, self._clock) for worker in workers
        ]
        for answer in answers:
            answer.addErrback(lambda failure: failure.trap(DeferredTimeout, CancelledError))
        await DeferredList(answers)
        sources: list[Iterable[Metric]] = [self._metrics.registry.collect(), self._kept]
        return merge([*sources, *(worker.families for worker in workers)])


@implementer(IReadinessCheck)
class WorkersCheck:
    """A readiness check that the workers make, each for itself.

    :param name: of the check.
    """

    def __init__(self, name: str, supervisor: Supervisor) -> None:
        self.name = name
        self._supervisor = supervisor

    def check(self) -> CheckResult:
        """See `IReadinessCheck.check`."""
        return self._supervisor.worker_check(self.name)
