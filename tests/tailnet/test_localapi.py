"""The LocalAPI client against a real HTTP server on a unix socket."""

from __future__ import annotations

import json
import os
import socket

import pytest
import pytest_twisted
from twisted.internet.defer import CancelledError
from twisted.logger import globalLogPublisher

from tailproxy.tailnet.localapi import (
    CERTIFICATE_TIMEOUT,
    TIMEOUT,
    LocalAPI,
    LocalAPIError,
    ServeConfig,
)
from tailproxy.testing import Reply
from tests.tailnet.conftest import node_answer

KEY = "-----BEGIN EC PRIVATE KEY-----\nMHc=\n-----END EC PRIVATE KEY-----\n"
CHAIN = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n" * 2


async def failure_of(deferred):
    with pytest.raises(LocalAPIError) as caught:
        await deferred
    return caught.value


class TestWhoIs:
    @pytest_twisted.ensureDeferred
    async def test_dp_s5_the_question_has_no_port_and_is_percent_encoded(self, api, daemon):
        daemon.whois["fd7a:115c:a1e0::5 svc:kube-prod"] = node_answer()
        answer = await api.whois("fd7a:115c:a1e0::5", svc_name="svc:kube-prod")
        assert json.loads(answer)["UserProfile"]["LoginName"] == "ada@corp.example"
        assert daemon.requests == [
            "GET /localapi/v0/whois?addr=fd7a%3A115c%3Aa1e0%3A%3A5&svc_name=svc%3Akube-prod"
        ]

    @pytest_twisted.ensureDeferred
    async def test_a_forwarded_connection_is_asked_for_with_port_and_protocol(self, api, daemon):
        daemon.whois["127.0.0.1:4000"] = node_answer()
        await api.whois("127.0.0.1:4000", "tcp")
        assert daemon.requests == ["GET /localapi/v0/whois?addr=127.0.0.1%3A4000&proto=tcp"]

    @pytest_twisted.ensureDeferred
    async def test_nobody_with_that_address_is_a_404(self, api):
        error = await failure_of(api.whois("100.64.0.9"))
        assert error.status == 404
        assert "no match for IP:port" in error.message


class TestReading:
    @pytest_twisted.ensureDeferred
    async def test_status_comes_without_peers_unless_they_are_wanted(self, api, daemon):
        daemon.replies["status"] = Reply({"BackendState": "Running"})
        assert await api.status() == {"BackendState": "Running"}
        await api.status(peers=True)
        assert daemon.requests == [
            "GET /localapi/v0/status?peers=false",
            "GET /localapi/v0/status?peers=true",
        ]

    @pytest_twisted.ensureDeferred
    async def test_the_daemons_capability_version_is_taken_from_its_answers(self, api, daemon):
        assert api.capability is None
        daemon.replies["prefs"] = Reply({"ShieldsUp": True}, headers={"Tailscale-Cap": "142"})
        assert await api.prefs() == {"ShieldsUp": True}
        assert api.capability == 142

    @pytest.mark.parametrize(
        ("body", "domains"), [("null", ()), ('["a.b", "c.d"]', ("a.b", "c.d"))]
    )
    @pytest_twisted.ensureDeferred
    async def test_certificate_domains_may_not_be_known_yet(self, api, daemon, body, domains):
        daemon.replies["cert-domains"] = Reply(body)
        assert await api.cert_domains() == domains

    @pytest_twisted.ensureDeferred
    async def test_metrics_are_passed_on_as_text(self, api, daemon):
        daemon.replies["usermetrics"] = Reply("# TYPE x gauge\nx 1\n")
        assert await api.usermetrics() == b"# TYPE x gauge\nx 1\n"

    @pytest.mark.parametrize("body", ["[]", "not json", ""])
    @pytest_twisted.ensureDeferred
    async def test_a_status_that_is_no_object_is_an_error(self, api, daemon, body):
        daemon.replies["status"] = Reply(body)
        assert "status is not" in (await failure_of(api.status())).message


