"""From a tree of HuJSON to frozen values that describe themselves.

A class of options is an attrs class whose fields are made with `option`: the key in the file,
what may stand there, one sentence about it, and a default. The reader below, the documentation
and the example file all come from that description.

Keys match whatever their case, as they do in the Tailscale operator's schema
(spec/dataplane.md 2.2). `null` means the same as leaving the key out.

It promises nothing about what the values mean together: that is each class's own business, which
it reports by raising `MisfitError`.
"""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import attrs

from tailproxy.wire.hujson import Items, Member, Members, Node

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from enum import Enum

    Shape = Mapping[str, Any]

_OPTION = "tailproxy.option"
# A found value is quoted up to here, so that the error stays one line.
_SHOWN = 60


class ConfigError(Exception):
    """What is wrong with a configuration, on one line.

    :param source: name of the file.
    :param message: what was found and what is wanted.
    :param line: line of what was found, from 1; 0 when it is not about a place in the file.
    :param column: column of it, from 1.
    :param key: path of the key, such as `Tailproxy.Listeners[0].Address`; empty for the whole file.
    """

    def __init__(
        self, source: str, message: str, *, line: int = 0, column: int = 0, key: str = ""
    ) -> None:
        place = f"{source}:{line}:{column}: " if line else f"{source}: "
        super().__init__(f"{place}{key + ': ' if key else ''}{message}")
        self.source = source
        self.message = message
        self.line = line
        self.column = column
        self.key = key


class MisfitError(ValueError):
    """A value that does not fit its neighbours.

    :param path: from the object that noticed it to the value: keys and indexes.
    :param wanted: what would fit.
    """

    def __init__(self, path: tuple[str | int, ...], wanted: str) -> None:
        super().__init__(f"{'.'.join(map(str, path))}: wanted {wanted}")
        self.path = path
        self.wanted = wanted


@attrs.frozen
class Place:
    """A value in the file and the way to it."""

    source: str
    node: Node
    path: str = ""
    secret: bool = False

    def wrong(self, wanted: str, found: str | None = None) -> ConfigError:
        """An error about the value.

        :param found: what is there, if the value itself does not say it.
        """
        found = found or self._shown()
        return self._error(self.node.line, self.node.column, f"found {found}, wanted {wanted}")

    def wrong_key(self, member: Member, message: str) -> ConfigError:
        """An error about a key of this object."""
        return self.member(member)._error(member.line, member.column, message)  # noqa: SLF001 - own

    def _error(self, line: int, column: int, message: str) -> ConfigError:
        return ConfigError(self.source, message, line=line, column=column, key=self.path)

    def _shown(self) -> str:
        if self.node.kind in {"object", "array"}:
            return f"an {self.node.kind}"
        if self.secret and self.node.kind == "string":
            return "a string that is not shown"
        text = json.dumps(self.node.value, ensure_ascii=False)
        return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"

    @property
    def given(self) -> bool:
        """Whether there is anything but `null`."""
        return self.node.kind != "null"

    def member(self, member: Member, key: str = "", *, secret: bool = False) -> Place:
        """A member of this object.

        :param key: how to spell its key; as it stands there if left out.
        """
        key = key or member.key
        path = f"{self.path}.{key}" if self.path else key
        return Place(self.source, member.value, path, self.secret or secret)

    def members(self) -> tuple[Member, ...]:
        """The members of this object; none if it is something else."""
        return self.node.value.members if isinstance(self.node.value, Members) else ()

    def items(self) -> list[Place]:
        """The elements of this list; none if it is something else."""
        nodes = self.node.value.items if isinstance(self.node.value, Items) else ()
        return [
            Place(self.source, node, f"{self.path}[{index}]", self.secret)
            for index, node in enumerate(nodes)
        ]

    def find(self, key: str) -> Place | None:
        """The last member with that key, in any case."""
        for member in reversed(self.members()):
            if member.key.lower() == key.lower():
                return self.member(member, key)
        return None

    def at(self, path: tuple[str | int, ...]) -> Place:
        """The place at the end of that path, or as near to it as the file goes."""
        place = self
        for step in path:
            items = place.items()
            if isinstance(step, int):
                if step >= len(items):
                    break
                place = items[step]
            else:
                found = place.find(step)
                if found is None:
                    break
                place = found
        return place


