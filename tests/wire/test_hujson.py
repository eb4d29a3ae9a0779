"""HuJSON: JSON with comments and trailing commas, and where everything stands."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailproxy.wire.hujson import MAX_DEPTH, HuJSONError, Items, Members, parse

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=("Cs",))),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=20,
)

gaps = st.sampled_from(
    ["", " ", "\t", "\r\n", "//\n", '// a, ] } " /* \n', "/**/", '/* // \n * ] , " **/', "/*/*/"]
)


def outcome(text):
    try:
        return parse(text).plain()
    except HuJSONError as error:
        return error


def where(text):
    with pytest.raises(HuJSONError) as caught:
        parse(text)
    error = caught.value
    assert str(error) == f"line {error.line}, column {error.column}: {error.message}"
    return error.line, error.column, error.message


@given(values, st.booleans(), st.sampled_from([None, 0, 2]))
def test_any_json_keeps_its_value(value, ascii_only, indent):
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    assert parse(text).plain() == value
    assert parse(text.encode()).plain() == value


@given(values, st.data())
def test_comments_and_trailing_commas_change_nothing(value, data):
    def write(item):
        def gap():
            return data.draw(gaps)

        if isinstance(item, dict):
            parts = [
                f"{gap()}{json.dumps(key)}{gap()}:{gap()}{write(each)}{gap()}"
                for key, each in item.items()
            ]
            open_, close = "{", "}"
        elif isinstance(item, list):
            parts = [f"{gap()}{write(each)}{gap()}" for each in item]
            open_, close = "[", "]"
        else:
            return json.dumps(item)
        trailing = "," + gap() if parts and data.draw(st.booleans()) else gap()
        return open_ + ",".join(parts) + trailing + close

    text = data.draw(gaps) + write(value) + data.draw(gaps)
    assert parse(text).plain() == value


@given(st.text(alphabet='{}[]:,"\\/*\n \tu0dDaf1e+-.truenlNI\x00\u00e9', max_size=40))
def test_a_text_is_read_or_refused_and_nothing_else(text):
    result = outcome(text)
    if isinstance(result, HuJSONError):
        lines = text.split("\n")
        assert 1 <= result.line <= len(lines)
        assert 1 <= result.column <= len(lines[result.line - 1]) + 1
    else:
        json.dumps(result, allow_nan=False)


@given(st.text(alphabet='{}[]:,"\\u0dDaf1e+-.truenlNI \x00\u00e9', max_size=30))
def test_what_json_reads_is_read_alike_or_refused_for_its_strictness(text):
    try:
        expected = json.loads(text)
    except ValueError:
        return
    result = outcome(text)
    if isinstance(result, HuJSONError):
        reasons = ("64 bits", "too large", "surrogate", "a value is wanted, not 'NaN'")
        assert any(reason in result.message for reason in reasons)
    else:
        assert result == expected


def test_every_value_and_key_knows_its_place():
    root = parse('// first\n{\n  "a": [1, /* x */ {"b" :\tnull}],\n}')
    assert (root.line, root.column, root.kind) == (2, 1, "object")
    assert isinstance(root.value, Members)
    (a,) = root.value.members
    assert (a.key, a.line, a.column) == ("a", 3, 3)
    assert (a.value.line, a.value.column, a.value.kind) == (3, 8, "array")
    assert isinstance(a.value.value, Items)
    one, inner = a.value.value.items
    assert (one.value, one.line, one.column, one.kind) == (1, 3, 9, "number")
    assert isinstance(inner.value, Members)
    (b,) = inner.value.members
    assert (b.key, b.line, b.column) == ("b", 3, 21)
    assert (b.value.value, b.value.column, b.value.kind) == (None, 27, "null")


@pytest.mark.parametrize(
    ("text", "kind"),
    [('"a"', "string"), ("true", "boolean"), ("1", "number"), ("1.5", "number"), ("null", "null")],
)
def test_a_scalar_knows_its_kind(text, kind):
    assert parse(text).kind == kind


def test_repeated_keys_stay_in_order_and_the_last_counts():
    node = parse('{"a": 1, "b": 2, "a": 3}')
    assert isinstance(node.value, Members)
    assert [member.key for member in node.value.members] == ["a", "b", "a"]
    assert node.plain() == {"a": 3, "b": 2}


def test_columns_count_characters():
    assert where('{"\U0001f600\u00eb": x}') == (1, 8, "a value is wanted, not 'x'")


@pytest.mark.parametrize(
    ("text", "line", "column", "part"),
    [
        ("", 1, 1, "the end of the text"),
        ("  // only a comment", 1, 20, "the end of the text"),
        ("{", 1, 2, "a key in double quotes"),
        ("{,}", 1, 2, "a key in double quotes"),
        ("[,]", 1, 2, "a value is wanted, not ','"),
        ("[1,,2]", 1, 4, "a value is wanted"),
        ("[1 2]", 1, 4, '"," or "]" is wanted'),
        ('{"a":1 "b":2}', 1, 8, '"," or "}" is wanted'),
        ('{"a" 1}', 1, 6, '":" is wanted'),
        ("{a: 1}", 1, 2, "not 'a'"),
        ("{'a': 1}", 1, 2, 'not "\'"'),
        ("1,", 1, 2, "the value ends before ','"),
        ("{} z", 1, 4, "the value ends before 'z'"),
        ("{\n}/* x", 2, 2, "the comment has no end"),
        ("/", 1, 1, "a value is wanted, not '/'"),
        ("# x", 1, 1, "a value is wanted"),
        ('"a', 1, 1, "the string has no end"),
        ('"a\\', 1, 3, "the escape is unknown"),
        ('"\\x"', 1, 2, "the escape is unknown"),
        ('"\\u12g4"', 1, 2, "the escape is unknown"),
        ('"a\nb"', 1, 3, "control character"),
        ('[\n"\\ud800"]', 2, 1, "surrogate"),
        ('"\\udc00\\ud800"', 1, 1, "surrogate"),
        ("NaN", 1, 1, "a value is wanted, not 'NaN'"),
        ("-Infinity", 1, 1, "a value is wanted"),
        ("True", 1, 1, "a value is wanted, not 'True'"),
        ("01", 1, 1, "a value is wanted, not '01'"),
        ("+1", 1, 1, "a value is wanted"),
        (".5", 1, 1, "a value is wanted"),
        ("1.", 1, 1, "a value is wanted"),
        ("1e", 1, 1, "a value is wanted"),
        ("0x10", 1, 1, "a value is wanted"),
        ("1e999", 1, 1, "too large"),
        ("18446744073709551616", 1, 1, "64 bits"),
        ("-9223372036854775809", 1, 1, "64 bits"),
        ("1" * 10000, 1, 1, "64 bits"),
        ("\ufeff{}", 1, 1, "byte order mark"),
        ("\u00a0{}", 1, 1, "a value is wanted"),
    ],
)
def test_an_error_says_where_and_what(text, line, column, part):
    found = where(text)
    assert found[:2] == (line, column)
    assert part in found[2]


def test_a_surrogate_pair_is_one_character():
    assert parse('"\\ud83d\\ude00"').plain() == "\U0001f600"


def test_bytes_that_are_no_utf_8_are_refused_at_their_place():
    assert where(b'{\n"a": "\xff"}') == (2, 7, "the text is not UTF-8")


def test_depth_has_a_limit():
    assert parse("[" * MAX_DEPTH + "]" * MAX_DEPTH).kind == "array"
    line, column, message = where("[" * (MAX_DEPTH + 1))
    assert (line, column) == (1, MAX_DEPTH + 1)
    assert str(MAX_DEPTH) in message
    assert where('{"a":' * 100_000)[0] == 1


def test_a_shown_word_is_short():
    assert len(where("x" * 5000)[2]) < 80
