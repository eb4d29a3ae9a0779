"""YAML as text that is changed: what was not asked for stays byte for byte.

A file that people write by hand has comments, anchors, an order and an indentation of its own. Who
loads it and dumps it again loses some of that, whatever the library. So a change here is a change
of the text: `tailproxy.wire.yamltree` says where things are, and what is added looks like its
neighbours.
"""

from __future__ import annotations

import json
import re
from typing import TypeAlias

import attrs
import yaml
from yaml.resolver import Resolver

from tailproxy.wire.yamltree import TEXT, Mapping, Node, Scalar, Sequence, TextError, parse

# What can be written: text, and collections of it.
Value: TypeAlias = "str | dict[str, Value] | list[Value]"

# Text that every reader of YAML takes as text without quotes, in flow collections too.
_PLAIN = re.compile(r"[A-Za-z](?:[\w./@:+=-]*[\w/+=-])?", re.ASCII)
_BOOLEAN = frozenset(("y", "n"))  # to readers of YAML 1.1 other than PyYAML


@attrs.frozen
class _Change:
    """Text in the place of other text; whole lines if `column` says where they are indented to."""

    start: int
    stop: int
    text: str
    column: int | None = None


@attrs.frozen
class _Flow:
    """What a collection in brackets looks like.

    :ivar break_: what is in front of each part: a line's end and indentation, or nothing.
    :ivar unit: what is indented further by.
    """

    break_: str
    unit: str
    quoted: bool
    colon: str
    comma: str

    def deeper(self) -> _Flow:
        return attrs.evolve(self, break_=self.break_ and self.break_ + self.unit)


@attrs.frozen
class Block:
    """What entries of a list look like.

    :ivar dash: columns from the list's key to the dash.
    :ivar body: columns from the dash to the entry's keys.
    :ivar nest: columns from a key to the keys below it.
    """

    dash: int = 0
    body: int = 2
    nest: int = 2