class Kind(Protocol):
    """What may stand at a key."""

    @property
    def wanted(self) -> str:
        """It, as the end of "wanted …"."""

    @property
    def shape(self) -> Shape:
        """It as a JSON Schema (draft 7), as far as one can say it; `null` aside."""

    def read(self, place: Place) -> Any:
        """The value there.

        :raises ConfigError: it is something else.
        """


@attrs.frozen
class Option:
    """One key: what it is called, what may stand there, and what it does, in one sentence."""

    key: str
    kind: Kind
    doc: str
    secret: bool = False


def option(
    key: str, kind: Kind, doc: str, *, default: Any = None, secret: bool = False
) -> Any:  # Any, as attrs.field has it: the annotation beside it is what counts
    """A field of a class of options.

    :param default: its value when the file does not say.
    :param secret: never show the value, neither in an error nor in a repr.
    """
    return attrs.field(
        default=default,
        repr=not secret,
        metadata={_OPTION: Option(key, kind, doc, secret)},
    )


def options(cls: type) -> Iterator[tuple[attrs.Attribute[Any], Option]]:
    """The options of a class, in order."""
    for field in attrs.fields(cls):
        if _OPTION in field.metadata:
            yield field, field.metadata[_OPTION]


@attrs.frozen
class Scalar:
    """A value that `convert` takes; it raises ValueError for any other."""

    wanted: str
    convert: Callable[[Any], Any]
    shape: Shape

    def read(self, place: Place) -> Any:
        """The value there.

        :raises ConfigError: it is something else.
        """
        try:
            return self.convert(place.node.value)
        except ValueError:
            raise place.wrong(self.wanted) from None


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    raise ValueError


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError


TEXT = Scalar("a string", _text, {"type": "string"})
FLAG = Scalar("true, false or null", _flag, {"type": "boolean"})


