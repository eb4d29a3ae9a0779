"""Every message that the code can show is explained, and no other."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from tests.docs.pages import ROOT, SOURCES, quoted, rows, text, tree, words_of


def messages() -> set[str]:
    """Every text in the code."""
    return {
        each
        for path in [*SOURCES, *ROOT.glob("tests/lab/*.py")]
        for node in ast.walk(tree(path))
        for each in words_of(node)
    }


def told() -> dict[str, re.Pattern[str]]:
    """Every message in the page, in a heading or a table: what finds it in the code."""
    page = text("docs/troubleshooting.md")
    found = re.findall(r"^### `(.*)`$", page, re.MULTILINE)
    for table in re.findall(r"^\| message.*\n\|[-|]+\n((?:\|.*\n)+)", page, re.MULTILINE):
        found += [quoted(row)[0] for row in table.splitlines()]
    return {
        each: re.compile(".*\0.*".join(map(re.escape, each.split("…"))), re.DOTALL)
        for each in found
    }


def test_every_message_is_one_that_the_code_has():
    known = messages()
    assert told()
    for message, pattern in told().items():
        assert any(pattern.search(each) for each in known), message


# What makes the messages that people see, and which of its arguments is the message.
SHOWN = {
    "ApiError": 2,
    "BadRequest": 1,
    "ConfigError": 1,
    "DestinationError": 0,
    "IdentityError": 2,
    "KubeconfigError": 0,
    "KubeconfigFileError": 0,
    "Refusal": 2,
    "ResolverUnavailableError": 0,
    "UpstreamError": 2,
    "_failed": 0,
    "critical": 0,
    "error": 0,
    "super().__init__": 2,
    "warn": 0,
}


def shown() -> Iterator[str]:
    """Every message of a refusal, a failed start, a failed check, and what is wrong in the log."""
    for path in SOURCES:
        # A kubeconfig's errors are made by a method.
        places = {**SHOWN, "wrong": 0, "_wrong": 0} if path.name == "kubeconfig.py" else SHOWN
        for call in ast.walk(tree(path)):
            if not isinstance(call, ast.Call):
                continue
            name = ast.unparse(call.func)
            at = places.get(name, places.get(name.rpartition(".")[2]))
            if at is not None and len(call.args) > at:
                yield from words_of(call.args[at])
            if name == "CheckResult":
                said = {word.arg: word.value for word in call.keywords}
                if getattr(said["ok"], "value", None) is not True:
                    yield from words_of(said["detail"])


def test_every_message_of_the_code_is_explained():
    patterns = told().values()
    found = set(shown())
    assert len(found) > 100
    for message in found:
        # The first kind says itself what to do; the second is made of others.
        if not message.startswith("found ") and re.search(r"\w", message.replace("\0", "")):
            assert any(pattern.search(message) for pattern in patterns), message


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
