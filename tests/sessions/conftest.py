"""Fixtures of the tests of recorded sessions."""

from __future__ import annotations

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import maybeDeferred

from tailproxy.sessions.service import LocalSessions
from tests.proxy.conftest import make_plane, nothing_left  # noqa: F401 - they are fixtures
from tests.sessions.shelf import Shelf, dial_socket, read, request


@pytest.fixture
def shelf(nothing_left, tmp_path):  # noqa: ARG001, F811 - what it checks comes after our end
    shelf = Shelf(tmp_path / "recordings")
    shelf.library.startService()
    yield shelf
    shelf.index.close()
    pytest_twisted.blockon(shelf.library.stopService())


@pytest.fixture
def local(shelf, tmp_path):
    """The pages on a unix socket: the path of that."""
    path = tmp_path / "sessions.sock"
    service = LocalSessions(reactor, path, shelf.library)
    service.startService()
    yield path
    pytest_twisted.blockon(maybeDeferred(service.stopService))


@pytest.fixture
def ask(local):
    """Asks for a page there."""

    async def ask(method: str, path: str, body: bytes = b"", **headers: str):
        wire = await dial_socket(local)
        wire.send(request(method, path, body, **headers))
        return read(await wire.ends())

    return ask
