"""The head of a request, read once."""

from __future__ import annotations

from contextlib import suppress

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailproxy.wire.head import MAX_HEADER_BYTES, MAX_HEADER_LINES, LastHead, read_head, unread_head
from tailproxy.wire.http1 import CHUNKED, NO_BODY, BadRequest, Framing
from tailproxy.wire.requestinfo import request_info

from . import reference

HOST = (b"Host", b"kube.corp-cat.ts.net")


def read(*headers, target=b"/api"):
    return read_head(b"GET", target, "1.1", [HOST, *headers])


def test_names_are_brought_into_lower_case_beside_the_headers():
    head = read((b"aCCept", b"A"), (b"ACCEPT", b"B"))
    assert head.fields.keys == [b"host", b"accept", b"accept"]
    assert [name for name, _ in head.headers] == [b"Host", b"aCCept", b"ACCEPT"]
    assert (head.first(b"accept"), head.first(b"x")) == (b"A", b"")


@pytest.mark.parametrize(
    ("prefix", "there"),
    [(b"x-", True), (b"x-one", True), (b"x-one-", False), (b"one", False), (b"host", True)],
)
def test_a_prefix_is_looked_for_where_names_begin(prefix, there):
    assert read((b"X-One", b"x-two\t")).fields.has_prefix(prefix) is there


def test_the_path_ends_before_the_query():
    assert read(target=b"/api?a=/b?c").path == b"/api"


def test_what_the_target_means_is_found_out_once():
    assert read(target=b"/api/v1/pods?watch=1").info == request_info(
        b"GET", b"/api/v1/pods?watch=1"
    )


def test_a_request_refused_unread_has_no_headers():
    head = unread_head(b"", b"/")
    assert (head.headers, head.fields.keys, head.framing, head.upgrade) == ((), [], NO_BODY, None)
    assert not head.fields.has_prefix(b"")
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
        assert read(*headers).fields.may_upgrade

    def test_the_token_may_stand_in_any_line(self):
        headers = [
            (b"Connection", b"close"),
            (b"Upgrade", b"WebSocket"),
            (b"Connection", b"upgrade"),
        ]
        assert read(*headers).upgrade == b"WebSocket"
        assert read(*headers).fields.named == {b"close", b"upgrade"}

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
        assert read(*headers).fields.may_upgrade is loose

    @pytest.mark.parametrize(
        "value", [b"h2c", b"H2C, websocket", b"websocket, HTTP/2.0", b"TLS/1.0"]
    )
    def test_no_switch_to_another_http_is_passed_on(self, value):
        headers = [(b"Connection", b"Upgrade"), (b"Upgrade", value)]
        assert read(*headers).upgrade is None
        assert read(*headers).fields.may_upgrade

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


class Parsed:
    """What llhttp finds in some bytes, as the channel asks it."""

    def __init__(self, data):
        self.method, self.target, self.headers = b"", b"", []
        self.messages = self.begun = self.body = 0
        parser = httptools.HttpRequestParser(self)
        with suppress(httptools.HttpParserUpgrade):
            parser.feed_data(data)
        self.method, self.version = parser.get_method(), parser.get_http_version()
        self.keep_alive, self.upgrade = parser.should_keep_alive(), parser.should_upgrade()

    def on_message_begin(self):
        self.begun += 1

    def on_url(self, part):
        self.target += part

    def on_header(self, name, value):
        self.headers.append((name, value))

    def on_body(self, chunk):
        self.body += 1

    def on_message_complete(self):
        self.messages += 1


def parsed(data):
    """The head of exactly one request without a body, or None."""
    try:
        found = Parsed(data)
    except httptools.HttpParserError:
        return None
    alone = (found.begun, found.messages, found.body) == (1, 1, 0)
    if not alone or not found.keep_alive or found.upgrade:
        return None
    try:
        return read_head(found.method, found.target, found.version, found.headers)
    except BadRequest:
        return None


