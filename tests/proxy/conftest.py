"""Fixtures of the data plane's tests."""

from __future__ import annotations

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from tests.proxy.plane import Plane, new_server


@pytest.fixture
def make_plane():
    """Make a data plane with a played API server; both end with the test."""
    planes = []

    def make(**options) -> Plane:
        plane = Plane(new_server(), **options)
        plane.start()
        planes.append(plane)
        return plane

    yield make

    async def end() -> None:
        for plane in planes:
            await plane.server.stop()
            await plane.service.stopService()

    pytest_twisted.blockon(Deferred.fromCoroutine(end()))


@pytest.fixture
def plane(make_plane) -> Plane:
    """A data plane in auth mode with the defaults."""
    return make_plane()
