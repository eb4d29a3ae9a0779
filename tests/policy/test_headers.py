"""The headers that leave for the API server."""

from __future__ import annotations

from ipaddress import ip_address

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailproxy.policy.headers import (
    impersonation_of,
    outgoing_block,
    proven_block,
)
from tailproxy.policy.identity import Unsendable
from tailproxy.wire.addresses import unmapped
from tailproxy.wire.head import read_head
from tailproxy.wire.http1 import BadRequest, field_lines
from tests.wire.golden import cases

from . import reference
from .whois import ada, groups

TOKEN_PROTOCOL = b"base64url.bearer.authorization.k8s.io.QUJD"
PLANTED = [
    (b"Impersonate-User", b"root"),
    (b"impersonate-group", b"system:masters"),
    (b"Impersonate-Extra-Scopes", b"x"),
    (b"Impersonate-Uid", b"0"),
    (b"Authorization", b"Bearer z"),
]
DEV = ada(groups("dev"))
ID = b"0f1e2d3c4b5a69788796a5b4c3d2e1f0"


def head_of(headers, method=b"POST"):
    hosts = [name for name, _ in headers if name.lower() == b"host"]
    return read_head(method, b"/", "1.1", [*([] if hosts else [(b"Host", b"kube")]), *headers])


def pairs_of(block):
    assert block.endswith(b"\r\n\r\n")
    return [tuple(line.split(b": ", 1)) for line in block[:-4].split(b"\r\n")]


def sent(headers, identity=DEV, bearer=b"ours", client="100.64.0.5"):
    """Send headers in auth mode; what leaves, but for the request's ID at its end."""
    head = head_of(headers)
    block = outgoing_block(
        head,
        identity=identity,
        host=b"10.0.0.1:6443",
        client=str(unmapped(ip_address(client))).encode(),
        bearer=bearer,
        request_id=ID,
    )
    *result, last = pairs_of(block)
    assert last == (b"Audit-ID", ID)
    assert result == expected(head, identity, bearer, client)
    return result


def expected(head, identity, bearer, client):
    """The same, one step after another."""
    pairs = reference.outgoing(
        head.headers,
        identity=identity,
        upgrade=head.upgrade,
        host=b"10.0.0.1:6443",
        client=ip_address(client),
        bearer=bearer,
    )
    reference.check_outgoing(pairs, identity, bearer)
    if head.framing.chunked:
        first_of_ours = next(n for n, pair in enumerate(pairs) if pair[0] == b"X-Forwarded-For")
        pairs.insert(first_of_ours, (b"Transfer-Encoding", b"chunked"))
    return pairs


def passed_on(headers, client="100.64.0.5"):
    """Send headers in noauth mode."""
    return sent(headers, identity=None, bearer=None, client=client)


OURS = [
    (b"X-Forwarded-For", b"100.64.0.5"),
    (b"Impersonate-Group", b"dev"),
    (b"Impersonate-User", b"ada@corp.example"),
    (b"Authorization", b"Bearer ours"),
]
UPSTREAM = (b"Host", b"10.0.0.1:6443")


def test_dp_I14_nothing_of_a_planted_identity_is_sent():
    assert sent(PLANTED) == [UPSTREAM, *OURS]


def test_dp_I15_in_noauth_mode_the_clients_credentials_are_its_own():
    assert passed_on(PLANTED) == [UPSTREAM, *PLANTED, (b"X-Forwarded-For", b"100.64.0.5")]


@pytest.mark.parametrize(
    "name", [b"Impersonate-User", b"authorization", b"X-Forwarded-For", b"Host"]
)
def test_dp_I16_connection_cannot_take_our_headers_away(name):
    assert sent([(b"Connection", b"close, " + name)]) == [UPSTREAM, *OURS]


@pytest.mark.parametrize(
    "name",
    [
        b"Authorization",
        b"Proxy-Authorization",
        b"Impersonate-User",
        b"Impersonate-Group",
        b"Impersonate-Uid",
        b"Impersonate-Extra-Scopes",
        b"X-Remote-User",
        b"X-Remote-Group",
        b"X-Remote-Uid",
        b"X-Remote-Extra-Scopes",
        b"X-Real-Ip",
        b"X-Forwarded-For",
        b"X-Forwarded-Host",
        b"X-Forwarded-Proto",
        b"Forwarded",
    ],
)
def test_the_whole_family_goes_in_any_case_and_repetition(name):
    headers = [(name, b"a"), (b"Accept", b"*/*"), (name.lower(), b"b"), (name.swapcase(), b"c")]
    assert sent(headers) == [UPSTREAM, (b"Accept", b"*/*"), *OURS]


