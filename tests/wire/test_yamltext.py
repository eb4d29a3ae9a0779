"""Files as people have them: nothing but the asked-for changes, compared by text."""

from __future__ import annotations

import json
import random

import pytest

from tailproxy.wire.kubeconfig import Edit, Entry, KubeconfigError, add
from tailproxy.wire.yamltext import Block, Text
from tailproxy.wire.yamltree import TextError, parse, plain

NAME = "kube.corp.ts.net"
SERVER = f"https://{NAME}"
ENTRY = Entry(SERVER, NAME, NAME)
INNER = {"clusters": "cluster", "contexts": "context", "users": "user"}
NAMES = {"clusters": NAME, "contexts": NAME, "users": "tailscale-auth"}
OURS = {
    "clusters": {"server": SERVER},
    "contexts": {"cluster": NAME, "user": "tailscale-auth"},
    "users": {"token": "unused"},
}

# Values that loading and dumping would write in another way, or as something else.
ODD = [
    "0x1F",
    "0o17",
    "017",
    "1_000",
    "12345678901234567890123456789",
    "1.10",
    "-.inf",
    "12:30:45",
    "2001-12-14t21:59:43.10-05:00",
    "yes",
    "~",
    "!!binary aGVsbG8=",
    "!mine {a: 1}",
    "'it''s'",
    '"tab\\there \\u00e9"',
    "ünï",
    "a#b",
    "[]",
    "{}",
    "[ a,b , c ]",
    "{a:   1,b: 2}",
    "LS0t" + "QUJD" * 120,
    "https://10.0.0.1:6443  # where it is",
    "plain over\n{i}  two lines",
    "'quoted over\n\n{i}  lines'",
    '"folded \\\n{i}   here"',
    "|\n{i}  as it\n{i}    is",
    "|-\n{i}  stripped",
    ">2\n{i}  folded # no comment\n{i}  text",
    "\n{i}  - a\n{i}  -   b # c",
    "\n{i}    deep:\n{i}        deeper: 1",
]
# The empty lines behind it are its own, and those of whoever writes something there.
KEPT = "|+\n  kept\n\n"


