"""A plugin of another distribution is served to known callers only."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.e2e.client import address_of, ask
from tests.lab.tailnet import STRANGER

SETUP = """\
[metadata]
name = tailproxy-greeting
version = 1
[options]
packages =
    twisted.plugins
"""
PROJECT = """\
[build-system]
requires = ["setuptools>=80"]
build-backend = "setuptools.build_meta"
"""
PLUGIN = """\
from twisted.web.resource import Resource
from zope.interface import implementer

from tailproxy.interfaces import IIdentity, IResourcePlugin


class Greeting(Resource):
    isLeaf = True

    def __init__(self, word):
        super().__init__()
        self.word = word

    def render_GET(self, request):
        return f"{self.word}, {IIdentity(request).user}".encode()


@implementer(IResourcePlugin)
class GreetingPlugin:
    name = "greeting"
    mount = "tailnet"

    def resource(self, context):
        return Greeting(context.options.get("Word", "hello"))


greeting = GreetingPlugin()
"""


@pytest.fixture(scope="module")
def greeting(lab, proxy, tmp_path_factory):
    source = tmp_path_factory.mktemp("greeting")
    (source / "setup.cfg").write_text(SETUP)
    (source / "pyproject.toml").write_text(PROJECT)
    (source / "twisted" / "plugins").mkdir(parents=True)
    (source / "twisted" / "plugins" / "greeting_plugin.py").write_text(PLUGIN)
    installed = tmp_path_factory.mktemp("installed")
    subprocess.run(
        [
            sys.executable, "-m", "pip", "install", "--quiet", "--no-deps",
            "--target", str(installed), str(source),
        ],
        check=True,
    )  # fmt: skip
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
    assert (answer.status, answer.body) == (200, b"good day, alice@example.com")


def test_plugin_is_not_reached_without_an_identity(lab, greeting):
    answer = ask(lab, greeting, STRANGER, "/.tailproxy/greeting")
    assert answer.status == 401
    assert b"good day" not in answer.body