BLOCK = b"Host: kube\r\nUser-Agent: k\r\nAccept: */*\r\n\r\n"


class TestLastHead:
    @staticmethod
    def after(data):
        last = LastHead()
        head = parsed(data)
        assert head is not None
        last.keep(data, head)
        return last

    def test_the_next_request_with_the_same_headers_is_known(self):
        last = self.after(b"GET /api HTTP/1.1\r\n" + BLOCK)
        first = last.read(b"GET /api HTTP/1.1\r\n" + BLOCK)
        head = last.read(b"DELETE /api/v1/pods?a=b HTTP/1.1\r\n" + BLOCK)
        assert (head.method, head.target, head.version) == (b"DELETE", b"/api/v1/pods?a=b", "1.1")
        assert head.fields is first.fields
        assert head.fields.user_agent == "k"
        assert head.info == request_info(b"DELETE", b"/api/v1/pods?a=b")

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            BLOCK,
            b"\r\n" + BLOCK,
            b"GET /api HTTP/1.1\r\n" + BLOCK[:-1],
            b"GET /api HTTP/1.1\r\n" + BLOCK + b"G",
            b"GET /api HTTP/1.1\r\nX: y\r\n" + BLOCK,
            b"GET /api HTTP/1.1\r\n" + BLOCK.lower(),
            b"GET /api HTTP/1.1\r\n" + BLOCK * 2,
            b"GET /api HTTP/1.1\r\n" + BLOCK + b"GET /api HTTP/1.1\r\n" + BLOCK,
            b"\r\nGET /api HTTP/1.1\r\n" + BLOCK,
            b"GET  /api HTTP/1.1\r\n" + BLOCK,
            b"GET /api  HTTP/1.1\r\n" + BLOCK,
            b"GET /a pi HTTP/1.1\r\n" + BLOCK,
            b"GET /a\npi HTTP/1.1\r\n" + BLOCK,
            b"GET /api\r\n" + BLOCK,
            b"GET /api HTTP/1.0\r\n" + BLOCK,
            b"GET /api HTTP/1.1\n" + BLOCK,
            b"GET * HTTP/1.1\r\n" + BLOCK,
            b"GET http://x/ HTTP/1.1\r\n" + BLOCK,
            b"GET  HTTP/1.1\r\n" + BLOCK,
            b"get /api HTTP/1.1\r\n" + BLOCK,
            b"CONNECT /api HTTP/1.1\r\n" + BLOCK,
            b"TRACE /api HTTP/1.1\r\n" + BLOCK,
            b"GET /\xff HTTP/1.1\r\n" + BLOCK,
            b"GET /#x HTTP/1.1\r\n" + BLOCK,
        ],
    )
    def test_anything_else_is_not(self, data):
        assert self.after(b"GET /api HTTP/1.1\r\n" + BLOCK).read(data) is None

    @pytest.mark.parametrize(
        "data",
        [
            b"POST / HTTP/1.1\r\nHost: k\r\nContent-Length: 2\r\n\r\nab",
            b"POST / HTTP/1.1\r\nHost: k\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: k\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
            b"GET / HTTP/1.0\r\nHost: k\r\nConnection: keep-alive\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: k\r\nX: " + b"y" * 5000 + b"\r\n\r\n",
            b"\r\nGET / HTTP/1.1\r\nHost: k\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: k\r\n\r\n\r\n",
        ],
    )
    def test_some_requests_are_not_remembered(self, data):
        last, found = LastHead(), Parsed(data)
        last.keep(data, read_head(found.method, found.target, found.version, found.headers))
        assert last.read(data) is None

    @given(
        st.lists(
            st.sampled_from(
                [b"GET", b"POST", b"TRACE", b" ", b"/", b"/a?b", b"#", b"HTTP/1.1", b"HTTP/1.0",
                 b"\r\n", b"\n", b"Host: k\r\n", b"A: b\r\n", BLOCK, BLOCK[:-2]]
            ),
            max_size=8,
        ).map(b"".join),
        st.sampled_from([BLOCK, b"Host: a\r\nContent-Length: 0\r\nConnection: b\r\n\r\n"]),
        st.booleans(),
    )  # fmt: skip
    def test_what_is_known_is_what_would_be_parsed(self, start, block, whole):
        last = self.after(b"GET /first HTTP/1.1\r\n" + block)
        data = (b"GET /a HTTP/1.1\r\n" if whole else b"") + start + block
        head = last.read(data)
        if head is not None:
            other = parsed(data)
            assert other is not None
            assert (head.method, head.target, head.version) == (
                other.method,
                other.target,
                other.version,
            )
            assert head.headers == other.headers
            assert head.framing is other.framing is NO_BODY
            assert head.upgrade is other.upgrade is None
            assert head.info == other.info


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
    assert head.fields.may_upgrade == reference.may_upgrade(headers)
    assert head.fields.named == reference.connection_tokens(headers) - {b"host", b"content-length"}
    assert head.fields.trailers == ((b"TE", b"trailers") in reference.end_to_end(headers, None))
    assert head.fields.keys == [name.lower() for name, _ in headers]
    for prefix in (b"x-", b"x-forwarded-", b"connection", b"u"):
        assert head.fields.has_prefix(prefix) == any(
            key.startswith(prefix) for key in head.fields.keys
        )


