"""The head of a request, read once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailproxy.wire.head import read_head, unread_head
from tailproxy.wire.http1 import (
    NO_BODY,
    BadRequest,
    check_request,
    connection_tokens,
    end_to_end,
    may_upgrade,
    upgrade_of,
)
from tailproxy.wire.requestinfo import request_info

HOST = (b"Host", b"kube.corp-cat.ts.net")


def read(*headers, target=b"/api"):
    return read_head(b"GET", target, "1.1", [HOST, *headers])


def test_names_are_brought_into_lower_case_beside_the_headers():
    head = read((b"aCCept", b"A"), (b"ACCEPT", b"B"))
    assert head.keys == [b"host", b"accept", b"accept"]
    assert [name for name, _ in head.headers] == [b"Host", b"aCCept", b"ACCEPT"]
    assert (head.first(b"accept"), head.first(b"x")) == (b"A", b"")


@pytest.mark.parametrize(
    ("prefix", "there"),
    [(b"x-", True), (b"x-one", True), (b"x-one-", False), (b"one", False), (b"host", True)],
)
def test_a_prefix_is_looked_for_where_names_begin(prefix, there):
    assert read((b"X-One", b"x-two\t")).has_prefix(prefix) is there


def test_the_path_ends_before_the_query():
    assert read(target=b"/api?a=/b?c").path == b"/api"


def test_what_the_target_means_is_found_out_once():
    assert read(target=b"/api/v1/pods?watch=1").info == request_info(
        b"GET", b"/api/v1/pods?watch=1"
    )


def test_a_request_refused_unread_has_no_headers():
    head = unread_head(b"", b"/")
    assert (head.headers, head.keys, head.framing, head.upgrade) == ((), [], NO_BODY, None)
    assert not head.has_prefix(b"")
    assert head.first(b"user-agent") == b""


def test_values_are_not_in_what_is_shown_of_it():
    assert "secret" not in repr(read((b"Authorization", b"Bearer secret")))


NAMES = st.one_of(
    st.sampled_from(
        [b"Host", b"Content-Length", b"Transfer-Encoding", b"Expect", b"Upgrade", b"upgrade",
         b"Connection", b"connection", b"TE", b"Accept", b"X-Forwarded-For", b"Forwarded"]
    ),
    st.binary(max_size=4),
)  # fmt: skip
VALUES = st.one_of(
    st.sampled_from(
        [b"5", b"0", b"chunked", b"kube:443", b"Upgrade", b"close, Upgrade , host", b"websocket",
         b"SPDY/3.1", b"h2c", b"a, HTTP/2", b"Accept,xupgradex", b"trailers, deflate",
         b"100-continue", b"content-length"]
    ),
    st.binary(max_size=6),
)  # fmt: skip
HEADERS = st.lists(st.tuples(NAMES, VALUES), max_size=6)


@given(
    st.one_of(st.sampled_from([b"GET", b"POST", b"TRACE", b"CONNECT"]), st.binary(max_size=3)),
    st.one_of(st.sampled_from([b"/", b"/api/v1/pods?x=y"]), st.binary(max_size=5)),
    st.sampled_from(["1.0", "1.1", "2.0"]),
    st.booleans(),
    HEADERS,
)
def test_it_is_read_as_step_by_step(method, target, version, with_host, headers):
    headers = [HOST, *headers] if with_host else headers
    expected = actual = None
    try:
        framing = check_request(method, target, version, headers)
    except BadRequest as error:
        expected = (error.code, error.message)
    try:
        head = read_head(method, target, version, headers)
    except BadRequest as error:
        actual = (error.code, error.message)
    assert actual == expected
    if expected is not None:
        return
    assert head.framing == framing
    assert head.upgrade == upgrade_of(headers)
    assert head.may_upgrade == may_upgrade(headers)
    assert head.named == connection_tokens(headers) - {b"host", b"content-length"}
    assert head.trailers == ((b"TE", b"trailers") in end_to_end(headers, None))
    assert head.keys == [name.lower() for name, _ in headers]
    for prefix in (b"x-", b"x-forwarded-", b"connection", b"u"):
        assert head.has_prefix(prefix) == any(key.startswith(prefix) for key in head.keys)