@pytest.mark.parametrize(
    "name", [b"Impersonate_User", b"XImpersonate-User", b"X-Remotely", b"Cookie"]
)
def test_other_names_stay(name):
    assert (name, b"v") in sent([(name, b"v")])


def test_the_host_is_the_upstreams_alone():
    headers = sent([(b"host", b"kube.corp-cat.ts.net")])
    assert [value for name, value in headers if name.lower() == b"host"] == [b"10.0.0.1:6443"]


def test_dp_I23_the_client_is_the_tailnets_alone():
    planted = [(b"X-Forwarded-For", b"100.64.0.66"), (b"X-Real-Ip", b"100.64.0.66")]
    assert sent(planted) == [UPSTREAM, *OURS]
    assert passed_on(planted, client="::ffff:100.64.0.5") == [
        UPSTREAM,
        planted[1],
        (b"X-Forwarded-For", b"100.64.0.5"),
    ]


@pytest.mark.parametrize(
    ("protocols", "left"),
    [
        pytest.param(b"v5.channel.k8s.io, " + TOKEN_PROTOCOL, [b"v5.channel.k8s.io"], id="dp_I22"),
        (TOKEN_PROTOCOL + b", v5, v4", [b"v5, v4"]),
        (b"v5," + TOKEN_PROTOCOL.upper() + b",v4", [b"v5,v4"]),
        (TOKEN_PROTOCOL, []),
        (b"v5, \xc2\xa0" + TOKEN_PROTOCOL, [b"v5"]),
        (b"v5 ,v4", [b"v5 ,v4"]),
    ],
)
def test_a_token_among_the_subprotocols_goes(protocols, left):
    headers = sent([(b"sec-websocket-protocol", protocols)])
    assert [value for name, value in headers if name == b"sec-websocket-protocol"] == left


def test_in_noauth_mode_a_token_among_the_subprotocols_stays():
    header = (b"Sec-WebSocket-Protocol", b"v5.channel.k8s.io, " + TOKEN_PROTOCOL)
    assert header in passed_on([header])


def test_an_upgrade_keeps_what_the_other_end_reads():
    headers = [
        (b"Connection", b"Upgrade"),
        (b"Upgrade", b"SPDY/3.1"),
        (b"X-Stream-Protocol-Version", b"v4.channel.k8s.io"),
        (b"X-Stream-Protocol-Version", b"v3.channel.k8s.io"),
    ]
    assert sent(headers) == [
        UPSTREAM,
        *headers[2:],
        (b"Connection", b"Upgrade"),
        (b"Upgrade", b"SPDY/3.1"),
        *OURS,
    ]


def test_the_same_headers_leave_otherwise_for_anybody_or_anything_else():
    head = head_of([(b"Accept", b"*/*"), (b"Authorization", b"Bearer z")])
    usual = {
        "identity": DEV,
        "host": b"h",
        "client": b"100.64.0.5",
        "bearer": b"ours",
        "request_id": ID,
    }
    first = outgoing_block(head, **usual)
    kept = head.fields.made["outgoing_block"]
    assert outgoing_block(head, **usual) == first
    assert head.fields.made["outgoing_block"] is kept
    for changed in (
        {"identity": ada(groups("ops"))},
        {"identity": None, "bearer": None},
        {"host": b"other"},
        {"client": b"100.64.0.6"},
        {"bearer": b"newer"},
        {"bearer": None},
    ):
        inputs = {**usual, **changed}
        fresh = outgoing_block(head_of(head.headers), **inputs)
        assert outgoing_block(head, **inputs) == fresh != first
        assert outgoing_block(head, **usual) == first


def test_each_request_has_its_own_id_and_no_other():
    head = head_of([(b"Accept", b"*/*"), (b"audit-ID", b"another"), (b"AUDIT-id", b"x")])
    for identity, bearer in ((DEV, b"ours"), (None, None)):
        for number in (b"1", b"2"):
            block = outgoing_block(
                head,
                identity=identity,
                host=b"h",
                client=b"100.64.0.5",
                bearer=bearer,
                request_id=number,
            )
            ids = [pair for pair in pairs_of(block) if pair[0].lower() == b"audit-id"]
            assert ids == [(b"Audit-ID", number)]


