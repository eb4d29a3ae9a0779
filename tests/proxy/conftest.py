"""Fixtures of the data plane's tests."""

from __future__ import annotations

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import globalLogPublisher

from tests.proxy.plane import Plane, new_server
from tests.proxy.servers import Server


def _open() -> set[object]:
    """Sockets of the reactor, and what it has to do later."""
    return {*reactor.getReaders(), *reactor.getWriters(), *reactor.getDelayedCalls()}


@pytest.fixture(autouse=True)
def nothing_left():
    """No test may leave a socket or a delayed call of ours behind."""
    pytest_twisted.blockon(deferLater(reactor, 0))  # it runs from here on
    before = _open()
    yield

    async def look() -> None:
        for _ in range(200):
            if not _open() - before:
                return
            await deferLater(reactor, 0.005)
        left = _open() - before
        assert not left, f"left behind: {left}"

    if _open() - before:
        pytest_twisted.blockon(Deferred.fromCoroutine(look()))


@pytest.fixture
def make_plane(nothing_left):  # noqa: ARG001 - what it checks must come after our end
    """Make a data plane with a played API server; both end with the test."""
    planes = []

    def make(server: Server | None = None, **options) -> Plane:
        plane = Plane(server or new_server(), **options)
        plane.start()
        planes.append(plane)
        return plane

    yield make

    async def end() -> None:
        for plane in planes:
            await plane.end()

    pytest_twisted.blockon(Deferred.fromCoroutine(end()))


@pytest.fixture
def expect_logged():
    """Errors that Twisted's log got; the test says which it expects."""
    failures = []

    def observe(event) -> None:
        failure = event.get("log_failure")
        if failure is not None:
            failures.append(failure)

    globalLogPublisher.addObserver(observe)

    def check(kind: type[Exception]) -> None:
        assert failures
        assert {failure.type for failure in failures} == {kind}

    yield check
    globalLogPublisher.removeObserver(observe)


@pytest.fixture
def plane(make_plane) -> Plane:
    """A data plane in auth mode with the defaults."""
    return make_plane()
