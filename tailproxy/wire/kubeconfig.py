"""A kubeconfig's text with an entry for one proxy (spec/dataplane.md 7.4).

Nothing but what was asked for changes: comments, order, anchors, further documents and unknown
fields stay byte for byte (`tailproxy.wire.yamltext`). Every change is checked by reading the new
text again: if it says anything else than it should, there is an error in place of a text.
"""

from __future__ import annotations

from contextlib import contextmanager
from operator import itemgetter
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs

from tailproxy.wire.yamltext import Block, Text
from tailproxy.wire.yamltree import Alias, Mapping, Node, Scalar, Sequence, TextError, parse, plain

if TYPE_CHECKING:
    from collections.abc import Iterator
    from collections.abc import Mapping as Names

    from tailproxy.wire.yamltext import Value

    Fields: TypeAlias = "dict[str, str | None]"

# The user entry that all proxies of a tailnet share, and its token, which says nothing: without
# one kubectl asks for a user name and a password.
USER = "tailscale-auth"
TOKEN = "unused"  # noqa: S105 - it is none

# Each list's name, and what is in its entries beside their names.
_LISTS = {"clusters": "cluster", "contexts": "context", "users": "user"}

# What is said of one server's certificate, and is wrong of another one's.
_TLS = (
    "certificate-authority",
    "certificate-authority-data",
    "insecure-skip-tls-verify",
    "tls-server-name",
)
# By which a client shows who it is (client-go's AuthInfo).
CREDENTIALS = (
    "auth-provider",
    "client-certificate",
    "client-certificate-data",
    "client-key",
    "client-key-data",
    "exec",
    "password",
    "token",
    "tokenFile",
    "username",
)


class KubeconfigError(ValueError):
    """The kubeconfig cannot be used, or not changed without harm. It says what to do."""


@attrs.frozen
class Entry:
    """What is wanted: a cluster, a user and a context.

    :ivar server: URL of the proxy.
    :ivar cluster: name of its entry; `user` and `context` likewise.
    :ivar keep_user: the user's entry has credentials that count, and stays as it is, wherever it
        is; for a proxy in noauth mode.
    :ivar namespace: of the context; None leaves one that is there.
    :ivar authority: certificates that vouch for the server, PEM in base64; None for public ones.
    :ivar proxy_url: of an HTTP or SOCKS5 proxy into the tailnet; None leaves one that is there.
    :ivar current: whether the context becomes the current one.
    """

    server: str
    cluster: str
    context: str
    user: str = USER
    keep_user: bool = False
    namespace: str | None = None
    authority: str | None = None
    proxy_url: str | None = None
    current: bool = True


@attrs.frozen
class Edit:
    """A new text.

    :ivar changes: what is different, a line each, for people. It names no secrets.
    """

    text: str
    changes: tuple[str, ...]


@contextmanager
def _changing() -> Iterator[None]:
    """Say what it means that a text cannot be changed."""
    try:
        yield
    except TextError as error:
        raise KubeconfigError(
            f"the text around the entry cannot be changed ({error}); write it in another style, or "
            "choose other names with --cluster, --context and --user"
        ) from error


@_changing()
def add(text: str, entry: Entry) -> Edit:
    """Put an entry into a kubeconfig, in the place of entries of the same names.

    In a cluster's entry that names another server, what is said of that server's certificate is
    dropped. In a user's entry other credentials are. What else is in them stays.

    :param text: of the kubeconfig; it may be empty.
    :raises KubeconfigError: the text is no kubeconfig, or cannot be changed without harm, or a
        user of that name has credentials of its own.
    """
    config = _Document(text)
    cluster: Fields = {"server": entry.server}
    before = config.inner("clusters", entry.cluster)
    if before is not None and before.get("server") != entry.server:
        cluster |= {key: None for key in _TLS if key in before}
    if entry.authority is not None:
        cluster |= {key: None for key in _TLS[:3] if before and key in before}
        cluster["certificate-authority-data"] = entry.authority
    if entry.proxy_url is not None:
        cluster["proxy-url"] = entry.proxy_url
    config.put("clusters", entry.cluster, cluster)

    context: Fields = {"cluster": entry.cluster, "user": entry.user}
    if entry.namespace is not None:
        context["namespace"] = entry.namespace
    config.put("contexts", entry.context, context)

    if not entry.keep_user:
        known = config.inner("users", entry.user) or {}
        own = [key for key in CREDENTIALS if key in known and (key, known[key]) != ("token", TOKEN)]
        if own and entry.user != USER:
            raise KubeconfigError(
                f"the user {entry.user!r} has credentials of its own ({', '.join(own)}); add "
                "--keep-user if the proxy is in noauth mode, where they count, or choose another "
                "name with --user"
            )
        config.put("users", entry.user, {**dict.fromkeys(own), "token": TOKEN})

    if entry.current:
        config.point_to(entry.context)
    return config.edit()


