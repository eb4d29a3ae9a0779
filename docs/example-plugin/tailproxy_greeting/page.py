"""The page, and the plugin that makes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.web.resource import Resource
from zope.interface import implementer

from tailproxy.interfaces import IIdentity, IResourcePlugin

if TYPE_CHECKING:
    from twisted.web.server import Request

    from tailproxy.interfaces import PluginContext


class Greeting(Resource):
    """Greets whoever asks.

    :param word: what the greeting begins with.
    """

    isLeaf = True

    def __init__(self, word: str) -> None:
        super().__init__()
        self._word = word

    def render_GET(self, request: Request) -> bytes:
        """One line of text."""
        request.setHeader(b"content-type", b"text/plain; charset=utf-8")
        return f"{self._word}, {IIdentity(request).user}\n".encode()


@implementer(IResourcePlugin)
class GreetingPlugin:
    """Puts it at `/.tailproxy/greeting`. Its option is `Word`."""

    name = "greeting"
    mount = "tailnet"

    def resource(self, context: PluginContext) -> Greeting:
        """The page; an error here ends the start of the service."""
        word = context.options.get("Word", "hello")
        if not isinstance(word, str):
            raise TypeError(f"Word must be a string, not {word!r}")
        return Greeting(word)
