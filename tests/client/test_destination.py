"""Who is meant: the golden cases about the tailnet, and what else people say."""

from __future__ import annotations

import pytest

from tailproxy.client.destination import DestinationError, resolve

SUFFIX = "corp-cat.ts.net"
NAME = f"kube-prod.{SUFFIX}"


def node(name: str, *addresses: str, **more) -> dict:
    return {"DNSName": name and f"{name}.", "TailscaleIPs": list(addresses), "Online": True, **more}


def tailnet(*nodes: dict, records=(), state: str = "Running") -> dict:
    """A status as tailscaled gives it."""
    return {
        "BackendState": state,
        "CurrentTailnet": {"MagicDNSSuffix": SUFFIX},
        "Self": node(f"laptop.{SUFFIX}", "100.64.0.9"),
        "Peer": {f"nodekey:{number}": each for number, each in enumerate(nodes)} or None,
        "ExtraRecords": [{"Name": name, "Value": value} for name, value in records],
    }


SERVICE = tailnet(
    node("host.corp-cat.ts.net", "100.64.0.1", AllowedIPs=["100.64.0.1/32", "100.99.1.1/32"]),
    node("gone.corp-cat.ts.net", "100.64.0.2", Online=False),
    records=[(NAME, "100.99.1.1")],
)
UNREACHED = tailnet(
    node("host.corp-cat.ts.net", "100.64.0.1", AllowedIPs=["100.64.0.1/32"]),
    {"DNSName": "bare.corp-cat.ts.net."},
    records=[(f"{NAME}.", "100.99.1.1")],
)
NODES = tailnet(
    node(f"node-3.{SUFFIX}", "100.64.0.3", "fd7a:115c:a1e0::3"),
    node("node-3.other.ts.net", "100.64.0.4"),
    node(f"kube.{SUFFIX}", "100.64.0.5"),
    node("", "100.64.0.6"),
)


class TestGolden:
    """spec/dataplane.md 10.6; K14 as design.md section 7 decides."""

    def test_dp_K13_a_schemes_beats_the_option_and_case_does_not_count(self):
        found = resolve("https://Kube-Prod", SERVICE, http=True)
        assert (found.url, found.name, found.warnings) == (f"https://{NAME}", NAME, ())

    def test_dp_K14_a_service_that_no_node_has_now_is_warned_of(self):
        found = resolve("kube-prod", UNREACHED)
        assert found.url == f"https://{NAME}"
        (warning,) = found.warnings
        assert "is in MagicDNS, and no node" in warning

    def test_dp_K15_an_address_of_a_service_becomes_its_name(self):
        assert resolve("100.99.1.1", SERVICE).url == f"https://{NAME}"

    @pytest.mark.parametrize("dot", ["", "."])
    def test_dp_K16_a_first_label_becomes_the_full_name(self, dot):
        status = tailnet(node(f"node-3.{SUFFIX}", "100.64.0.3"))
        found = resolve(f"node-3{dot}", status)
        assert (found.url, found.warnings) == (f"https://node-3.{SUFFIX}", ())

    def test_dp_K17_a_port_is_taken(self):
        found = resolve("kube-prod:8443", SERVICE)
        assert (found.url, found.name) == (f"https://{NAME}:8443", f"{NAME}:8443")

    @pytest.mark.parametrize("state", ["Stopped", "NeedsLogin", "Starting"])
    def test_dp_K18_a_tailscaled_that_is_not_connected_is_an_error(self, state):
        with pytest.raises(DestinationError, match=f"its state is {state}.*tailscale up"):
            resolve(NAME, tailnet(state=state))


