"""Every message that the code can show is explained, and no other."""

from __future__ import annotations

import ast
import re

from tests.docs.pages import ROOT, SOURCES, quoted, rows, text, tree


def messages() -> set[str]:
    r"""Every text in the code; \0 stands for what is put in."""
    found = set()
    for path in [*SOURCES, *ROOT.glob("tests/lab/*.py")]:
        for each in ast.walk(tree(path)):
            if isinstance(each, ast.JoinedStr):
                parts = [getattr(part, "value", None) for part in each.values]
                found.add("".join(p if isinstance(p, str) else "\0" for p in parts))
            elif isinstance(each, ast.Constant) and isinstance(each.value, str):
                found.add(re.sub(r"\{[^{}]*\}", "\0", each.value))
    return found


def test_every_message_is_one_that_the_code_has():
    known = messages()
    told = re.findall(r"^### `(.*)`$", text("docs/troubleshooting.md"), re.MULTILINE)
    assert told
    for message in told:
        pattern = re.compile(".*\0.*".join(map(re.escape, message.split("…"))), re.DOTALL)
        assert any(pattern.search(each) for each in known), message


def test_every_label_is_there_with_its_code():
    said = {
        (label, code)
        for row in rows("docs/troubleshooting.md", "## Labels")
        for label in quoted(row[0])
        for code in row[1].split(", ")
    }
    used = set()
    for path in SOURCES:
        for each in ast.walk(tree(path)):
            if isinstance(each, ast.Call) and len(each.args) >= 3:
                code, label = (getattr(arg, "value", None) for arg in each.args[:2])
                if type(code) is int and isinstance(label, str):
                    used.add((label, str(code)))
            elif isinstance(each, ast.Call) and ast.unparse(each.func) == "BadRequest":
                used.add(("malformed-request", str(each.args[0].value)))
    assert said == used