@_changing()
def remove(text: str, context: str, cluster: str) -> Edit:
    """Take a context out of a kubeconfig, and its cluster unless another context uses it.

    The user stays: contexts in other files may use it, and it holds no secret. If the context was
    the current one, there is none then.

    :raises KubeconfigError: the text is no kubeconfig, or cannot be changed without harm.
    """
    config = _Document(text)
    config.take("contexts", context)
    if not config.uses(cluster):
        config.take("clusters", cluster)
    if config.said.get("current-context") == context:
        config.point_to("")
    return config.edit()


def _name(entry: Any) -> Any:
    """The name of a list's entry, its own or one that it takes over by a merge."""
    if not isinstance(entry, dict):
        return None
    if "name" in entry or "<<" not in entry:
        return entry.get("name")
    merged = entry["<<"]
    names = map(_name, merged if isinstance(merged, list) else [merged])
    return next((name for name in names if name is not None), None)


def _place(entries: list[Any], name: str) -> int | None:
    """Where in a list the entry of that name is; the first counts."""
    return next((number for number, each in enumerate(entries) if _name(each) == name), None)


class _Document:
    """A kubeconfig that is changed.

    Each change is made twice: in the text, and in what the text says. In the end both must agree.

    :ivar said: what the text says, with the changes so far.
    """

    def __init__(self, text: str) -> None:
        try:
            self._text = Text(text)
            said = plain(self._text.root)
        except TextError as error:
            raise KubeconfigError(f"invalid kubeconfig: {error}") from error
        root = self._text.root
        empty = root is None or (isinstance(root, Scalar) and root.null)
        if not empty and not (
            isinstance(root, Mapping)
            and said.get("apiVersion") == "v1"
            and said.get("kind") == "Config"
        ):
            raise KubeconfigError("invalid kubeconfig: it lacks apiVersion: v1 and kind: Config")
        self._root = root if isinstance(root, Mapping) else None
        self.said: dict[str, Any] = {"apiVersion": "v1", "kind": "Config"} if empty else dict(said)
        self._top: dict[str, Value | None] = {}
        self._changes: list[str] = []

    def inner(self, key: str, name: str) -> dict[str, Any] | None:
        """What an entry says beside its name; None if it is not there."""
        entries = self._list(key)
        number = _place(entries, name)
        if number is None:
            return None
        found = entries[number].get(_LISTS[key])
        return found if isinstance(found, dict) else {}

    def uses(self, cluster: str) -> bool:
        """Whether a context leads to a cluster."""
        inner = [each.get("context") for each in self._list("contexts") if isinstance(each, dict)]
        return any(isinstance(each, dict) and each.get("cluster") == cluster for each in inner)

    def put(self, key: str, name: str, fields: Fields) -> None:
        """Set fields of an entry, which is made if it is not there, and drop those that are None.

        :param key: of the list.
        """
        kind = _LISTS[key]
        kept = {field: value for field, value in fields.items() if value is not None}
        wanted: dict[str, Any] = dict(sorted(kept.items()))
        entries = self._list(key)
        number = _place(entries, name)
        if number is None:
            if key in self.said and not isinstance(self.said[key], list) and not self._null(key):
                self._changes.append(f"replaced {key}, which was no list")
            entry: dict[str, Value] = {kind: wanted, "name": name}
            entry = dict(sorted(entry.items(), key=itemgetter(0)))
            self._append(key, entry)
            self.said[key] = [*entries, entry]
            self._changes.append(f"added {kind} {name!r}{_told(kept)}")
            return
        before = entries[number].get(kind)
        before = before if isinstance(before, dict) else {}
        after = {k: v for k, v in before.items() if k not in fields} | wanted
        if after == entries[number].get(kind):
            return
        self._change(key, number, kind, fields, wanted)
        changed = {**entries[number], kind: after}
        self.said[key] = [*entries[:number], changed, *entries[number + 1 :]]
        told = _told({k: v for k, v in kept.items() if before.get(k) != v})
        dropped = [field for field in before if field not in after]
        self._changes.append(
            f"changed {kind} {name!r}{told}"
            + (f"; dropped {', '.join(dropped)}" if dropped else "")
        )

    def take(self, key: str, name: str) -> None:
        """Remove an entry, if it is there."""
        entries = self._list(key)
        number = _place(entries, name)
        if number is None:
            return
        self.said[key] = [*entries[:number], *entries[number + 1 :]]
        self._changes.append(f"removed {_LISTS[key]} {name!r}")
        sequence = self._sequence(key)
        if sequence is None or len(entries) == 1:
            self._top[key] = []
        else:
            self._text.remove(sequence, sequence.items[number])

    def point_to(self, context: str) -> None:
        """Make a context the current one."""
        before = self.said.get("current-context")
        if before == context:
            return
        self._top["current-context"] = context
        self.said["current-context"] = context
        was = f" (was {before!r})" if isinstance(before, str) and before else ""
        self._changes.append(f"current-context is {repr(context) if context else 'unset'}{was}")

    def edit(self) -> Edit:
        """The new text, once it has been read again."""
        if not self._changes:
            return Edit(self._text.text, ())
        if self._root is None:
            fresh: dict[str, Value] = {"apiVersion": "v1", "kind": "Config"}
            fresh |= {key: value for key, value in self._top.items() if value is not None}
            self._text.begin(dict(sorted(fresh.items())))
        elif self._top:
            self._text.update(self._own(self._root), self._top, self._style())
        text = self._text.result()
        if plain(parse(text)) != self.said:
            raise KubeconfigError(
                "other entries take over parts of this one by an alias (*NAME) or a merge (<<); "
                "write those out, or choose other names with --cluster, --context and --user"
            )
        return Edit(text, tuple(self._changes))

    def _list(self, key: str) -> list[Any]:
        entries = self.said.get(key)
        return entries if isinstance(entries, list) else []

    # In the text.

    def _null(self, key: str) -> bool:
        node = self._root.get(key) if self._root is not None else None
        return isinstance(node, Scalar) and node.null

    def _sequence(self, key: str) -> Sequence | None:
        """The list of that name, if it has entries."""
        node = self._root.get(key) if self._root is not None else None
        if isinstance(node, Alias):
            raise KubeconfigError(f"{key} is an alias (*NAME); write it out")
        return node if isinstance(node, Sequence) and node.items else None

    def _style(self, key: str | None = None) -> Block:
        """What entries of a list look like, or of other lists if it does not tell."""
        root = self._root
        pairs = [] if root is None or root.flow else list(root.pairs)
        for name, node in sorted(pairs, key=lambda pair: pair[0].value != key):
            if name.value in _LISTS and isinstance(node, Sequence):
                style = self._text.block_style(name, node)
                if style is not None:
                    return style
        return Block()

    def _append(self, key: str, entry: dict[str, Value]) -> None:
        sequence = self._sequence(key)
        if sequence is None:
            self._top[key] = [entry]
            return
        last = sequence.items[-1]
        if isinstance(last, Mapping) and last.pairs:
            first = last.pairs[0][0].value
            entry = dict(sorted(entry.items(), key=lambda pair: pair[0] != first))
        self._text.append(sequence, entry, self._style(key))

    def _change(
        self, key: str, number: int, kind: str, fields: Fields, wanted: dict[str, Value]
    ) -> None:
        sequence = self._sequence(key)
        assert sequence is not None  # noqa: S101 - the entry is in it
        item = sequence.items[number]
        inner = self._own(item).get(kind)
        if isinstance(inner, Alias) or (isinstance(inner, Mapping) and inner.pairs):
            self._text.update(self._own(inner), {**fields})
        else:
            self._text.update(self._own(item), {kind: wanted}, self._style(key))

    def _own(self, node: Node) -> Mapping:
        """A mapping that is written out where it stands."""
        if isinstance(node, Mapping) and node.get("<<") is None:
            return node
        raise KubeconfigError(
            f"line {self._text.line(node)} takes over an entry by an alias (*NAME) or a merge "
            "(<<); write it out, or choose another name with --cluster, --context or --user"
        )


def _told(fields: Names[str, str]) -> str:
    """The fields of a change, for people; certificates are long, and tokens nobody's business."""
    shown = [
        field if field in {"certificate-authority-data", "token"} else f"{field} {value}"
        for field, value in sorted(fields.items())
    ]
    return f": {', '.join(shown)}" if shown else ""
