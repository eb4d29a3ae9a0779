"""Selectors of list requests."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailproxy.wire.selectors import SelectorError, check_labels, fields, integer


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "app",
        "!app",
        "! app",
        "app=web",
        "app==web,tier!=db",
        "app=",
        "example.com/app = web , x",
        "app in (web)",
        "app in (web, api,)",
        "app notin ( web,api ),!old",
        "size>1,size<10",
    ],
)
def test_label_selectors_of_the_api_server_are_read(text):
    check_labels(text)


@pytest.mark.parametrize(
    "text",
    [",", "app,", "app=web,", "=web", "app=a=b", "app in", "app in web", "app in ()", "app in (a",
     "-app", "app=-x", "a/b/c", "a b", "size>x", "app=" + "x" * 64, "app=zo\u00eb", "!app=web"],
)  # fmt: skip
def test_other_label_selectors_are_refused(text):
    with pytest.raises(SelectorError):
        check_labels(text)


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("", []),
        (",,", []),
        ("a=b", [("a", True, "b")]),
        ("a==b,c!=d", [("a", True, "b"), ("c", False, "d")]),
        ("a=", [("a", True, "")]),
        (r"a=b\,c\=d\\", [("a", True, "b,c=d\\")]),
        ("a=b!c", [("a", True, "b!c")]),
    ],
)
def test_field_selectors_are_read_term_by_term(text, terms):
    assert fields(text) == terms


@pytest.mark.parametrize("text", ["a", "a=b=c", r"a=b\c", "a=b\\", "a=b,c", "a=b!=c"])
def test_other_field_selectors_are_refused(text):
    with pytest.raises(SelectorError):
        fields(text)


@pytest.mark.parametrize("text", ["0", "-1", "+1", "9223372036854775807"])
def test_64_bit_integers_are_read(text):
    assert integer(text) == int(text)


@pytest.mark.parametrize(
    "text", ["", " 1", "1s", "0x1", "9223372036854775808", "1" * 5000, "\u0661"]
)
def test_other_integers_are_refused(text):
    with pytest.raises(SelectorError):
        integer(text)


@given(st.text(alphabet="ab=!,<>() \\./-innot", max_size=40))
def test_a_selector_is_read_or_refused_and_nothing_else(text):
    for read in (check_labels, fields, integer):
        try:
            read(text)
        except SelectorError:
            continue