@pytest.mark.parametrize("number", [b"", b"1\r\nImpersonate-User: root", b"1 ", b"\xe9", b"a:b"])
def test_an_id_that_is_none_is_not_sent(number):
    for _ in range(2):  # the second time the rest is known
        with pytest.raises(Unsendable):
            outgoing_block(
                head_of([]),
                identity=DEV,
                host=b"h",
                client=b"100.64.0.5",
                bearer=b"ours",
                request_id=number,
            )


def test_without_a_token_of_ours_none_is_sent():
    assert sent(PLANTED, bearer=None) == [UPSTREAM, *OURS[:-1]]


def test_groups_are_headers_of_their_own_in_order():
    headers = sent([], identity=ada(groups("b", "a,c"), groups("a")))
    values = [value for name, value in headers if name == b"Impersonate-Group"]
    assert values == [b"b", b"a,c", b"a"]


def test_a_name_that_cannot_be_sent_is_not():
    with pytest.raises(Unsendable):
        sent([], identity=ada(groups("")))


def test_the_clients_own_impersonation_is_found_by_name():
    host = (b"Host", b"kube")
    headers = [host, (b"impersonate-USER", b"root"), (b"Impersonate-Foo", b"")]
    head = read_head(b"GET", b"/", "1.1", headers)
    assert impersonation_of(head) == ("impersonate-USER", "Impersonate-Foo")
    others = [host, (b"X-Impersonate-User", b"root"), (b"X", b"\timpersonate-user")]
    assert impersonation_of(read_head(b"GET", b"/", "1.1", others)) == ()


class TestEndToEnd:
    """In noauth mode, where nothing else is taken away."""

    @staticmethod
    def further(*headers):
        """What of these headers goes further, and what is put back."""
        host, *others, forwarded_for = passed_on(headers)
        assert (host, forwarded_for) == (UPSTREAM, OURS[0])
        return others

    @pytest.mark.parametrize(("headers", "expected"), cases("forward_headers"))
    def test_golden(self, headers, expected):
        raw = [(name.encode(), value.encode()) for name, value in headers]
        shown = [[name.lower().decode(), value.decode()] for name, value in self.further(*raw)]
        assert sorted(shown) == [pair for pair in expected if pair[0] != "host"]

    def test_order_repetition_and_spelling_stay(self):
        headers = [
            (b"X-Stream-Protocol-Version", b"v5"),
            (b"aCCept", b"*/*"),
            (b"x-stream-protocol-version", b"v4, v3"),
            (b"Content-Length", b"0"),
            (b"Cookie", b"a=b"),
        ]
        assert self.further(*headers) == headers

    def test_what_connection_names_goes_in_any_line_and_case(self):
        headers = [
            (b"Connection", b"close, X-One"),
            (b"x-oNE", b"1"),
            (b"X-Two", b"2"),
            (b"CONNECTION", b" x-two"),
            (b"X-Three", b"3"),
        ]
        assert self.further(*headers) == [(b"X-Three", b"3")]

    def test_connection_cannot_take_the_length_or_the_host_away(self):
        length = (b"Content-Length", b"5")
        assert self.further((b"Connection", b"content-length, Host"), length) == [length]

    @pytest.mark.parametrize(
        "name",
        [
            b"Proxy-Connection",
            b"Keep-Alive",
            b"Proxy-Authenticate",
            b"Proxy-Authorization",
            b"TE",
            b"Trailer",
            b"Forwarded",
            b"X-Forwarded-For",
            b"X-Forwarded-Host",
            b"X-Forwarded-Proto",
            b"x-forwarded-anything",
        ],
    )
    def test_the_fixed_set_goes_without_being_named(self, name):
        assert self.further((name, b"v"), (name.upper(), b"w")) == []

    def test_an_upgrade_that_is_none_goes(self):
        assert self.further((b"upgrade", b"websocket"), (b"Connection", b"close")) == []
        assert self.further((b"Upgrade", b"h2c"), (b"Connection", b"upgrade")) == []

    def test_the_framing_is_written_anew(self):
        framing = (b"Transfer-Encoding", b"chunked")
        assert self.further((b"transfer-encoding", b"Chunked"), (b"A", b"b")) == [
            (b"A", b"b"),
            framing,
        ]
        named = (b"Connection", b"transfer-encoding")
        assert self.further((b"transfer-encoding", b"chunked"), named) == [framing]

    def test_trailers_is_all_that_stays_of_te(self):
        headers = [(b"TE", b"deflate"), (b"te", b"gzip;q=1, Trailers")]
        assert self.further(*headers) == [(b"TE", b"trailers")]

    def test_an_upgrade_is_put_back_as_sent(self):
        headers = [
            (b"Upgrade", b"WebSocket"),
            (b"Connection", b"upgrade, Sec-WebSocket-Key"),
            (b"Sec-WebSocket-Key", b"k"),
            (b"Origin", b"o"),
        ]
        assert self.further(*headers) == [
            (b"Origin", b"o"),
            (b"Connection", b"Upgrade"),
            (b"Upgrade", b"WebSocket"),
        ]