class TestArgument:
    @pytest.mark.parametrize(
        ("argument", "url"),
        [
            (NAME, f"https://{NAME}"),
            (f"  {NAME}.  ", f"https://{NAME}"),
            (f"HTTP://{NAME}", f"http://{NAME}"),
            (f"https://{NAME}:443/", f"https://{NAME}"),
            (f"http://{NAME}:443", f"http://{NAME}:443"),
            (f"http://{NAME}:80", f"http://{NAME}"),
            (f"https://me:secret@{NAME}", f"https://{NAME}"),
            ("svc:kube-prod", f"https://{NAME}"),
            (f"svc:{NAME}", f"https://{NAME}"),
            ("svc:kube-prod:6443", f"https://{NAME}:6443"),
            ("100.99.1.1:6443", f"https://{NAME}:6443"),
            ("host", f"https://host.{SUFFIX}"),
            ("laptop", f"https://laptop.{SUFFIX}"),
        ],
    )
    def test_it_is_a_url_or_a_name_with_or_without_port(self, argument, url):
        found = resolve(argument, SERVICE)
        assert (found.url, found.warnings) == (url, ())

    def test_the_option_decides_where_there_is_no_scheme(self):
        assert resolve("kube-prod", SERVICE, http=True).url == f"http://{NAME}"

    @pytest.mark.parametrize("argument", ["fd7a:115c:a1e0::3", "[fd7a:115c:a1e0::3]:443"])
    def test_ipv6_addresses_may_be_in_brackets(self, argument):
        assert resolve(argument, NODES).url == f"https://node-3.{SUFFIX}"

    def test_what_does_not_count_is_told(self):
        (warning,) = resolve(f"https://{NAME}/api?x=y", SERVICE).warnings
        assert "only the host" in warning

    @pytest.mark.parametrize(
        "argument",
        [
            "",
            " ",
            "http://",
            "ftp://foo",
            "//foo",
            "svc:",
            "svc:100.99.1.1",
            "https://%zz",
            "foo:bar",
            "foo:99999",
            "https://[fd7a::1",
            "a..b",
            "-a",
            "a b",
            "a\nb",
            f"{'a' * 64}.ts.net",
        ],
    )
    def test_what_names_no_host_is_refused(self, argument):
        with pytest.raises(DestinationError, match=r"names no host|is no URL"):
            resolve(argument, SERVICE)


class TestTailnet:
    def test_a_full_name_comes_before_first_labels(self):
        assert resolve(f"node-3.{SUFFIX}", NODES).url == f"https://node-3.{SUFFIX}"

    def test_a_label_that_several_have_is_refused_with_their_names(self):
        with pytest.raises(
            DestinationError, match=rf"any of node-3\.{SUFFIX}, node-3\.other\.ts\.net; give"
        ):
            resolve("node-3", NODES)

    def test_a_node_and_a_service_of_one_label_are_two(self):
        status = tailnet(node("kube.other.ts.net"), records=[(f"kube.{SUFFIX}", "100.99.1.1")])
        with pytest.raises(DestinationError, match="may be any of"):
            resolve("kube", status)
        assert resolve("svc:kube", status).host == f"kube.{SUFFIX}"

    def test_a_service_is_reached_if_one_of_its_addresses_is(self):
        status = tailnet(
            node("host.ts.net", AllowedIPs=["fd7a:115c:a1e0::1/128"]),
            records=[(NAME, "100.99.1.1"), (NAME, "fd7a:115c:a1e0::1"), (NAME, "no address")],
        )
        assert resolve("kube-prod", status).warnings == ()

    def test_a_node_that_is_offline_is_warned_of(self):
        assert resolve("gone", SERVICE).warnings == (f"the node gone.{SUFFIX} is offline",)

    def test_a_full_name_that_is_not_seen_is_taken_with_a_warning(self):
        found = resolve("https://Elsewhere.example.com", SERVICE)
        assert found.url == "https://elsewhere.example.com"
        assert "does not see" in found.warnings[0]

    def test_a_service_that_is_not_seen_is_taken_with_a_warning(self):
        found = resolve("svc:new", SERVICE)
        assert found.url == f"https://new.{SUFFIX}"
        assert "does not see" in found.warnings[0]

    def test_a_label_that_is_not_seen_is_refused_with_a_next_step(self):
        with pytest.raises(DestinationError, match=rf"called 'new'; .*new\.{SUFFIX} is taken"):
            resolve("new", SERVICE)

    def test_an_address_that_nobody_has_is_refused(self):
        with pytest.raises(DestinationError, match=r"has 100\.99\.9\.9"):
            resolve("100.99.9.9", SERVICE)

    def test_an_address_without_a_name_is_refused(self):
        with pytest.raises(DestinationError, match=r"100\.64\.0\.6 has no name.*MagicDNS"):
            resolve("100.64.0.6", NODES)

    def test_a_tailnet_of_one_has_no_peers(self):
        assert resolve("laptop", tailnet()).url == f"https://laptop.{SUFFIX}"


class TestAlone:
    """Without tailscaled."""

    def test_a_full_name_is_taken_with_a_warning(self):
        found = resolve(NAME, None, unknown="there is no socket /s")
        assert found.url == f"https://{NAME}"
        assert found.warnings == (f"nobody checked the name {NAME}: there is no socket /s",)

    @pytest.mark.parametrize("argument", ["kube-prod", "svc:kube-prod", "100.99.1.1", "fd7a::1"])
    def test_what_only_tailscaled_knows_is_refused_with_a_next_step(self, argument):
        with pytest.raises(DestinationError, match="there is no socket /s; give the full name"):
            resolve(argument, None, unknown="there is no socket /s")
