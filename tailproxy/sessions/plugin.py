"""`/.tailproxy/sessions/`: the pages on the tailnet listeners."""

from __future__ import annotations

from zope.interface import implementer

from tailproxy.interfaces import IResourcePlugin, PluginContext
from tailproxy.sessions.access import granted
from tailproxy.sessions.pages import SessionsResource


@implementer(IResourcePlugin)
class SessionsPlugin:
    """Our own, where there is a recorder."""

    name = "sessions"
    mount = "tailnet"
    title = "Recorded sessions, for who has a grant to see them"

    def resource(self, context: PluginContext) -> SessionsResource:
        """The pages.

        :raises ValueError: there is no recorder.
        """
        if context.recordings is None:
            raise ValueError("there is no recorder")
        return SessionsResource(context.recordings, granted)