GOOD = [UPSTREAM, (b"Accept", b"*/*"), *OURS]


def check(headers, identity, bearer):
    reference.check_outgoing(headers, identity, bearer)
    assert block_of(headers, identity, bearer) == field_lines(headers)


def block_of(headers, identity, bearer):
    """Prove headers as a block, ours being those that stand last."""
    count = 0
    if identity is not None:
        count = min(len(headers), len(identity.groups) + 1 + (bearer is not None))
    others = headers[: len(headers) - count]
    lines = [b"%b: %b" % pair for pair in others]
    return proven_block(lines, field_lines(headers[len(others) :]), identity, bearer)


class TestLastCheck:
    def test_a_good_set_passes(self):
        check(GOOD, DEV, b"ours")
        check(GOOD[:-1], DEV, None)

    @pytest.mark.parametrize(
        "headers",
        [
            pytest.param([], id="nothing"),
            pytest.param([each for each in GOOD if b"User" not in each[0]], id="no_user"),
            pytest.param([*GOOD, (b"impersonate-user", b"root")], id="second_user"),
            pytest.param([*GOOD, OURS[2]], id="user_twice"),
            pytest.param([(b"Impersonate-User", b""), *GOOD], id="empty_user"),
            pytest.param([*GOOD[:-2], (b"Impersonate-User", b"root"), GOOD[-1]], id="other_user"),
            pytest.param([each for each in GOOD if b"Group" not in each[0]], id="group_missing"),
            pytest.param([(b"Impersonate-Group", b"ops"), *GOOD], id="second_group"),
            pytest.param([*GOOD, (b"Impersonate-Uid", b"0")], id="uid"),
            pytest.param([*GOOD, (b"Impersonate-Extra-A", b"0")], id="extra"),
            pytest.param([*GOOD, (b"X-REMOTE-user", b"root")], id="front_proxy"),
            pytest.param([*GOOD, (b"authorization", b"Bearer z")], id="second_token"),
            pytest.param(GOOD[:-1], id="no_token"),
            pytest.param([*GOOD[:-1], (b"Authorization", b"Bearer z")], id="other_token"),
            pytest.param([*GOOD, (b"Proxy-Authorization", b"z")], id="proxy_token"),
            pytest.param([*GOOD, (b"X-Real-Ip", b"100.64.0.9")], id="planted_address"),
            pytest.param([*GOOD, (b"Sec-WebSocket-Protocol", TOKEN_PROTOCOL)], id="token_protocol"),
            pytest.param([*GOOD, (b"X", b"a\r\nImpersonate-User: root")], id="line_break"),
            pytest.param([*GOOD, (b"X\n", b"a")], id="line_break_in_a_name"),
        ],
    )
    def test_any_other_set_is_stopped(self, headers):
        with pytest.raises(Unsendable):
            reference.check_outgoing(headers, DEV, b"ours")
        with pytest.raises(Unsendable):
            block_of(headers, DEV, b"ours")

    @pytest.mark.parametrize(
        "line",
        [b"X: a\r\nY: b", b"X: a\r\n\r\nGET /", b"\r\n", b"", b"X: a\n", b"X: a\r", b"X: \x00"],
    )
    def test_a_line_that_is_not_one_is_stopped(self, line):
        ours = field_lines(OURS[1:])
        for identity, bearer, last in ((DEV, b"ours", ours), (None, None, b"")):
            proven_block([b"Host: h", b"X: a"], last, identity, bearer)
            with pytest.raises(Unsendable):
                proven_block([b"Host: h", line], last, identity, bearer)

    def test_without_an_identity_nothing_is_ours(self):
        with pytest.raises(Unsendable):
            proven_block([b"Host: h"], b"Impersonate-User: root\r\n", None, None)

    def test_without_a_token_of_ours_there_must_be_none(self):
        with pytest.raises(Unsendable):
            check(GOOD, DEV, None)

    @pytest.mark.parametrize("bearer", [b"", b"  "])
    def test_an_empty_token_is_none(self, bearer):
        headers = [*GOOD[:-1], (b"Authorization", b"Bearer " + bearer)]
        with pytest.raises(Unsendable):
            check(headers, DEV, bearer)

    def test_a_token_that_breaks_the_line_is_stopped(self):
        with pytest.raises(Unsendable) as caught:
            sent([], bearer=b"secret\r\nX: y")
        assert "secret" not in str(caught.value)

    def test_nobody_is_never_somebody(self):
        nobody = attrs.evolve(DEV, user="", groups=())
        with pytest.raises(Unsendable):
            check([(b"Impersonate-User", b"")], nobody, None)

    def test_in_noauth_mode_our_token_stays_here(self):
        check(PLANTED, None, None)
        with pytest.raises(Unsendable):
            check(PLANTED, None, b"ours")


