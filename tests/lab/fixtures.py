"""The lab as pytest fixtures; ``tests/conftest.py`` names this module as a plugin.

One lab serves the whole session. A test that changes it (the policy, a stopped node) changes it
back.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.lab.lab import NODES, Lab

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.cluster import Cluster
    from tests.lab.tailnet import Tailnet


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the choice of the node."""
    parser.addoption(
        "--lab-node",
        choices=NODES,
        default="kwok",
        help="what runs the pods of the lab: kwok, or a real kubelet (root, Linux)",
    )


@pytest.fixture(scope="session")
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A lab of this session's own; its logs stay if a test failed."""
    lab = Lab(f"pytest-{os.getpid()}", node=request.config.getoption("--lab-node"))
    try:
        lab.start()
        yield lab
    finally:
        lab.close(keep=request.session.testsfailed > 0)


@pytest.fixture(scope="session")
def cluster(lab: Lab) -> Cluster:
    """The cluster of the lab."""
    return lab.cluster


@pytest.fixture(scope="session")
def tailnet(lab: Lab) -> Tailnet:
    """The tailnet of the lab."""
    return lab.tailnet
