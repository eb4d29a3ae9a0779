"""The head of a request, read once."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailproxy.wire.head import MAX_HEADER_BYTES, MAX_HEADER_LINES, read_head, unread_head
from tailproxy.wire.http1 import CHUNKED, NO_BODY, BadRequest, Framing
from tailproxy.wire.requestinfo import request_info

from . import reference

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


def check(*headers, method=b"GET", target=b"/api", version="1.1"):
    return read_head(method, target, version, headers).framing


def refused(*headers, **request):
    with pytest.raises(BadRequest) as caught:
        check(*headers, **request)
    assert caught.value.message
    return caught.value.code


class TestFraming:
    def test_a_request_without_a_length_has_no_body(self):
        assert check(HOST) == NO_BODY

    def test_a_length_of_zero_is_no_body(self):
        assert check(HOST, (b"Content-Length", b"0"), method=b"POST") == NO_BODY

    def test_a_length_is_taken(self):
        length = Framing(length=12, chunked=False)
        assert check(HOST, (b"content-length", b"12"), method=b"POST") == length

    def test_chunked_has_no_length(self):
        assert check(HOST, (b"Transfer-Encoding", b"Chunked")) == CHUNKED

    @pytest.mark.parametrize(
        "headers",
        [
            [(b"Content-Length", b"5"), (b"Content-Length", b"5")],
            [(b"Content-Length", b"5"), (b"content-length", b"6")],
            [(b"Content-Length", b"5,5")],
            [(b"Content-Length", b"+5")],
            [(b"Content-Length", b"-5")],
            [(b"Content-Length", b"0x5")],
            [(b"Content-Length", b"5 ")],
            [(b"Content-Length", b"5\n")],
            [(b"Content-Length", b"")],
            [(b"Content-Length", b"9" * 19)],
            [(b"Content-Length", "\u0665".encode())],
            [(b"Content-Length", b"5"), (b"Transfer-Encoding", b"chunked")],
            [(b"Transfer-Encoding", b"chunked"), (b"Transfer-Encoding", b"chunked")],
            [(b"Transfer-Encoding", b"chunked, chunked")],
            [(b"Transfer-Encoding", b"gzip, chunked")],
            [(b"Transfer-Encoding", b"chunked, identity")],
            [(b"Transfer-Encoding", b"identity")],
            [(b"Transfer-Encoding", b"xchunked")],
            [(b"Transfer-Encoding", b"chunked;q=1")],
            [(b"Transfer-Encoding", b"\x0bchunked")],
            [(b"Transfer-Encoding", b"")],
        ],
    )
    def test_what_two_readers_could_frame_differently_is_refused(self, headers):
        assert refused(HOST, *headers, method=b"POST") == 400

    def test_http_1_0_has_no_chunks(self):
        assert refused(HOST, (b"Transfer-Encoding", b"chunked"), version="1.0") == 400


class TestTarget:
    @pytest.mark.parametrize(
        "target",
        [
            b"/",
            b"//api//v1",
            b"/api/v1/namespaces/d/services/https:s:443/proxy//a//b?x=1;y=2&z=%zz",
            b"/api/../x/%2e%2e/%00",
            b"/{weird}|path",
        ],
    )
    def test_a_path_passes_however_odd(self, target):
        assert check(HOST, target=target) == NO_BODY

    @pytest.mark.parametrize(
        "target",
        [
            b"",
            b"*",
            b"api",
            b"http://x/api/v1/namespaces/d/pods/p/exec",
            b"kube:443",
            b"/api v1",
            b"/api\t",
            b"/api\r\nX: y",
            b"/api\x00",
            b"/api\x7f",
            "/api/zo\u00eb".encode(),
            b"/api#exec",
        ],
    )
    def test_any_other_form_or_byte_is_refused(self, target):
        assert refused(HOST, target=target) == 400

    @pytest.mark.parametrize(("method", "code"), [(b"CONNECT", 400), (b"TRACE", 405)])
    def test_tunnels_and_echoes_are_refused(self, method, code):
        assert refused(HOST, method=method) == code

    @pytest.mark.parametrize("method", [b"", b"GE T", b"GET\r", b"G(T", b"G\xc3T"])
    def test_a_method_is_a_word(self, method):
        assert refused(HOST, method=method) == 400

    @pytest.mark.parametrize("version", ["0.9", "1.2", "2.0", "", "1.10"])
    def test_other_versions_are_refused(self, version):
        assert refused(HOST, version=version) == 505


class TestHost:
    @pytest.mark.parametrize(
        "host", [b"kube", b"Kube.x.ts.net:443", b"100.64.0.1", b"[fd7a::1]:443", b"a_b", b"k."]
    )
    def test_a_name_or_address_with_or_without_port_passes(self, host):
        assert check((b"host", host)) == NO_BODY

    @pytest.mark.parametrize(
        "host",
        [
            b"",
            b"a b",
            b"a@b",
            b"a/b",
            b"a,b",
            b"a:b",
            b"a:1:2",
            b"[::1",
            b"a\n",
            b"a:123456",
            b":1",
        ],
    )
    def test_anything_else_is_refused(self, host):
        assert refused((b"Host", host)) == 400

    def test_http_1_1_has_exactly_one(self):
        assert refused() == 400
        assert refused(HOST, HOST) == 400
        assert refused(HOST, (b"HOST", b"other")) == 400

    def test_http_1_0_has_one_at_most(self):
        assert check(version="1.0") == NO_BODY
        assert refused(HOST, HOST, version="1.0") == 400


class TestHeaders:
    @pytest.mark.parametrize(
        "name", [b"", b"X Y", b"X:", b"X\r", b"X\x00", b"X\xff", b" X", b"(X)"]
    )
    def test_a_name_is_a_word(self, name):
        assert refused(HOST, (name, b"v")) == 400

    @pytest.mark.parametrize("value", [b"a\rb", b"a\nb", b"a\r\n b", b"\x00", b"\x0b", b"\x7f"])
    def test_a_value_holds_no_control_character(self, value):
        assert refused(HOST, (b"X", value)) == 400

    def test_tabs_and_bytes_beyond_ascii_are_values(self):
        assert check(HOST, (b"X", b"a\tb \x80\xff"), (b"Y", b"")) == NO_BODY

    def test_there_is_a_limit_on_bytes(self):
        assert check(HOST, (b"X", b"v" * (MAX_HEADER_BYTES - 100))) == NO_BODY
        assert refused(HOST, (b"X", b"v" * MAX_HEADER_BYTES)) == 431

    def test_there_is_a_limit_on_lines(self):
        assert check(HOST, *[(b"X", b"")] * (MAX_HEADER_LINES - 1)) == NO_BODY
        assert refused(HOST, *[(b"X", b"")] * MAX_HEADER_LINES) == 431

    @pytest.mark.parametrize("values", [[b"later"], [b""], [b"100-continue"] * 2])
    def test_nothing_but_100_continue_can_be_expected(self, values):
        assert refused(HOST, *[(b"Expect", value) for value in values]) == 417

    def test_100_continue_can_be_expected(self):
        assert check(HOST, (b"expect", b"100-Continue")) == NO_BODY

    @given(
        st.binary(max_size=8),
        st.binary(max_size=20),
        st.sampled_from(["1.0", "1.1", "2.0"]),
        st.lists(
            st.tuples(
                st.one_of(
                    st.sampled_from(
                        [b"Host", b"Content-Length", b"Transfer-Encoding", b"Expect", b"Upgrade"]
                    ),
                    st.binary(max_size=5),
                ),
                st.one_of(st.binary(max_size=9), st.sampled_from([b"5", b"chunked", b"h"])),
            ),
            max_size=5,
        ),
    )
    def test_any_request_is_framed_or_refused(self, method, target, version, headers):
        with suppress(BadRequest):
            framing = read_head(method, target, version, headers).framing
            assert framing.chunked == (framing.length is None)


class TestUpgrade:
    @pytest.mark.parametrize("connection", [b"Upgrade", b"keep-alive, UPGRADE", b"a ,upgrade,"])
    def test_the_token_and_the_protocol_make_an_upgrade(self, connection):
        headers = [(b"connection", connection), (b"uPGRADE", b"SPDY/3.1")]
        assert read(*headers).upgrade == b"SPDY/3.1"
        assert read(*headers).may_upgrade

    def test_the_token_may_stand_in_any_line(self):
        headers = [
            (b"Connection", b"close"),
            (b"Upgrade", b"WebSocket"),
            (b"Connection", b"upgrade"),
        ]
        assert read(*headers).upgrade == b"WebSocket"
        assert read(*headers).named == {b"close", b"upgrade"}

    @pytest.mark.parametrize(
        ("headers", "loose"),
        [
            ([], False),
            ([(b"Upgrade", b"websocket")], False),
            ([(b"Connection", b"keep-alive"), (b"Upgrade", b"websocket")], False),
            ([(b"Connection", b"Upgrade")], True),
            ([(b"Connection", b"Upgrade"), (b"Upgrade", b"")], True),
            ([(b"Connection", b"xUpgradex"), (b"Upgrade", b"SPDY/3.1")], True),
        ],
    )
    def test_the_loose_reading_finds_more_than_what_is_passed_on(self, headers, loose):
        assert read(*headers).upgrade is None
        assert read(*headers).may_upgrade is loose

    @pytest.mark.parametrize(
        "value", [b"h2c", b"H2C, websocket", b"websocket, HTTP/2.0", b"TLS/1.0"]
    )
    def test_no_switch_to_another_http_is_passed_on(self, value):
        headers = [(b"Connection", b"Upgrade"), (b"Upgrade", value)]
        assert read(*headers).upgrade is None
        assert read(*headers).may_upgrade

    @pytest.mark.parametrize("value", [b"spdy\x803.1", b"web\tsocket"])
    def test_a_protocol_is_printable(self, value):
        assert refused(HOST, (b"Connection", b"upgrade"), (b"Upgrade", value)) == 400

    def test_there_is_one_protocol_line_at_most(self):
        assert refused(HOST, (b"Upgrade", b"websocket"), (b"Upgrade", b"SPDY/3.1")) == 400

    @pytest.mark.parametrize(
        "body", [(b"Content-Length", b"1"), (b"Transfer-Encoding", b"chunked")]
    )
    def test_an_upgrade_has_no_body(self, body):
        upgrade = (b"Connection", b"Upgrade"), (b"Upgrade", b"SPDY/3.1")
        assert refused(HOST, *upgrade, body, method=b"POST") == 400
        assert check(HOST, *upgrade, (b"Content-Length", b"0"), method=b"POST") == NO_BODY

    def test_what_is_no_upgrade_may_have_a_body(self):
        length = Framing(length=1, chunked=False)
        headers = (b"Upgrade", b"websocket"), (b"Content-Length", b"1")
        assert check(HOST, *headers, method=b"POST") == length


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
        framing = reference.check_request(method, target, version, headers)
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
    assert head.upgrade == reference.upgrade_of(headers)
    assert head.may_upgrade == reference.may_upgrade(headers)
    assert head.named == reference.connection_tokens(headers) - {b"host", b"content-length"}
    assert head.trailers == ((b"TE", b"trailers") in reference.end_to_end(headers, None))
    assert head.keys == [name.lower() for name, _ in headers]
    for prefix in (b"x-", b"x-forwarded-", b"connection", b"u"):
        assert head.has_prefix(prefix) == any(key.startswith(prefix) for key in head.keys)