names = st.sampled_from(
    [b"Connection", b"Impersonate-User", b"IMPERSONATE-GROUP", b"authorization", b"Upgrade",
     b"X-Remote-User", b"Sec-WebSocket-Protocol", b"TE", b"Host", b"X-Forwarded-For", b"Accept"]
)  # fmt: skip
contents = st.sampled_from(
    [b"root", b"upgrade, impersonate-user", b"authorization,impersonate-group", b"websocket",
     TOKEN_PROTOCOL, b"v5, " + TOKEN_PROTOCOL, b"trailers", b""]
)  # fmt: skip


@given(st.lists(st.tuples(names, contents), max_size=8))
def test_whatever_a_client_sends_leaves_as_the_caller(headers):
    try:
        head_of(headers)
    except BadRequest:
        return  # it does not leave at all
    result = sent(headers)
    ours = [pair for pair in result if pair[0].lower().startswith((b"impersonate-", b"x-remote-"))]
    assert ours == OURS[1:3]
    assert [pair for pair in result if pair[0].lower() == b"authorization"] == OURS[3:]
    protocols = [value for name, value in result if name == b"Sec-WebSocket-Protocol"]
    assert not any(TOKEN_PROTOCOL in value for value in protocols)


@given(
    st.lists(st.tuples(names, contents), max_size=3),
    st.sampled_from([OURS[1:], OURS[1:3], OURS[2:], [*OURS[1:3], OURS[3], OURS[3]]]),
    st.lists(st.tuples(names, contents), max_size=1),
    st.sampled_from([b"ours", None]),
)
def test_what_passes_as_a_block_passes_header_by_header(before, ours, after, bearer):
    headers = [*before, *ours, *after]
    try:
        block_of([UPSTREAM, *headers], DEV, bearer)
    except Unsendable:
        if not after:  # ours are last
            with pytest.raises(Unsendable):
                reference.check_outgoing(headers, DEV, bearer)
    else:
        reference.check_outgoing(headers, DEV, bearer)


any_names = st.one_of(
    names,
    st.sampled_from(
        [b"Transfer-Encoding", b"content-length", b"X-Real-Ip", b"Proxy-Authorization",
         b"Forwarded", b"Keep-Alive", b"Proxy-Connection", b"Trailer", b"Cookie",
         b"x-forwarded-proto", b"Audit-ID",
         b"SEC-WEBSOCKET-PROTOCOL", b"Sec-WebSocket-Protocol-X", b"x-remote-extra-a", b"expect"]
    ),
    st.text("aX-_", min_size=1, max_size=4).map(str.encode),
)  # fmt: skip
any_contents = st.one_of(
    contents,
    st.sampled_from(
        [b"chunked", b"5", b"0", b"kube:443", b"100-continue", b"close, cookie , host",
         b"keep-alive, Upgrade", b"h2c", b"SPDY/3.1", b"v4,," + TOKEN_PROTOCOL + b" ,v5"]
    ),
    st.text("a ,:\té", max_size=5).map(str.encode).map(bytes.strip),
)  # fmt: skip


@given(
    st.lists(st.tuples(any_names, any_contents), max_size=6),
    st.sampled_from([(DEV, b"ours"), (DEV, None), (None, None), (ada(groups("a", "b")), b"x")]),
    st.sampled_from(["100.64.0.5", "fd7a:115c:a1e0::5", "::ffff:100.64.0.5"]),
)
def test_a_block_is_what_the_rules_make_one_after_another(headers, who, client):
    try:
        head_of(headers)
    except BadRequest:
        return  # it does not leave at all
    identity, bearer = who
    sent(headers, identity, bearer, client)  # compares
