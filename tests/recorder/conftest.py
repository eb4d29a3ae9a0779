"""Fixtures of the recorder's tests."""

from __future__ import annotations

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.logger import globalLogPublisher

from tests.proxy.conftest import nothing_left
from tests.recorder.place import Place

__all__ = ["nothing_left"]


@pytest.fixture(autouse=True)
def nothing_broken():
    """No test may have Twisted log a failure."""
    failures = []

    def observe(event) -> None:
        if event.get("log_failure") is not None:
            failures.append(event["log_failure"])

    globalLogPublisher.addObserver(observe)
    yield
    globalLogPublisher.removeObserver(observe)
    assert not failures, failures[0].getTraceback()


@pytest.fixture
def make_place(tmp_path, nothing_left):  # noqa: ARG001 - what it checks must come after our end
    """Make a recorder; it ends with the test."""
    places = []

    def make(**options) -> Place:
        place = Place(tmp_path / "kept", **options)
        place.start()
        places.append(place)
        return place

    yield make

    async def end() -> None:
        for place in places:
            if place.service.running:
                await place.stop()

    pytest_twisted.blockon(Deferred.fromCoroutine(end()))


@pytest.fixture
def place(make_place) -> Place:
    """A recorder that takes recordings of nodes with tag:k8s."""
    return make_place()
