"""A plugin of another distribution is served to known callers only."""

from __future__ import annotations

import pytest

from tests.docs.plugin import install
from tests.e2e.client import address_of, ask
from tests.lab.tailnet import STRANGER


@pytest.fixture(scope="module")
def greeting(lab, proxy, tmp_path_factory):
    _, installed = install(tmp_path_factory.mktemp("greeting"))
    service = lab.start_tailproxy(
        "serve",
        name="plugins",
        tailproxy={"Plugins": {"greeting": {"Word": "good day"}}},
        env={"PYTHONPATH": str(installed)},
    )
    yield service
    assert service.stop() == 0
    proxy.announce()


def test_plugin_sees_who_is_calling(lab, greeting):
    answer = ask(lab, greeting, address_of(lab, "alice"), "/.tailproxy/greeting")
    assert (answer.status, answer.body) == (200, b"good day, alice@example.com\n")


def test_plugin_is_not_reached_without_an_identity(lab, greeting):
    answer = ask(lab, greeting, STRANGER, "/.tailproxy/greeting")
    assert answer.status == 401
    assert b"good day" not in answer.body
