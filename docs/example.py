"""Makes the files below `etc/` that show the configuration: the example and its JSON Schema.

Both say what `tailproxy.options` and `tailproxy.config` say of each option. `docs.reference` writes
them, with the pages.
"""

from __future__ import annotations

import json
import re
import textwrap
from enum import Enum
from typing import TYPE_CHECKING, Any

from tailproxy.config import VERSION, Config
from tailproxy.schema import Choice, Many, Nested, options

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import attrs

    from tailproxy.schema import Kind, Option

_WIDTH = 100
_HEAD = """\
// The configuration of tailproxy: every option with its default.
// Made by `python -m docs.reference`; do not edit this copy in the project.
//
// HuJSON is JSON with comments and trailing commas. Keys match in any case; null is the same as
// leaving the key out. `twistd tailproxy --config FILE --check` says what is wrong with a file.
{
  // The only key that must be there.
  "Version": "v1alpha1",

  // The keys up to "Tailproxy" are those of the Tailscale operator's schema; unknown ones are
  // ignored here, while in "Tailproxy" unknown and repeated keys are errors.

"""


def example() -> str:
    """A configuration file with every option, its default and what it does."""
    return _HEAD + "".join(_members(Config, "  ")) + "}\n"


def _members(cls: type, indent: str) -> Iterator[str]:
    """The lines of a class of options, each behind its comment."""
    for field, entry in options(cls):
        nested, default = nested_in(entry.kind), default_of(field)
        yield _comment(_said(entry), indent)
        key = f'{indent}"{entry.key}": '
        if nested is None:
            yield f"{key}{_json(default)},\n"
        elif not default:
            # An object that is not there by default is shown in the comment.
            many = isinstance(entry.kind, Many)
            yield _comment(f"{'Each' if many else 'It'} may have, with these defaults:", indent)
            yield from _commented(nested, indent)
            yield f"{key}{'[]' if many else 'null'},\n"
        elif isinstance(entry.kind, Many):
            inner = "".join(_members(nested, f"{indent}    "))
            yield f"{key}[\n{indent}  {{\n{inner}{indent}  }},\n{indent}],\n"
        else:
            yield f"{key}{{\n{''.join(_members(nested, f'{indent}  '))}{indent}}},\n"


def _commented(cls: type, indent: str) -> Iterator[str]:
    for field, entry in options(cls):
        shown = f'"{entry.key}": {_json(default_of(field))}'
        yield _comment(f"{shown}: {_said(entry)}", indent, "//   ")


def _said(entry: Option) -> str:
    """What it does, and the values to choose from unless that names them."""
    kind = entry.kind
    if isinstance(kind, Choice) and any(f"`{each.value}`" not in entry.doc for each in kind.enum):
        return f"{entry.doc.removesuffix('.')}: {kind.wanted}."
    return entry.doc


def _comment(text: str, indent: str, mark: str = "// ") -> str:
    # A value is quoted as it stands in the file.
    text = re.sub(r"`([^`]*)`", r'"\1"', text)
    prefix = indent + mark
    lines = textwrap.wrap(text, _WIDTH - len(prefix), break_on_hyphens=False)
    return "".join(f"{prefix}{line}\n" for line in lines)


def nested_in(kind: Kind) -> type | None:
    """The class of options that stands there, or of which a list stands there."""
    if isinstance(kind, Many):
        return nested_in(kind.kind)
    return kind.cls if isinstance(kind, Nested) else None


def default_of(field: attrs.Attribute[Any]) -> Any:
    """The value that an option has when the file does not say."""
    return getattr(field.default, "factory", lambda: field.default)()


def plain(value: Any) -> Any:
    """A default as JSON knows it; paths and addresses are strings."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple):
        return [plain(each) for each in value]
    return value if value is None or isinstance(value, bool | int | float | dict) else str(value)


def _json(value: Any) -> str:
    number = plain(value)
    if isinstance(number, float) and number.is_integer():
        number = int(number)
    return json.dumps(number)


def json_schema() -> str:
    """The JSON Schema of the configuration file, for editors.

    It knows each key in one spelling, and no rule between two options.
    """
    shape = Nested(Config, strict=False).shape
    version: Mapping[str, Any] = {
        "Version": {"const": VERSION, "description": "The version of this schema."},
        # What a newer version would carry for us.
        VERSION: {"type": "null"},
    }
    schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Configuration of tailproxy",
        # Two words of VS Code's, for what HuJSON has and JSON lacks.
        "allowComments": True,
        "allowTrailingCommas": True,
        **shape,
        "properties": {**version, **shape["properties"]},
        "required": ["Version"],
    }
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"
