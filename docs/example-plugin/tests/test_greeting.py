import pytest
from tailproxy_greeting.page import GreetingPlugin
from twisted.plugin import getPlugins
from twisted.web.server import Request
from twisted.web.test.requesthelper import DummyChannel
from zope.interface import implementer

from tailproxy.interfaces import IIdentity, IResourcePlugin, PluginContext
from tailproxy.testing import FakeUpstream


@implementer(IIdentity)
class Alice:
    user = "alice@example.com"
    groups = ("platform",)
    node = "laptop.example.ts.net"
    node_id = "n1"
    tags = ()
    addresses = ()


def page(options):
    return GreetingPlugin().resource(PluginContext(options, "0", "auth", FakeUpstream()))


def test_the_caller_is_greeted_by_name():
    request = Request(DummyChannel())
    request.setComponent(IIdentity, Alice())
    assert page({"Word": "good day"}).render_GET(request) == b"good day, alice@example.com\n"


def test_a_word_that_is_none_ends_the_start():
    with pytest.raises(TypeError, match="Word must be a string"):
        page({"Word": 5})


def test_tailproxy_finds_it():
    assert "greeting" in [plugin.name for plugin in getPlugins(IResourcePlugin)]
