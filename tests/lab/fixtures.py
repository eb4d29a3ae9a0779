"""The lab as pytest fixtures; ``tests/conftest.py`` names this module as a plugin.

One lab serves the whole session. A test that changes it (the policy, a stopped node) changes it
back.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.lab import build
from tests.lab.errors import LabError
from tests.lab.lab import KUBECTLS, NODES, Lab, cluster_kind
from tests.lab.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.cluster import Cluster
    from tests.lab.tailnet import Tailnet


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the choice of the node, and of the number of workers."""
    parser.addoption(
        "--lab-node",
        choices=NODES,
        default="kwok",
        help="what runs the pods of the lab: kwok, or a real kubelet (root, Linux)",
    )
    parser.addoption(
        "--workers",
        type=int,
        default=2,
        help="how many processes of tailproxy serve; 1 is one process that does everything",
    )


def _new_lab(config: pytest.Config) -> Lab:
    return Lab(
        f"pytest-{os.getpid()}",
        node=config.getoption("--lab-node"),
        workers=config.getoption("--workers"),
    )


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build the lab's programs before the first test, if a test wants them.

    That may take half an hour, once per machine; a test's timeout does not allow for it. Programs
    beyond those of the lab itself are built if a test that runs has the mark ``programs``.
    """
    wanted = any("lab" in getattr(item, "fixturenames", ()) for item in session.items)
    if not wanted or session.config.option.collectonly:
        return
    capture = session.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        try:
            cluster_kind(session.config.getoption("--lab-node")).check_machine()
            build.ensure(
                [
                    *_new_lab(session.config).parts,
                    *KUBECTLS.values(),
                    *(
                        name
                        for item in session.items
                        for mark in item.iter_markers("programs")
                        for name in mark.args
                    ),
                ],
                progress=Progress(),
            )
        except LabError as error:
            pytest.exit(str(error), returncode=1)


@pytest.fixture(scope="session")
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A lab of this session's own; its logs stay if a test failed."""
    with _new_lab(request.config) as lab:
        yield lab
        lab.close(keep=request.session.testsfailed > 0)


@pytest.fixture(scope="session")
def cluster(lab: Lab) -> Cluster:
    """The cluster of the lab."""
    return lab.cluster


@pytest.fixture(scope="session")
def tailnet(lab: Lab) -> Tailnet:
    """The tailnet of the lab."""
    return lab.tailnet
