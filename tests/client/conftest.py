"""Fixtures of the commands' tests."""

from __future__ import annotations

import pytest

from tests.client.servers import Played


@pytest.fixture
def played(tmp_path):
    """A played proxy whose CA is beside the kubeconfigs of the test."""
    with Played(tmp_path) as played:
        yield played


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    """The proxies of whoever runs the tests do not count."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