class TestServeConfig:
    @pytest.mark.parametrize(
        ("body", "etag"),
        [
            pytest.param(
                "null",
                "74234e98afe7498fb5daf1f36ac2d78acc339464f950703b8c019892f982b90b",
                id="dp_s2",
            ),
            pytest.param(
                "{}",
                "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
                id="dp_s3",
            ),
        ],
    )
    @pytest_twisted.ensureDeferred
    async def test_nothing_served_reads_the_same_however_it_is_written(
        self, api, daemon, body, etag
    ):
        daemon.replies["serve-config"] = Reply(body, headers={"Etag": etag})
        assert await api.serve_config() == ServeConfig({}, etag)

    @pytest_twisted.ensureDeferred
    async def test_a_new_configuration_is_posted_against_the_one_that_was_read(self, api, daemon):
        daemon.replies["serve-config"] = Reply()
        await api.set_serve_config({"TCP": {"443": {"ProxyProtocol": 2}}}, "abc")
        assert daemon.requests == ["POST /localapi/v0/serve-config"]
        assert daemon.bodies == [b'{"TCP":{"443":{"ProxyProtocol":2}}}']
        assert daemon.headers[0].getRawHeaders("If-Match") == ["abc"]

    @pytest_twisted.ensureDeferred
    async def test_dp_s4_a_stale_etag_is_a_412(self, api, daemon):
        daemon.replies["serve-config"] = Reply("etag mismatch\n", 412)
        error = await failure_of(api.set_serve_config({}, "stale"))
        assert error.status == 412


class TestCertificates:
    @pytest_twisted.ensureDeferred
    async def test_a_pair_is_taken_apart_with_its_whole_chain(self, api, daemon):
        daemon.replies["cert/a.ts.net"] = Reply(KEY + CHAIN)
        assert await api.cert_pair("a.ts.net") == (CHAIN.encode(), KEY.encode())
        assert daemon.requests == ["GET /localapi/v0/cert/a.ts.net?type=pair"]

    @pytest_twisted.ensureDeferred
    async def test_a_name_cannot_lead_to_another_endpoint(self, api, daemon):
        await failure_of(api.cert_pair("../prefs?x"))
        assert daemon.requests == ["GET /localapi/v0/cert/..%2Fprefs%3Fx?type=pair"]

    @pytest_twisted.ensureDeferred
    async def test_an_answer_without_key_is_an_error(self, api, daemon):
        daemon.replies["cert/a.ts.net"] = Reply(CHAIN)
        assert (
            "not a key and a certificate" in (await failure_of(api.cert_pair("a.ts.net"))).message
        )

    @pytest_twisted.ensureDeferred
    async def test_an_issuance_may_take_minutes_and_holds_nobody_up(self, api, daemon, clock):
        daemon.hanging.add("cert/a.ts.net")
        pending = [api.cert_pair("a.ts.net") for _ in range(20)]
        await daemon.received(20)
        daemon.replies["prefs"] = Reply({})
        await api.prefs()
        clock.advance(CERTIFICATE_TIMEOUT - 1)
        daemon.replies["cert/a.ts.net"] = Reply(KEY + CHAIN)
        daemon.release()
        for each in pending:
            assert await each == (CHAIN.encode(), KEY.encode())

    @pytest_twisted.ensureDeferred
    async def test_a_rate_limit_says_how_long_to_wait(self, api, daemon):
        daemon.replies["cert/a.ts.net"] = Reply("rate limited", 429, {"Retry-After": "900"})
        error = await failure_of(api.cert_pair("a.ts.net"))
        assert (error.status, error.retry_after) == (429, 900.0)


