"""tailproxy in the lab."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.lab import Lab
    from tests.lab.service import Service


@pytest.fixture(scope="session")
def proxy(lab: Lab) -> Iterator[Service]:
    """A tailproxy in auth mode at https://proxy.lab.ts.net, as its user would start it.

    It serves the whole session; when it ends, it must have ended in good order.
    """
    service = lab.start_tailproxy("serve", "loopback")
    yield service
    assert service.stop() == 0, service.log.read_text()[-3000:]


@pytest.fixture(scope="session", autouse=True)
def nothing_leaves(lab: Lab) -> Iterator[None]:
    """On the real node every packet is seen: none may have left the lab's own networks."""
    yield
    if lab.node == "kubelet":
        assert lab.cluster.packets.strays() == []


@pytest.fixture(scope="session")
def soak(request: pytest.FixtureRequest) -> bool:
    """Whether the long counts run in full."""
    return bool(request.config.getoption("--soak"))
