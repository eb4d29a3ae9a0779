"""The root of the data plane: nothing behind it is reached without an identity."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.web.resource import IResource
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

from tailproxy.errors import ApiError

if TYPE_CHECKING:
    from twisted.python.failure import Failure

    from tailproxy.interfaces import IIdentityResolver
    from tailproxy.policy.identity import Identity
    from tailproxy.proxy.request import Request
    from tailproxy.proxy.site import Root

PLUGIN_PREFIX = b"/.tailproxy"


@implementer(IResource)
class WhoIsResource:
    """Finds out who is calling, for every request, and hands on to the resource that answers.

    Identity comes from the address of the connection and from nothing else (design rule 3). An
    error on the way is a refusal (rule 1).

    :param proxy: gets what is for the API server.
    :param plugins: gets what is below `/.tailproxy`.
    """

    isLeaf = True

    def __init__(self, resolver: IIdentityResolver, proxy: Root, plugins: Root) -> None:
        self._resolver = resolver
        self._proxy = proxy
        self._plugins = plugins

    def render(self, request: Request) -> int:
        """Ask who it is; the answer may come later."""
        identity = self._resolver.recall(request.caller)
        if identity is not None:
            self._known(identity, request)
            return NOT_DONE_YET
        self._resolver.resolve(request.caller).addCallbacks(
            self._known, self._unknown, callbackArgs=(request,), errbackArgs=(request,)
        ).addErrback(request.broken)
        return NOT_DONE_YET

    def getChildWithDefault(self, name: bytes, request: Request) -> IResource:
        """Every path is answered here."""
        return self

    def putChild(self, path: bytes, child: IResource) -> None:
        """There are no children: the two resources behind are fixed at start."""
        raise TypeError("WhoIsResource hands on to the proxy and to the plugins only")

    def _known(self, identity: Identity, request: Request) -> None:
        if request.gone:
            return
        request.identity = identity
        path = request.head.path
        if path.startswith(PLUGIN_PREFIX) and path[len(PLUGIN_PREFIX) :][:1] in {b"", b"/"}:
            self._plugins.render(request)
        else:
            self._proxy.render(request)

    def _unknown(self, failure: Failure, request: Request) -> None:
        error = failure.value
        if isinstance(error, ApiError):
            request.refuse(error)
        else:
            request.broken(failure)