class Page:
    """A kubeconfig in block style, written by chance, and what should become of it."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.before: list[str] = []
        self.after: list[str] = []
        self.anchors: list[str] = []
        chance = self.chance
        self.dash = chance.choice([0, 0, 2, 4])
        self.body = chance.choice([2, 2, 4])
        self.nest = chance.choice([2, 2, 4, 8])
        self.name_first = chance.random() < 0.5

    def both(self, *lines: str) -> None:
        self.before += lines
        self.after += lines

    def comment(self, indent: int = 0) -> None:
        """Perhaps a comment, or an empty line."""
        for _ in range(self.chance.choice([0, 0, 0, 1, 2])):
            self.both(self.chance.choice(["", "   ", f"{' ' * indent}# a word: of - mine", "#x"]))

    def trailing(self) -> str:
        return self.chance.choice(["", "", "", "  ", " # said aside", "   #"])

    def value(self, indent: int) -> str:
        """A value behind a key that is indented so."""
        if self.anchors and self.chance.random() < 0.15:
            return f" *{self.chance.choice(self.anchors)}"
        text = self.chance.choice(ODD).replace("{i}", " " * indent)
        if self.chance.random() < 0.15 and text[0] not in "!\n~|>":
            self.anchors.append(f"a{len(self.anchors)}")
            text = f"&{self.anchors[-1]} {text}"
        return text if text.startswith("\n") else f" {text}"

    def fields(self, indent: int) -> list[str]:
        keys = ["certificate-authority-data", "extensions", "server", "user", "x-odd", "zone"]
        lines = []
        for key in self.chance.sample(keys, self.chance.randint(1, 4)):
            lines += f"{' ' * indent}{key}:{self.value(indent)}".split("\n")
        return lines

    def entry(self, name: str, inner: str, lines: list[str]) -> list[str]:
        """An entry of a list, its inner lines given without indentation."""
        own = " " * (self.dash + self.body)
        parts = [[f"{own}{inner}:", *lines], [f"{own}name: {name}"]]
        if self.name_first:
            parts.reverse()
        first, *others = [line for part in parts for line in part]
        return [" " * self.dash + "-" + first[self.dash + 1 :], *others]

    def ours(self, key: str) -> list[str]:
        indent = " " * (self.dash + self.body + self.nest)
        lines = [f"{indent}{field}: {value}" for field, value in OURS[key].items()]
        return self.entry(NAMES[key], INNER[key], lines)

    def ours_of_old(self, key: str) -> None:
        """Our entry as it was: other values, and what contradicts ours."""
        indent = " " * (self.dash + self.body + self.nest)
        forms = {
            "clusters": [
                [("certificate-authority-data: QUJD # old", None)],
                [("server: 'https://old'  # here", f"server: '{SERVER}'  # here")],
                [("tls-server-name: |-", None), ("  old", None)],
                [("proxy-url: socks5://[::1]:1", "proxy-url: socks5://[::1]:1")],
                [("# about it", "# about it")],
            ],
            "contexts": [
                [("cluster: old", f"cluster: {NAME}")],
                [("namespace: ~ # none", "namespace: ~ # none")],
                [('user: "old"', 'user: "tailscale-auth"')],
            ],
            "users": [
                [("token: &t keepme", "token: unused")],
                [("exec:", None), ("  # which", None), ("  command: login", None)],
                [("as-groups: [ a,b ]", "as-groups: [ a,b ]")],
            ],
        }[key]
        self.chance.shuffle(forms)
        rows = [row for form in forms for row in form]
        before, after = (
            [indent + line for line in part if line] for part in zip(*rows, strict=True)
        )
        self.before += self.entry(NAMES[key], INNER[key], before)
        self.after += self.entry(NAMES[key], INNER[key], after)

    def list(self, key: str) -> None:
        """One of the three lists."""
        indent = self.dash + self.body + self.nest
        kind = self.chance.choice(["null", "others", "others", "ours", "ours", "first"])
        if kind == "null":
            empty = self.chance.choice(["", " null", " []", " ~", " [ ]"])
            aside = self.trailing()
            self.before.append(f"{key}:{empty}{aside}")
            self.after += [f"{key}:{aside}", *self.fresh(key)]
            return
        self.both(f"{key}:{self.trailing()}")
        if kind == "first":
            self.ours_of_old(key)
        for number in range(self.chance.randint(1, 3)):
            self.comment(self.dash)
            self.both(*self.entry(f"other-{number}", INNER[key], self.fields(indent)))
        if kind == "ours":
            self.comment(self.dash)
            self.ours_of_old(key)
        elif kind == "others":
            self.after += self.ours(key)

    def fresh(self, key: str) -> list[str]:
        """Our entry in a list that has no entry to look like."""
        name_first, self.name_first = self.name_first, NAMES[key] == "tailscale-auth"
        lines = self.ours(key)
        self.name_first = name_first
        return lines

    def write(self) -> tuple[str, str]:
        """The text before and after."""
        chance = self.chance
        if chance.random() < 0.3:
            self.both("%YAML 1.1", "---")
        elif chance.random() < 0.3:
            self.both("--- # the first")
        self.comment()
        # Lists with entries show what entries look like; one of them is always there.
        parts = ["kind", "apiVersion", "clusters", "contexts", "users", "current-context"]
        parts += chance.sample(["preferences", "x-odd", "extensions", "kept"], 2)
        chance.shuffle(parts)
        for part in parts:
            if part in INNER:
                self.list(part)
            elif part == "current-context":
                quote = chance.choice(["", "'", '"'])
                aside = self.trailing()
                self.before.append(f"{part}: {quote}old{quote}{aside}")
                self.after.append(f"{part}: {quote}{NAME}{quote}{aside}")
            elif part == "kept":
                self.both(*f"kept: {KEPT}".split("\n"))
            elif part in {"kind", "apiVersion"}:
                self.both(f"{part}: {'v1' if part == 'apiVersion' else 'Config'}{self.trailing()}")
            else:
                self.both(*f"{part}:{self.value(0)}".split("\n"))
            self.comment()
        if chance.random() < 0.3:
            self.both("---", "another: document", "...", "---", "{not, read: [")
        end = chance.choice(["\n", "\n", "\r\n"])
        return tuple(end.join([*lines, ""]) for lines in (self.before, self.after))


def pages(wanted: int) -> list[tuple[str, str]]:
    """Pages with a list that shows what entries look like."""
    found: list[tuple[str, str]] = []
    seed = 0
    while len(found) < wanted:
        before, after = Page(seed).write()
        if "name: other" in before or f"name: {NAME}" in before:
            found.append((before, after))
        seed += 1
    return found


@pytest.mark.parametrize(("before", "after"), pages(300), ids=range(300))
def test_nothing_but_the_entry_changes_in_block_style(before, after):
    made = add(before, ENTRY)
    assert made.text.splitlines(keepends=True) == after.splitlines(keepends=True)
    again = add(made.text, ENTRY)
    assert (again.text, again.changes) == (made.text, ())


DAMAGE = [
    "\n", " ", "- ", "#", "{", "}", "[", "]", ": ", "&a0 ", "*a0 ", "|", "'", '"', "\t",
    "<<: *a0\n", "? ", "!", "---\n", "\u2028", ",", "name: ", "users:\n",
]  # fmt: skip


@pytest.mark.parametrize("page", [before for before, _ in pages(40)], ids=range(40))
def test_any_file_is_refused_or_changed_for_good(page):
    """Files that somebody has damaged: no other error, and no second change."""
    chance = random.Random(page)
    for _ in range(10):
        text = page
        for _ in range(chance.randint(1, 3)):
            start = chance.randrange(len(text))
            text = text[:start] + chance.choice(DAMAGE) + text[start:]
            start = chance.randrange(len(text))
            text = text[:start] + text[start + chance.choice([0, 1, 5]) :]
        try:
            made = add(text, ENTRY)
        except KubeconfigError:
            continue
        assert add(made.text, ENTRY) == Edit(made.text, ())


def document(chance: random.Random) -> tuple[dict, dict]:
    """A kubeconfig as JSON has it, and what should become of it."""
    before: dict = {}
    after: dict = {}
    missing = []
    keys = ["kind", "apiVersion", "clusters", "contexts", "users", "current-context", "odd"]
    for key in chance.sample(keys, len(keys)):
        if key in INNER:
            others = [
                {"name": f"o{n}", INNER[key]: {"server": "ü\n'\"", "n": [1e3, None, {}]}}
                for n in range(chance.randint(0, 2))
            ]
            kind = chance.choice(["missing", "null", "list", "ours"])
            # In the alphabet's order, or as the entry before has it.
            order = ("name", INNER[key]) if others else sorted(("name", INNER[key]))
            whole = {"name": NAMES[key], INNER[key]: OURS[key]}
            fresh = {part: whole[part] for part in order}
            if kind == "missing":
                missing.append((key, [{p: whole[p] for p in sorted(order)}]))
                continue
            if kind == "ours":
                old = {"z": 1, **dict.fromkeys(OURS[key], "old"), "tls-server-name": "gone"}
                new = {"z": 1, **OURS[key]}
                if key != "clusters":
                    new["tls-server-name"] = "gone"
                before[key] = [*others, {INNER[key]: old, "name": NAMES[key]}]
                after[key] = [*others, {INNER[key]: new, "name": NAMES[key]}]
            else:
                if kind == "null":
                    others, fresh = [], {part: whole[part] for part in sorted(order)}
                before[key] = others or chance.choice([None, []])
                after[key] = [*others, fresh]
        else:
            value = {"kind": "Config", "apiVersion": "v1", "odd": {"a": [1, "2", {}]}}.get(key)
            before[key] = value or "old"
            after[key] = value or NAME
    names = list(before)
    after |= dict(sorted(missing, key=lambda pair: list(NAMES).index(pair[0])))
    assert names != sorted(names), "new keys would go between the others"
    return before, after


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize(
    "style",
    [{}, {"separators": (",", ":")}, {"indent": 2}, {"indent": 4}, {"indent": "\t"}],
    ids=["line", "compact", "two", "four", "tab"],
)
def test_json_stays_json_in_its_own_style(seed, style):
    before, after = document(random.Random(seed))
    made = add(json.dumps(before, ensure_ascii=False, **style), ENTRY)
    assert made.text == json.dumps(after, ensure_ascii=False, **style)


class TestText:
    def test_an_entry_is_taken_out_of_a_list(self):
        text = Text("a:\n- x: 1\n  # y\n- x: 2 # z\n\n# end\n- x: 3\nb: 1\n")
        sequence = text.root.get("a")
        text.remove(sequence, sequence.items[1])
        assert text.result() == "a:\n- x: 1\n  # y\n\n# end\n- x: 3\nb: 1\n"

    @pytest.mark.parametrize(
        ("before", "after"),
        [
            ("a:\n- x: 1\nb: 1\n", "a: []\nb: 1\n"),
            ("a: [{x: 1}]\n", "a: []\n"),
            ("a:   # c\n  - x: 1\n\nb: 1\n", "a: []   # c\n\nb: 1\n"),
            ('{"a": [{"x": 1}]}', '{"a": []}'),
        ],
    )
    def test_a_list_may_lose_all_its_entries(self, before, after):
        text = Text(before)
        text.update(text.root, {"a": []})
        assert text.result() == after

    @pytest.mark.parametrize(("number", "after"), [(0, "[2, 3]"), (1, "[1, 3]"), (2, "[1, 2]")])
    def test_an_entry_is_taken_out_of_a_list_in_brackets(self, number, after):
        text = Text("a: [1, 2, 3]\n")
        sequence = text.root.get("a")
        text.remove(sequence, sequence.items[number])
        assert text.result() == f"a: {after}\n"

    @pytest.mark.parametrize("lines", ["\n", "\n\n", "\n      \n", "     \n"])
    def test_what_is_added_stands_behind_lines_that_a_text_keeps(self, lines):
        text = Text(f"a:\n- b: |+\n    c\n{lines}d: 1\n")
        text.append(text.root.get("a"), {"e": "f"}, Block())
        assert text.result() == f"a:\n- b: |+\n    c\n{lines}- e: f\nd: 1\n"

    def test_changes_that_overlap_are_refused(self):
        text = Text("a: {b: {c: d}}\n")
        text.update(text.root, {"a": "x"})
        text.update(text.root.get("a"), {"b": "y"})
        with pytest.raises(TextError, match="line 1: "):
            text.result()

    def test_a_byte_order_mark_stays_in_front(self):
        text = Text("\ufeffb: 1\n")
        text.update(text.root, {"a": "x"})
        assert text.result() == "\ufeffb: 1\na: x\n"

    def test_a_line_without_an_end_gets_one(self):
        text = Text("b:\n- c: 1")
        text.append(text.root.get("b"), {"d": "2"}, Block())
        text.update(text.root, {"e": "f"})
        assert text.result() == "b:\n- c: 1\n- d: '2'\ne: f\n"

    @pytest.mark.parametrize("value", ["\0", "a\nb", "\u2028", "\ufeff"])
    def test_what_cannot_be_printed_is_refused(self, value):
        text = Text("a: b\n")
        with pytest.raises(TextError, match="cannot be printed"):
            text.update(text.root, {"a": value})


class TestTree:
    @pytest.mark.parametrize(
        ("text", "why"),
        [
            ("a: 1\na: 2", "line 2: the key 'a' is there twice"),
            ("{[a]: b}", "line 1: a key is not a text"),
            ("[" * 200 + "]" * 200, "nested too deeply"),
            ("a: *b", "line 1: there is no &b before"),
            ("&a [*a]", "there is no &a before"),
            ("a: 'b", "line 1: "),
            ("a: \x01", "special characters are not allowed"),
        ],
    )
    def test_what_cannot_be_read_is_refused_with_its_line(self, text, why):
        with pytest.raises(TextError, match=why):
            parse(text)

    @pytest.mark.parametrize("odd", [*ODD, KEPT])
    def test_nodes_end_where_their_text_ends(self, odd):
        text = f"a: {odd.replace('{i}', '')}\n\n# comment\nb: c\n"
        value = parse(text).get("a")
        alone = text[: value.end] + ("" if text[value.end - 1] == "\n" else "\n")
        assert plain(parse(alone)) == {"a": plain(value)}
        assert "# comment" not in alone

    def test_types_are_part_of_what_a_document_says(self):
        assert plain(parse("a: 1")) != plain(parse("a: '1'"))
        assert plain(parse("a: b")) == plain(parse('{"a": "b"}'))