class Text:
    """A document that is changed.

    Changes are collected, and made at once by `result`. Each part is changed once at most.

    :param text: the whole stream.
    :ivar root: of the first document; None if there is none.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.root = parse(text)
        self._changes: list[_Change] = []
        first = text.find("\n")
        self._newline = "\r\n" if first > 0 and text[first - 1] == "\r" else "\n"

    def line(self, node: Node) -> int:
        """The number of the line that a node begins in, from 1."""
        return self.text.count("\n", 0, node.start) + 1

    def result(self) -> str:
        """The text with all changes.

        :raises TextError: two of them are in one another's way.
        """
        out: list[str] = []
        done = 0
        for change in sorted(self._changes, key=lambda c: (c.start, c.stop, -(c.column or 0))):
            if change.start < done:
                line = self.text.count("\n", 0, change.start) + 1
                raise TextError("two changes are in one another's way", line)
            out.append(self.text[done : change.start])
            if change.column is not None and (last := next(filter(None, reversed(out)), "")):
                out.append("" if last.endswith(("\n", "\r")) else self._newline)
            out.append(change.text)
            done = change.stop
        out.append(self.text[done:])
        return "".join(out)

    def begin(self, value: dict[str, Value]) -> None:
        """Give a document without content its content, behind what comments there are."""
        place = len(self.text)
        if self.root is not None:
            self._changes.append(_Change(self.root.start, self.root.end, ""))
            place = self._behind(self.root.end)
        self._insert_lines(place, 0, self._lines(value, 0, Block()))

    def update(
        self, mapping: Mapping, changes: dict[str, Value | None], style: Block | None = None
    ) -> None:
        """Set keys of a mapping, or remove them where the value is None.

        A new key goes to its place in the alphabet if the others are in that order, else behind
        them. A value that is there already in another style stays as it is.

        :param style: of lists.
        :raises TextError: the text is such that it cannot be done.
        """
        present = {key.value for key, _ in mapping.pairs}
        new = {k: v for k, v in changes.items() if v is not None and k not in present}
        gone = {k for k, v in changes.items() if v is None}
        if mapping.flow:
            self._update_flow(mapping, changes, gone, new)
        else:
            self._update_block(mapping, changes, gone, new, style or Block())

    def append(self, sequence: Sequence, value: dict[str, Value], style: Block) -> None:
        """Add an entry to a list that has some already.

        :param value: the entry; its keys are written in their order.
        :raises TextError: the text is such that it cannot be done.
        """
        last = sequence.items[-1]
        if sequence.flow:
            flow = self._flow(sequence)
            self._insert_flow(sequence, last.end, [self._render_flow(value, flow)], flow)
            return
        column = self._dash(sequence)
        if isinstance(last, Mapping) and last.flow:
            lines = [f"- {self._render_flow(value, self._flow(last))}"]
        else:
            lines = self._entry(value, style)
        self._insert_lines(self._behind(last.end), column, lines)

    def remove(self, sequence: Sequence, item: Node) -> None:
        """Take an entry out of a list that has others.

        :raises TextError: the text is such that it cannot be done.
        """
        if sequence.flow:
            items = sequence.items
            self._cut_flow(items, items, {items.index(item)})
            return
        start = self._line_start(item.start)
        if not re.fullmatch(r" *-\s+", self.text[start : item.start]):
            raise TextError("the entry does not begin at its dash", self.line(item))
        self._changes.append(_Change(start, self._behind(item.end), ""))

    def block_style(self, key: Scalar, sequence: Sequence) -> Block | None:
        """What the entries of a list look like; None if they do not tell."""
        if sequence.flow or not sequence.items:
            return None
        last = sequence.items[-1]
        if not isinstance(last, Mapping) or last.flow:
            return None
        dash = self._dash(sequence)
        inner = [v for _, v in last.pairs if isinstance(v, Mapping) and v.pairs and not v.flow]
        body = self._column(last.pairs[0][0].start)
        nest = self._column(inner[0].pairs[0][0].start) - body if inner else 2
        return Block(dash - self._column(key.start), body - dash, nest)

    # Places.

    def _line_start(self, index: int) -> int:
        return self.text.rfind("\n", 0, index) + 1

    def _column(self, index: int) -> int:
        start = self._line_start(index)
        return index - start - (start == 0 and self.text.startswith("\ufeff") and index > 0)

    def _behind(self, index: int) -> int:
        """The beginning of the line behind an index; the same index if it is such a beginning."""
        if index == 0 or self.text[index - 1] == "\n":
            return index
        end = self.text.find("\n", index)
        return len(self.text) if end < 0 else end + 1

    def _indent(self, index: int) -> str:
        """What the line of an index is indented by."""
        line = self.text[self._line_start(index) : index]
        return line[: len(line) - len(line.lstrip(" \t"))]

    def _first_on_line(self, index: int) -> bool:
        return not self.text[self._line_start(index) : index].strip(" \t")

    def _colon(self, key: Scalar) -> int:
        """The index behind a key's colon."""
        place = self.text.find(":", key.end)
        if place < 0 or self.text[key.end : place].strip():
            raise TextError("there is no colon behind the key", self.line(key))
        return place + 1

    def _dash(self, sequence: Sequence) -> int:
        """The column of a list's dashes."""
        if sequence.bare:
            return self._column(sequence.start)
        first = sequence.items[0].start
        found = re.fullmatch(r"( *)-\s+", self.text[self._line_start(first) : first])
        if found is None:
            raise TextError("the list does not begin at a dash", self.line(sequence))
        return len(found[1])

    # Block style.

    def _update_block(
        self,
        mapping: Mapping,
        changes: dict[str, Value | None],
        gone: set[str],
        new: dict[str, Value],
        style: Block,
    ) -> None:
        pairs = mapping.pairs
        column = self._column(pairs[0][0].start)
        for key, value in pairs:
            if key.value in gone:
                if not self._first_on_line(key.start):
                    raise TextError(f"{key.value} cannot be taken out", self.line(key))
                start = self._line_start(key.start)
                self._changes.append(_Change(start, self._behind(value.end), ""))
            elif (wanted := changes.get(key.value)) is not None:
                self._set_block(key, value, wanted, column, style)
        names = [key.value for key, _ in pairs]
        alphabetical = names == sorted(names)
        for name, added in new.items():
            number = sum(each < name for each in names) if alphabetical else len(names)
            if number == 0 and not self._first_on_line(pairs[0][0].start):
                number = len(names)
            place = (
                self._behind(pairs[number - 1][1].end)
                if number
                else self._line_start(pairs[0][0].start)
            )
            self._insert_lines(place, column, self._lines({name: added}, 0, style))

    def _set_block(self, key: Scalar, old: Node, wanted: Value, column: int, style: Block) -> None:
        if isinstance(wanted, str):
            if isinstance(old, Scalar) and self._same_line(key, old) and old.start < old.end:
                if (old.value, old.tag) != (wanted, TEXT):
                    self._replace(old, _scalar(wanted, old.quote))
            else:
                self._changes.append(_Change(self._colon(key), old.end, f" {_scalar(wanted)}"))
            return
        colon = self._colon(key)
        if self._same_line(key, old):
            self._changes.append(_Change(colon, max(old.end, colon), "" if wanted else " []"))
        else:
            self._changes.append(_Change(colon, colon, "" if wanted else " []"))
            self._changes.append(_Change(self._behind(colon), self._behind(old.end), ""))
        if isinstance(wanted, list):
            lines = [line for item in wanted for line in self._entry(item, style)]
            self._insert_lines(self._behind(old.end), column + style.dash, lines)
        else:
            lines = self._lines(wanted, 0, style)
            self._insert_lines(self._behind(old.end), column + style.nest, lines)

    def _lines(self, value: dict[str, Value], column: int, style: Block) -> list[str]:
        """A mapping as lines in block style."""
        lines = []
        for key, each in value.items():
            start = " " * column + _scalar(key) + ":"
            if isinstance(each, str):
                lines.append(f"{start} {_scalar(each)}")
            elif isinstance(each, list):
                lines.append(start)
                indent = " " * (column + style.dash)
                lines += [indent + line for item in each for line in self._entry(item, style)]
            else:
                lines.append(start)
                lines += self._lines(each, column + style.nest, style)
        return lines

    def _entry(self, value: Value, style: Block) -> list[str]:
        """An entry of a list as lines in block style, from the dash's column on."""
        assert isinstance(value, dict)  # noqa: S101 - our lists hold nothing else
        first, *others = self._lines(value, style.body, style)
        return ["-" + first[1:], *others]

    def _insert_lines(self, place: int, column: int, lines: list[str]) -> None:
        text = "".join(f"{' ' * column}{line}{self._newline}" for line in lines)
        self._changes.append(_Change(place, place, text, column))

    def _same_line(self, key: Scalar, value: Node) -> bool:
        return "\n" not in self.text[key.end : value.start]

    def _replace(self, node: Node, text: str) -> None:
        self._changes.append(_Change(node.start, node.end, text))

    # Flow style, which JSON is too.

    def _flow(self, node: Mapping | Sequence) -> _Flow:
        """What a collection looks like, by its first part."""
        parts: list[Node]
        if isinstance(node, Mapping):
            parts = [key for key, _ in node.pairs]
            mapping: Mapping | None = node
        else:
            parts = list(node.items)
            mapping = next((item for item in parts if isinstance(item, Mapping)), None)
        if not parts and isinstance(self.root, Mapping) and self.root.flow and self.root.pairs:
            like = self._flow(self.root)
            indent = self._indent(node.start)
            return attrs.evolve(like, break_=like.break_ and self._newline + indent)
        quoted, colon = False, ": "
        if mapping is not None and mapping.pairs:
            key, value = mapping.pairs[0]
            quoted = key.quote == '"'
            if self.text[key.end : value.start] == ":":
                colon = ":"
        break_, unit = "", "  "
        if parts and self._first_on_line(parts[0].start):
            indent, outer = self._indent(parts[0].start), self._indent(node.start)
            break_ = self._newline + indent
            if indent.startswith(outer) and indent != outer:
                unit = indent.removeprefix(outer)
        comma = "," if break_ or colon == ":" else ", "
        return _Flow(break_, unit, quoted, colon, comma)

    def _update_flow(
        self,
        mapping: Mapping,
        changes: dict[str, Value | None],
        gone: set[str],
        new: dict[str, Value],
    ) -> None:
        flow = self._flow(mapping)
        pairs = mapping.pairs
        for key, old in pairs:
            wanted = changes.get(key.value)
            if wanted is None:
                continue
            if isinstance(wanted, str):
                if not isinstance(old, Scalar) or (old.value, old.tag) != (wanted, TEXT):
                    quote = old.quote if isinstance(old, Scalar) else ""
                    self._replace_in_flow(key, old, _scalar(wanted, '"' if flow.quoted else quote))
            else:
                self._replace_in_flow(key, old, self._render_flow(wanted, flow))
        cut = {number for number, (key, _) in enumerate(pairs) if key.value in gone}
        added = [
            _scalar(key, '"' if flow.quoted else "") + flow.colon + self._render_flow(value, flow)
            for key, value in new.items()
        ]
        if len(cut) < len(pairs):
            self._cut_flow([key for key, _ in pairs], [value for _, value in pairs], cut)
            self._insert_flow(mapping, self._end_of_last(pairs, cut), added, flow)
        elif pairs:
            text = (flow.comma + flow.break_).join(added)
            self._changes.append(_Change(pairs[0][0].start, pairs[-1][1].end, text))
        else:
            self._replace(mapping, self._render_flow(dict(new), flow))

    def _replace_in_flow(self, key: Scalar, old: Node, text: str) -> None:
        if old.start == old.end:
            self._changes.append(_Change(self._colon(key), old.end, f" {text}"))
        else:
            self._replace(old, text)

    @staticmethod
    def _end_of_last(pairs: tuple[tuple[Scalar, Node], ...], cut: set[int]) -> int:
        """The end of the last pair, or where that of the last one that stays will be."""
        last = max(number for number in range(len(pairs)) if number not in cut)
        return pairs[-1][1].end if last < len(pairs) - 1 else pairs[last][1].end

    def _cut_flow(
        self,
        starts: list[Scalar] | tuple[Node, ...],
        ends: list[Node] | tuple[Node, ...],
        cut: set[int],
    ) -> None:
        """Take parts out, each run of them with one comma; at least one part stays."""
        count = len(starts)
        number = 0
        while number < count:
            if number not in cut:
                number += 1
                continue
            first = number
            while number < count and number in cut:
                number += 1
            if number < count:
                span = starts[first].start, starts[number].start
            else:
                span = ends[first - 1].end, ends[-1].end
            self._changes.append(_Change(*span, ""))

    def _insert_flow(
        self, node: Mapping | Sequence, place: int, parts: list[str], flow: _Flow
    ) -> None:
        text = "".join(flow.comma + flow.break_ + part for part in parts)
        if text:
            self._changes.append(_Change(place, place, text))

    def _render_flow(self, value: Value, flow: _Flow) -> str:
        """A value in brackets; `flow` is that of the collection that it goes into."""
        if isinstance(value, str):
            return _scalar(value, '"' if flow.quoted else "")
        inner = flow.deeper()
        if isinstance(value, dict):
            quote = '"' if flow.quoted else ""
            parts = [
                f"{_scalar(key, quote)}{flow.colon}{self._render_flow(each, inner)}"
                for key, each in value.items()
            ]
            opening, closing = "{}"
        else:
            parts = [self._render_flow(each, inner) for each in value]
            opening, closing = "[]"
        body = flow.comma.join(inner.break_ + part for part in parts)
        return opening + body + flow.break_ + closing


def _scalar(value: str, quote: str = "") -> str:
    """A text as YAML.

    :param quote: the quotation mark to use; without, only where it is needed.
    :raises TextError: it has characters that cannot be printed.
    """
    if not value.isprintable():
        raise TextError(f"{value!r} has characters that cannot be printed")
    if quote == '"':
        return json.dumps(value, ensure_ascii=False)
    if quote != "'" and _PLAIN.fullmatch(value) and value.lower() not in _BOOLEAN:
        tag = Resolver().resolve(yaml.ScalarNode, value, (True, False))
        if tag == TEXT:
            return value
    return "'" + value.replace("'", "''") + "'"
