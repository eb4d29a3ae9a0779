"""The resources that plugins add (`IResourcePlugin`): found, named and made."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Protocol

from twisted.plugin import getPlugins

import tailproxy
from tailproxy.interfaces import IResourcePlugin, PluginContext
from tailproxy.proxy.index import IndexPage
from tailproxy.proxy.whoami import WhoAmIPlugin
from tailproxy.schema import ConfigError
from tailproxy.sessions.plugin import SessionsPlugin

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.web.resource import IResource

    from tailproxy.config import Config
    from tailproxy.interfaces import IRecordings, IUpstream

    class Keep(Protocol):
        """Gives back what was made before of the same, or makes it."""

        def __call__(self, name: str, of: object, make: Callable[[], IResource]) -> IResource:
            """The thing of that name.

            :param of: what it is made of.
            """


_NAME = re.compile(r"[a-z0-9-]+")


def plugin_resources(
    config: Config, upstream: IUpstream, recordings: IRecordings | None, keep: Keep
) -> dict[str, dict[str, IResource]]:
    """The resources of all plugins, by mount and name, and the page that lists those of the tailnet
    listeners under the empty name.

    :param recordings: of the recorder, if there is one: it has pages of its own.
    :raises ConfigError: one of them cannot be used, or the configuration has options for one that
        is not there.
    """
    options = config.tailproxy.plugins
    found: dict[str, dict[str, IResource]] = {"tailnet": {}, "admin": {}}
    names: set[str] = set()
    titles: dict[str, str] = {}
    mode = config.api_server_proxy.mode.value
    ours = (WhoAmIPlugin(),) if recordings is None else (WhoAmIPlugin(), SessionsPlugin())
    for plugin in (*ours, *getPlugins(IResourcePlugin)):
        if not _NAME.fullmatch(plugin.name):
            raise ConfigError(
                f"plugin {plugin.name!r}", "its name is not lower-case letters, digits and hyphens"
            )
        if plugin.name in names:
            raise ConfigError(f"plugin {plugin.name}", "two plugins have this name; remove one")
        names.add(plugin.name)
        context = PluginContext(
            options.get(plugin.name, {}), tailproxy.__version__, mode, upstream, recordings
        )
        if plugin.mount not in found:
            raise ConfigError(
                f"plugin {plugin.name}", f"its mount is {plugin.mount!r}, wanted tailnet or admin"
            )
        try:
            found[plugin.mount][plugin.name] = keep(
                f"plugin {plugin.name}", context, partial(plugin.resource, context)
            )
        except Exception as error:
            raise ConfigError(
                f"plugin {plugin.name}",
                f"it cannot be used: {error!r}; fix Tailproxy.Plugins.{plugin.name}, or remove it",
            ) from error
        if plugin.mount == "tailnet":
            titles[plugin.name] = str(getattr(plugin, "title", ""))
    found["tailnet"][""] = IndexPage(mode, tailproxy.__version__, titles)
    for name in options:
        if name not in names:
            known = ", ".join(sorted(names))
            raise ConfigError(f"Tailproxy.Plugins.{name}", f"no such plugin; there is {known}")
    return found