class TestRefusals:
    @pytest.mark.parametrize(
        ("body", "text"),
        [
            ("no netmap available\n", "no netmap available"),
            ({"error": "netMap is nil"}, "netMap is nil"),
            ({"Error": "config file is locked"}, "config file is locked"),
            ({"other": 1}, '{"other": 1}'),
            ("", "no reason given"),
        ],
    )
    @pytest_twisted.ensureDeferred
    async def test_the_reason_is_found_in_every_shape(self, api, daemon, body, text):
        daemon.replies["prefs"] = Reply(body, 500)
        error = await failure_of(api.prefs())
        assert error.status == 500
        assert error.message == f"tailscaled refused prefs with 500: {text}"
        assert error.retry_after is None

    @pytest_twisted.ensureDeferred
    async def test_a_certificate_that_is_not_permitted_names_the_setting(self, api, daemon):
        daemon.replies["cert/a.ts.net"] = Reply("cert access denied\n", 403)
        error = await failure_of(api.cert_pair("a.ts.net"))
        assert error.status == 403
        assert f"TS_PERMIT_CERT_UID={os.geteuid()}" in error.message
        assert "run tailproxy as root" in error.message

    @pytest_twisted.ensureDeferred
    async def test_a_write_that_is_not_permitted_names_the_operator(self, api, daemon):
        daemon.replies["serve-config"] = Reply("serve config denied\n", 403)
        error = await failure_of(api.set_serve_config({}, ""))
        assert "tailscale set --operator=" in error.message


class TestConnections:
    @pytest_twisted.ensureDeferred
    async def test_a_missing_socket_is_named(self, clock, tmp_path):
        path = str(tmp_path / "nothing.sock")
        error = await failure_of(LocalAPI(clock, path).status())
        assert error.status is None
        assert f"there is no socket {path}" in error.message
        assert "Tailproxy.Tailscaled.Socket" in error.message

    @pytest_twisted.ensureDeferred
    async def test_a_socket_nobody_listens_at_is_named(self, clock, tmp_path):
        path = str(tmp_path / "left-over.sock")
        with socket.socket(socket.AF_UNIX) as left_over:
            left_over.bind(path)
        error = await failure_of(LocalAPI(clock, path).status())
        assert error.status is None
        assert f"nobody listens at the socket {path}; start tailscaled" in error.message

    @pytest_twisted.ensureDeferred
    async def test_connections_are_kept_and_few(self, api, daemon):
        daemon.whois["100.64.0.5"] = node_answer()
        for _ in range(3):
            await api.whois("100.64.0.5")
        assert daemon.connections == 1

    @pytest_twisted.ensureDeferred
    async def test_an_answer_beyond_the_limit_is_an_error(self, clock, daemon, monkeypatch):
        monkeypatch.setattr("tailproxy.tailnet.localapi._ANSWER_LIMIT", 1000)
        api = LocalAPI(clock, daemon.path)
        daemon.replies["usermetrics"] = Reply("x" * 1001)
        assert (await failure_of(api.usermetrics())).status is None
        daemon.replies["usermetrics"] = Reply("x" * 1000)
        assert len(await api.usermetrics()) == 1000
        await api.close()

    @pytest_twisted.ensureDeferred
    async def test_connections_are_not_logged(self, api, daemon):
        events = []
        globalLogPublisher.addObserver(events.append)
        daemon.replies["prefs"] = Reply({})
        await api.prefs()
        globalLogPublisher.removeObserver(events.append)
        assert not [event for event in events if "twisted.web.client" in event["log_namespace"]]

    @pytest_twisted.ensureDeferred
    async def test_questions_beyond_the_bound_wait_their_turn(self, api, daemon):
        daemon.hanging.add("whois")
        daemon.whois["100.64.0.5"] = node_answer()
        pending = [api.whois("100.64.0.5") for _ in range(20)]
        await daemon.received(8)
        assert daemon.connections == 8
        daemon.release()
        for each in pending:
            await each
        assert len(daemon.requests) == 20
        assert daemon.connections == 8

    @pytest_twisted.ensureDeferred
    async def test_a_daemon_that_hangs_is_given_up(self, api, daemon, clock):
        daemon.hanging.add("status")
        pending = api.status()
        await daemon.received(1)
        clock.advance(TIMEOUT - 0.1)
        assert not pending.called
        clock.advance(0.2)
        error = await failure_of(pending)
        assert error.status is None
        assert "did not answer status within 5 s" in error.message

    @pytest_twisted.ensureDeferred
    async def test_waiting_for_a_turn_counts_as_waiting(self, api, daemon, clock):
        daemon.hanging.add("whois")
        pending = [api.whois("100.64.0.5", timeout=1.5) for _ in range(9)]
        await daemon.received(8)
        clock.advance(1.6)
        for each in pending:
            assert "within 1.5 s" in (await failure_of(each)).message
        assert len(daemon.requests) == 8

    @pytest_twisted.ensureDeferred
    async def test_a_cancelled_question_frees_its_turn(self, api, daemon):
        daemon.hanging.add("whois")
        pending = [api.whois("100.64.0.5") for _ in range(8)]
        await daemon.received(8)
        daemon.replies["prefs"] = Reply({})
        after = api.prefs()
        pending[0].cancel()
        with pytest.raises(CancelledError):
            await pending[0]
        assert await after == {}
        daemon.release()
        for each in pending[1:]:
            await failure_of(each)

    @pytest_twisted.ensureDeferred
    async def test_a_daemon_that_goes_away_in_the_middle_is_an_error(self, api, daemon):
        daemon.hanging.add("status")
        pending = api.status()
        await daemon.received(1)
        await daemon.stop()
        error = await failure_of(pending)
        assert error.status is None
        assert f"the connection to tailscaled at {api.socket_path} failed" in error.message

    @pytest_twisted.ensureDeferred
    async def test_it_recovers_at_once_when_the_daemon_returns(self, api, daemon):
        daemon.replies["status"] = Reply({"n": 1})
        await api.status()
        await daemon.stop()
        assert (await failure_of(api.status())).status is None
        daemon.restart()
        assert await api.status() == {"n": 1}


