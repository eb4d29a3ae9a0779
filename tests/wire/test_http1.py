"""What a request may look like, and which of its headers go further."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailproxy.wire.http1 import (
    CHUNKED,
    MAX_HEADER_BYTES,
    MAX_HEADER_LINES,
    NO_BODY,
    BadRequest,
    Framing,
    check_request,
    connection_tokens,
    end_to_end,
    field_lines,
    may_upgrade,
    response_block,
    response_end_to_end,
    upgrade_of,
)

from .golden import cases

HOST = (b"Host", b"kube.corp-cat.ts.net")


def check(*headers, method=b"GET", target=b"/api", version="1.1"):
    return check_request(method, target, version, headers)


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
            framing = check_request(method, target, version, headers)
            assert framing.chunked == (framing.length is None)


class TestUpgrade:
    @pytest.mark.parametrize("connection", [b"Upgrade", b"keep-alive, UPGRADE", b"a ,upgrade,"])
    def test_the_token_and_the_protocol_make_an_upgrade(self, connection):
        headers = [(b"connection", connection), (b"uPGRADE", b"SPDY/3.1")]
        assert upgrade_of(headers) == b"SPDY/3.1"
        assert may_upgrade(headers)

    def test_the_token_may_stand_in_any_line(self):
        headers = [
            (b"Connection", b"close"),
            (b"Upgrade", b"WebSocket"),
            (b"Connection", b"upgrade"),
        ]
        assert upgrade_of(headers) == b"WebSocket"
        assert connection_tokens(headers) == {b"close", b"upgrade"}

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
        assert upgrade_of(headers) is None
        assert may_upgrade(headers) is loose

    @pytest.mark.parametrize(
        "value", [b"h2c", b"H2C, websocket", b"websocket, HTTP/2.0", b"TLS/1.0"]
    )
    def test_no_switch_to_another_http_is_passed_on(self, value):
        headers = [(b"Connection", b"Upgrade"), (b"Upgrade", value)]
        assert upgrade_of(headers) is None
        assert may_upgrade(headers)
        assert end_to_end(headers, upgrade_of(headers)) == []

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


class TestEndToEnd:
    @pytest.mark.parametrize(("headers", "expected"), cases("forward_headers"))
    def test_golden(self, headers, expected):
        raw = [(name.encode(), value.encode()) for name, value in headers]
        sent = end_to_end(raw, upgrade_of(raw))
        shown = sorted([name.lower().decode(), value.decode()] for name, value in sent)
        assert shown == expected

    def test_order_repetition_and_spelling_stay(self):
        headers = [
            (b"X-Stream-Protocol-Version", b"v5"),
            (b"aCCept", b"*/*"),
            (b"x-stream-protocol-version", b"v4, v3"),
            (b"Content-Length", b"0"),
            (b"Cookie", b"a=b"),
        ]
        assert end_to_end(headers, None) == headers

    def test_what_connection_names_goes_in_any_line_and_case(self):
        headers = [
            (b"Connection", b"close, X-One"),
            (b"x-oNE", b"1"),
            (b"X-Two", b"2"),
            (b"CONNECTION", b" x-two"),
            (b"X-Three", b"3"),
        ]
        assert end_to_end(headers, None) == [(b"X-Three", b"3")]

    def test_connection_cannot_take_the_length_or_the_host_away(self):
        headers = [HOST, (b"Content-Length", b"5")]
        named = [(b"Connection", b"content-length, Host, transfer-encoding")]
        assert end_to_end(named + headers, None) == headers

    @pytest.mark.parametrize(
        "name",
        [
            b"Proxy-Connection",
            b"Keep-Alive",
            b"Proxy-Authenticate",
            b"Proxy-Authorization",
            b"TE",
            b"Trailer",
            b"Transfer-Encoding",
            b"Upgrade",
            b"Forwarded",
            b"X-Forwarded-For",
            b"X-Forwarded-Host",
            b"X-Forwarded-Proto",
            b"x-forwarded-anything",
        ],
    )
    def test_the_fixed_set_goes_without_being_named(self, name):
        assert end_to_end([(name, b"v"), (name.upper(), b"w"), HOST], None) == [HOST]

    def test_trailers_is_all_that_stays_of_te(self):
        headers = [(b"TE", b"deflate"), (b"te", b"gzip;q=1, Trailers")]
        assert end_to_end(headers, None) == [(b"TE", b"trailers")]

    def test_an_upgrade_is_put_back_as_sent(self):
        headers = [
            (b"Upgrade", b"WebSocket"),
            (b"Connection", b"upgrade, Sec-WebSocket-Key"),
            (b"Sec-WebSocket-Key", b"k"),
            (b"Origin", b"o"),
        ]
        assert end_to_end(headers, upgrade_of(headers)) == [
            (b"Origin", b"o"),
            (b"Connection", b"Upgrade"),
            (b"Upgrade", b"WebSocket"),
        ]

    def test_an_answer_loses_the_fixed_set_and_keeps_the_rest(self):
        headers = [
            (b"Connection", b"close, X-Hop"),
            (b"X-Hop", b"1"),
            (b"Transfer-Encoding", b"chunked"),
            (b"Upgrade", b"h2c"),
            (b"Set-Cookie", b"a"),
            (b"X-Forwarded-For", b"kept"),
            (b"Set-Cookie", b"b"),
        ]
        assert response_end_to_end(headers) == [
            (b"Set-Cookie", b"a"),
            (b"X-Forwarded-For", b"kept"),
            (b"Set-Cookie", b"b"),
        ]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                [b"Connection", b"connection", b"Content-Length", b"CONTENT-LENGTH", b"X-Hop",
                 b"Transfer-Encoding", b"Date", b"Keep-Alive", b"TE", b"Upgrade", b"Set-Cookie"]
            ),
            st.sampled_from([b"close", b"x-hop, date", b"Content-Length", b"set-cookie,", b"5"]),
        ),
        max_size=6,
    )
)  # fmt: skip
def test_an_answer_is_written_with_what_it_keeps(headers):
    kept = response_end_to_end(headers)
    length = any(name.lower() == b"content-length" for name, _ in kept)
    assert response_block(headers) == (field_lines(kept), length)
