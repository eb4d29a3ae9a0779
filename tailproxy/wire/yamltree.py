"""YAML as a tree that knows where each part stands in the text.

Of a stream only the first document is looked at, as Kubernetes' clients do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import yaml
from yaml.resolver import Resolver

if TYPE_CHECKING:
    from collections.abc import Iterator

TEXT = "tag:yaml.org,2002:str"
_NULL = "tag:yaml.org,2002:null"
_DEPTH = 100
# Nodes of a document with its aliases followed; some files unfold to billions.
_SIZE = 1_000_000


class TextError(ValueError):
    """The text is no YAML, or cannot be changed in this way.

    :ivar line: where, from 1, or None.
    """

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message if line is None else f"line {line}: {message}")
        self.line = line


@attrs.frozen(eq=False)
class Node:
    """A part of the document.

    :ivar start: index of its first character, that of its anchor or tag if it has one.
    :ivar end: index behind its last character. Comments and empty lines are not part of it.
    :ivar bare: whether it has neither anchor nor tag.
    """

    start: int
    end: int
    bare: bool


@attrs.frozen(eq=False)
class Scalar(Node):
    """A text, a number, null.

    :ivar tag: its type, as YAML 1.1 resolves it.
    :ivar quote: the quotation mark or block indicator in front of it; empty without.
    """

    value: str
    tag: str
    quote: str

    @property
    def null(self) -> bool:
        """Whether it stands for nothing."""
        return self.tag == _NULL


@attrs.frozen(eq=False)
class Sequence(Node):
    """A list.

    :ivar flow: whether it is in brackets.
    """

    items: tuple[Node, ...]
    flow: bool


@attrs.frozen(eq=False)
class Mapping(Node):
    """Keys with values, in their order.

    :ivar flow: whether it is in braces.
    """

    pairs: tuple[tuple[Scalar, Node], ...]
    flow: bool

    def get(self, key: str) -> Node | None:
        """The value of a key, if it is there."""
        return next((value for name, value in self.pairs if name.value == key), None)


@attrs.frozen(eq=False)
class Alias(Node):
    """What stands elsewhere, under an anchor."""

    target: Node


class Loader(yaml.SafeLoader):
    """Takes tabs where Kubernetes' clients take them, such as in JSON that is indented by tabs."""

    def scan_to_next_token(self) -> None:
        """Skip what separates tokens."""
        super().scan_to_next_token()
        while self.peek() == "\t" and (self.flow_level or not self.allow_simple_key):
            self.forward()
            super().scan_to_next_token()


def _index(mark: Any) -> int:
    index: int = mark.index
    return index


class _Builder:
    """Makes the tree of the first document's events."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._events: Iterator[Any] = yaml.parse(text, Loader=Loader)
        self._anchors: dict[str, Node] = {}
        self._resolver = Resolver()

    def root(self) -> Node | None:
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                return self._node(next(self._events), 0)
        return None

    def _node(self, event: Any, depth: int) -> Node:
        start, line = event.start_mark.index, event.start_mark.line + 1
        if depth > _DEPTH:
            raise TextError("it is nested too deeply", line)
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self._anchors:
                raise TextError(f"there is no &{event.anchor} before", line)
            return Alias(start, _index(event.end_mark), True, self._anchors[event.anchor])
        bare = event.anchor is None and event.tag is None
        node: Node
        if isinstance(event, yaml.ScalarEvent):
            node = self._scalar(event, start, bare)
        elif isinstance(event, yaml.SequenceStartEvent):
            items = []
            while not isinstance(inner := next(self._events), yaml.SequenceEndEvent):
                items.append(self._node(inner, depth + 1))
            flow = bool(event.flow_style)
            end = _index(inner.end_mark) if flow or not items else items[-1].end
            node = Sequence(start, end, bare, tuple(items), flow)
        else:
            node = self._mapping(event, start, bare, depth)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _mapping(self, event: Any, start: int, bare: bool, depth: int) -> Mapping:
        pairs: list[tuple[Scalar, Node]] = []
        seen = set()
        while not isinstance(inner := next(self._events), yaml.MappingEndEvent):
            line = inner.start_mark.line + 1
            key = self._node(inner, depth + 1)
            if not isinstance(key, Scalar):
                raise TextError("a key is not a text", line)
            if key.value in seen:
                raise TextError(f"the key {key.value!r} is there twice", line)
            seen.add(key.value)
            pairs.append((key, self._node(next(self._events), depth + 1)))
        flow = bool(event.flow_style)
        end = _index(inner.end_mark) if flow or not pairs else pairs[-1][1].end
        return Mapping(start, end, bare, tuple(pairs), flow)

    def _scalar(self, event: Any, start: int, bare: bool) -> Scalar:
        value, end, quote = event.value, _index(event.end_mark), event.style or ""
        # With "+" in its head the lines behind a text are part of it, else they are anybody's.
        keeps = value == "\n" or (value.endswith("\n") and value != value.rstrip() + "\n")
        if quote in {"|", ">"} and not keeps:
            end = start + len(self._text[start:end].rstrip())
        tag = event.tag
        if tag is None or tag == "!":
            tag = self._resolver.resolve(yaml.ScalarNode, value, event.implicit)
        return Scalar(start, end, bare, value, tag, quote)


def parse(text: str) -> Node | None:
    """Read the first document.

    :returns: its root, or None if there is no document at all.
    :raises TextError: it is no YAML, or nested too deeply, or a key is no text or there twice.
    """
    try:
        return _Builder(text).root()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        why = error.problem or error.context or "it is no YAML"
        raise TextError(why, None if mark is None else mark.line + 1) from error
    except yaml.YAMLError as error:
        raise TextError(str(error).partition("\n")[0]) from error


def plain(node: Node | None) -> Any:
    """What a document says, whatever it looks like, for comparisons.

    :returns: text as str, other scalars as pairs of tag and text, collections as list and dict.
    :raises TextError: its aliases unfold to too much, or to itself.
    """
    sizes: dict[int, int] = {}
    seen: dict[int, Any] = {}

    def visit(node: Node) -> tuple[Any, int]:
        if isinstance(node, Alias):
            node = node.target
        if id(node) in seen:
            return seen[id(node)], sizes[id(node)]
        found: Any
        size = 1
        if isinstance(node, Mapping):
            found = {}
            for key, value in node.pairs:
                found[key.value], more = visit(value)
                size += more
        elif isinstance(node, Sequence):
            found = []
            for item in node.items:
                each, more = visit(item)
                found.append(each)
                size += more
        else:
            assert isinstance(node, Scalar)  # noqa: S101 - there is no other kind
            found = node.value if node.tag == TEXT else (node.tag, node.value)
        if size > _SIZE:
            raise TextError("its aliases unfold to too much")
        seen[id(node)], sizes[id(node)] = found, size
        return found, size

    return None if node is None else visit(node)[0]