class TestStream:
    @pytest_twisted.ensureDeferred
    async def test_lines_arrive_whole_however_they_are_cut(self, api, daemon):
        stream = await api.watch_bus(142, limit=1000)
        lines = []
        ended = stream.follow(lines.append)
        for part in (b'{"a"', b":1}\n\n{", b'"b":2}\n{"c":3}\n{"d'):
            daemon.say(part)
        daemon.end_bus()
        reason = await ended
        assert lines == [b'{"a":1}', b'{"b":2}', b'{"c":3}']
        assert "ended the stream" in reason
        assert daemon.requests == ["GET /localapi/v0/watch-ipn-bus?mask=142"]

    @pytest_twisted.ensureDeferred
    async def test_an_endless_line_ends_the_stream(self, api, daemon):
        stream = await api.watch_bus(142, limit=1000)
        lines = []
        ended = stream.follow(lines.append)
        daemon.say(b'"short"\n' + b"x" * 1001)
        assert "more than 1000 bytes" in await ended
        assert lines == [b'"short"']

    @pytest_twisted.ensureDeferred
    async def test_closing_it_ends_it_without_an_error(self, api, daemon):
        stream = await api.watch_bus(142, limit=1000)
        ended = stream.follow(lambda _: None)
        stream.close()
        assert await ended is None

    @pytest_twisted.ensureDeferred
    async def test_nothing_follows_a_close_from_within(self, api, daemon):
        stream = await api.watch_bus(142, limit=1000)
        lines = []

        def once(line):
            lines.append(line)
            stream.close()

        ended = stream.follow(once)
        daemon.say(b"1\n2\n")
        await ended
        assert lines == [b"1"]

    @pytest_twisted.ensureDeferred
    async def test_a_refused_mask_is_an_error(self, api, daemon):
        daemon.replies["watch-ipn-bus"] = Reply("bad mask\n", 400)
        assert (await failure_of(api.watch_bus(-1, limit=1000))).status == 400