BROWSER = (b"User-Agent", b"Mozilla/5.0 (X11) Safari/605")
LINK = ((b"Sec-Fetch-Mode", b"navigate"), (b"Sec-Fetch-Dest", b"document"))


def from_site(site: bytes):
    return (b"sec-fetch-site", site)


def origin(value: bytes):
    return (b"Origin", value)


class TestCrossSite:
    """W3C Fetch Metadata; RFC 6454, 7."""

    @pytest.mark.parametrize(
        ("headers", "crossing"),
        [
            ([], False),
            ([BROWSER], False),
            ([from_site(b"same-origin")], False),
            ([from_site(b"none")], False),
            ([from_site(b"cross-site")], True),
            ([from_site(b"same-site")], True),
            ([from_site(b"whatever is next")], True),
            # What the browser says of the site counts, whatever the origin looks like to us.
            ([from_site(b"same-origin"), BROWSER, origin(b"http://localhost:8001")], False),
            ([from_site(b"cross-site"), BROWSER, origin(b"https://kube.corp-cat.ts.net")], True),
            # Browsers that say nothing, and programs that send an origin out of habit.
            ([BROWSER, origin(b"https://evil.example")], True),
            ([BROWSER, origin(b"null")], True),
            ([BROWSER, origin(b"https://kube.corp-cat.ts.net.evil.example")], True),
            ([BROWSER, origin(b"https://kube.corp-cat.ts.net:8443")], True),
            ([BROWSER, origin(b"https://KUBE.corp-cat.ts.net")], False),
            ([BROWSER, origin(b"http://kube.corp-cat.ts.net")], False),
            ([origin(b"http://localhost:8001")], False),
            ([(b"User-Agent", b"kubectl"), origin(b"http://localhost:8001")], False),
        ],
    )
    def test_a_browser_says_for_whose_page_it_sends(self, headers, crossing):
        assert read(*headers).cross_site is crossing

    @pytest.mark.parametrize(
        ("method", "headers", "crossing"),
        [
            (b"GET", LINK, False),
            (b"HEAD", LINK, False),
            (b"POST", LINK, True),
            (b"GET", LINK[:1], True),
            (b"GET", ((b"Sec-Fetch-Mode", b"websocket"), LINK[1]), True),
            (b"GET", (LINK[0], (b"Sec-Fetch-Dest", b"iframe")), True),
        ],
    )
    def test_a_link_that_a_person_follows_is_not_meant(self, method, headers, crossing):
        sent = [HOST, from_site(b"cross-site"), *headers]
        assert read_head(method, b"/api", "1.1", sent).cross_site is crossing