def whole(low: int, high: int) -> Scalar:
    """An integer between those two, both allowed."""

    def convert(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError
        return value

    shape = {"type": "integer", "minimum": low, "maximum": high}
    return Scalar(f"a whole number from {low} to {high}", convert, shape)


def seconds(low: float = 0) -> Scalar:
    """A number of seconds, at least that."""

    def convert(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or value < low:
            raise ValueError
        return float(value)

    shape = {"type": "number", "minimum": low}
    return Scalar(f"a number of seconds, {low:g} or more", convert, shape)


PORT = whole(0, 65535)
#: What every IPv4 and IPv6 address matches.
IP_PATTERN = r"^[0-9A-Fa-f:.]+$"


def parsed(wanted: str, parse: Callable[[str], Any], pattern: str) -> Scalar:
    """A string that `parse` takes; it raises ValueError for any other.

    :param pattern: a regular expression that all of them match, for editors.
    """
    shape = {"type": "string", "pattern": pattern}
    return Scalar(wanted, lambda value: parse(_text(value)), shape)


def _path(text: str) -> Path:
    if not text:
        raise ValueError
    return Path(text).expanduser()


#: The path of a file or folder; `~` is the home folder.
PATH = parsed("the path of a file", _path, ".")


@attrs.frozen
class Choice:
    """The value of a member of an Enum, spelled exactly so."""

    enum: type[Enum]

    @property
    def wanted(self) -> str:
        """The members' values."""
        *most, last = (json.dumps(member.value) for member in self.enum)
        return f"{', '.join(most)} or {last}" if most else last

    @property
    def shape(self) -> Shape:
        """One of the members' values."""
        return {"enum": [member.value for member in self.enum]}

    def read(self, place: Place) -> Enum:
        """The value there.

        :raises ConfigError: it is something else.
        """
        for member in self.enum:
            if place.node.value == member.value:
                return member
        raise place.wrong(self.wanted)


@attrs.frozen
class Many:
    """A list of one kind of thing; a tuple here."""

    kind: Kind

    @property
    def wanted(self) -> str:
        """A list, and of what."""
        return f"a list, each element {self.kind.wanted}"

    @property
    def shape(self) -> Shape:
        """An array."""
        return {"type": "array", "items": self.kind.shape}

    def read(self, place: Place) -> tuple[Any, ...]:
        """The value there.

        :raises ConfigError: it is something else.
        """
        if place.node.kind != "array":
            raise place.wrong(self.wanted)
        return tuple(self.kind.read(item) for item in place.items())


@attrs.frozen
class Nested:
    """An object with the options of a class.

    :param strict: unknown and repeated keys are errors; otherwise unknown keys are ignored and
        the last of repeated ones counts.
    """

    cls: type
    strict: bool = True
    wanted: str = "an object"

    @property
    def shape(self) -> Shape:
        """An object; its keys as they are spelled here, each of which may also be `null`."""
        return {
            "type": "object",
            "properties": {
                entry.key: {
                    "description": entry.doc,
                    "anyOf": [entry.kind.shape, {"type": "null"}],
                }
                for _, entry in options(self.cls)
            },
            "additionalProperties": not self.strict,
        }

    def read(self, place: Place) -> Any:
        """The value there.

        :raises ConfigError: it is something else.
        """
        if place.node.kind != "object":
            raise place.wrong(self.wanted)
        known = {entry.key.lower(): (field, entry) for field, entry in options(self.cls)}
        values: dict[str, Any] = {}
        for member in place.members():
            if member.key.lower() not in known:
                if self.strict:
                    raise place.wrong_key(member, _unknown(member.key, known))
                continue
            field, entry = known[member.key.lower()]
            if field.name in values and self.strict:
                raise place.wrong_key(member, "the key is there a second time")
            value = place.member(member, entry.key, secret=entry.secret)
            if value.given:
                values[field.name] = entry.kind.read(value)
            else:
                values[field.name] = _default(field)
        try:
            return self.cls(**values)
        except MisfitError as misfit:
            raise _unfit(place, misfit) from None


def _default(field: attrs.Attribute[Any]) -> Any:
    # attrs' stubs call what `attrs.Factory` makes a function.
    factory = getattr(field.default, "factory", None)
    return field.default if factory is None else factory()


def _unfit(place: Place, misfit: MisfitError) -> ConfigError:
    found = place.at(misfit.path)
    step = misfit.path[-1]
    if isinstance(step, str) and not found.path.lower().endswith(step.lower()):
        return found.wrong(misfit.wanted, f"no {step}")
    return found.wrong(misfit.wanted)


def _unknown(key: str, known: Mapping[str, tuple[attrs.Attribute[Any], Option]]) -> str:
    near = difflib.get_close_matches(key.lower(), known, n=1)
    if near:
        return f"unknown key, did you mean {known[near[0]][1].key}?"
    keys = ", ".join(entry.key for _, entry in known.values())
    return f"unknown key, wanted one of {keys}"


@attrs.frozen
class Objects:
    """An object whose keys are names and whose values are objects for somebody else to read."""

    wanted: str = "an object of objects, one for each name"

    @property
    def shape(self) -> Shape:
        """An object of objects."""
        return {"type": "object", "additionalProperties": {"type": "object"}}

    def read(self, place: Place) -> Mapping[str, Mapping[str, Any]]:
        """The objects as they are, by name.

        :raises ConfigError: it is something else, or a name is there twice.
        """
        if place.node.kind != "object":
            raise place.wrong(self.wanted)
        found: dict[str, Mapping[str, Any]] = {}
        for member in place.members():
            if member.key in found:
                raise place.wrong_key(member, "the key is there a second time")
            value = place.member(member)
            if value.node.kind != "object":
                raise value.wrong("an object")
            found[member.key] = value.node.plain()
        return found
