"""Texts and the configurations they mean, or what is wrong with them and where."""

import json
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import attrs
import jsonschema
import pytest

from tailproxy.config import Config, LogLevel, load, parse
from tailproxy.listener_options import Endpoint, Listener, ListenerKind
from tailproxy.options import (
    Certificates,
    CertificatesFrom,
    Resolver,
    ResolverKind,
    StaticIdentity,
    Tailproxy,
)
from tailproxy.policy.decide import ClientImpersonation, Mode
from tailproxy.schema import ConfigError, Many, MisfitError, Nested, options
from tailproxy.wire.addresses import AddressPort
from tailproxy.wire.hujson import HuJSONError
from tailproxy.wire.hujson import parse as read

EXAMPLE = Path(__file__).parent.parent / "etc" / "tailproxy.hujson"

# As the Tailscale operator writes it (spec/dataplane.md 2.2).
OPERATOR = """
{"Version":"v1alpha1","AuthKey":"tskey-auth-1","State":"kube:apiserver-0","LogLevel":"info",
 "App":"k8s-operator-proxygroup-kube-apiserver","LocalPort":9002,"MetricsEnabled":null,
 "HealthCheckEnabled":true,"Hostname":"apiserver-0","AcceptRoutes":null,
 "APIServerProxy":{"Enabled":true,"Mode":"auth","ServiceName":"svc:kube-prod","IssueCerts":true}}
"""


def refusal(text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        parse(text, "test.hujson")
    return caught.value


def ours(text: str) -> Config:
    return parse('{"version":"v1alpha1","tailproxy":' + text + "}", "test.hujson")


def our_refusal(text: str) -> ConfigError:
    return refusal('{"version":"v1alpha1",\n"tailproxy":' + text + "}")


ACCEPTED = {
    "dp_C1": ('{"version":"v1alpha1","hostname":"api-0"}', {"hostname": "api-0"}),
    "dp_C2": (
        '{ // note\n"VERSION":"v1alpha1","HOSTNAME":"api-0", /*x*/ }',
        {"hostname": "api-0"},
    ),
    "dp_C4": (
        '{"version":"v2","hostname":"x","v1alpha1":{"hostname":"api-0"}}',
        {"hostname": "api-0"},
    ),
    "dp_C7": ('{"version":"v1alpha1","v1alpha1":null,"localPort":0}', {"local_port": 0}),
    "dp_C9": ('{"version":"v1alpha1","apiServerProxy":{"mode":null}}', {}),
    "dp_C12": (
        '{"version":"v1alpha1","staticEndpoints":["198.51.100.7:30001","[2001:db8::5]:30001"]}',
        {
            "static_endpoints": (
                AddressPort(IPv4Address("198.51.100.7"), 30001),
                AddressPort(IPv6Address("2001:db8::5"), 30001),
            )
        },
    ),
    "dp_C14": ('{"version":"v1alpha1","authKey":"k1","AuthKey":"k2"}', {"auth_key": "k2"}),
    "dp_C15": ('{"version":"v1alpha1","future":{"a":1}}', {}),
    "nothing-but-null": ('{"version":"v1alpha1","tailproxy":null,"localPort":null}', {}),
    "unknown-key-in-a-known-object": (
        '{"version":"v1alpha1","apiServerProxy":{"mode":"noauth","new":1}}',
        {"api_server_proxy": attrs.evolve(Config().api_server_proxy, mode=Mode.NOAUTH)},
    ),
}


@pytest.mark.parametrize(("text", "changes"), ACCEPTED.values(), ids=ACCEPTED)
def test_a_text_means_the_defaults_but_for_what_it_says(text, changes):
    assert parse(text, "test.hujson") == attrs.evolve(Config(), **changes)


# Text, key path, line, column, and parts of the message.
REFUSED = {
    "dp_C3": ('{"hostname":"api-0"}', "", 1, 1, ["no version", "v1alpha1"]),
    "dp_C5": ('{"version":"v2","hostname":"x"}', "Version", 1, 12, ['"v2"', '"v1alpha1"']),
    "dp_C6": ('{"version":"v1alpha1","v1alpha1":{}}', "v1alpha1", 1, 34, ["already"]),
    "dp_C8": (
        '{"version":"v1alpha1","apiServerProxy":{"mode":"NoAuth"}}',
        "APIServerProxy.Mode",
        1,
        48,
        ['"NoAuth"', '"auth" or "noauth"'],
    ),
    "dp_C10": (
        '{"version":"v1alpha1",\n  "healthCheckEnabled":"true"}',
        "HealthCheckEnabled",
        2,
        24,
        ['"true"', "true, false or null"],
    ),
    "dp_C11": ('{"version":"v1alpha1","localPort":65536}', "LocalPort", 1, 35, ["65536", "65535"]),
    "dp_C13": (
        '{"version":"v1alpha1","staticEndpoints":["198.51.100.7"]}',
        "StaticEndpoints[0]",
        1,
        42,
        ['"198.51.100.7"', "IP:PORT"],
    ),
    "dp_C16-empty": ("", "", 1, 1, ["the end of the text"]),
    "dp_C16-array": ("[]", "", 1, 1, ["an array", "an object"]),
    "dp_C16-trailing": ('{"version":"v1alpha1"} z', "", 1, 24, ["'z'"]),
    "null": ("null", "", 1, 1, ["no version"]),
    "only-the-sub-object": ('{"v1alpha1":{}}', "", 1, 1, ["no version"]),
    "version-null": ('{"version":null}', "", 1, 1, ["no version"]),
    "version-number": ('{"version":1}', "Version", 1, 12, ["found 1"]),
    "newer-with-null": ('{"version":"v2","v1alpha1":null}', "Version", 1, 12, ['"v2"']),
    "sub-object-is-a-list": ('{"version":"v2","v1alpha1":[]}', "v1alpha1", 1, 28, ["an array"]),
    "port-as-text": ('{"version":"v1alpha1","localPort":"80"}', "LocalPort", 1, 35, ['"80"']),
    "port-as-float": ('{"version":"v1alpha1","localPort":80.0}', "LocalPort", 1, 35, ["80.0"]),
    "port-as-truth": ('{"version":"v1alpha1","localPort":true}', "LocalPort", 1, 35, ["true"]),
    "flag-as-number": ('{"version":"v1alpha1","acceptRoutes":1}', "AcceptRoutes", 1, 38, ["1"]),
    "level": ('{"version":"v1alpha1","logLevel":"loud"}', "LogLevel", 1, 34, ['"warn"']),
}


@pytest.mark.parametrize(("text", "key", "line", "column", "parts"), REFUSED.values(), ids=REFUSED)
def test_an_error_names_the_place_and_both_sides(text, key, line, column, parts):
    error = refusal(text)
    assert (error.key, error.line, error.column) == (key, line, column)
    assert str(error).startswith(f"test.hujson:{line}:{column}: ")
    assert "\n" not in str(error)
    for part in parts:
        assert part in error.message


# Text of the object, key path, and parts of the message.
OURS_REFUSED = {
    "recorder-for-nobody": ('{"Recorder":{}}', "Tailproxy.Recorder", ["at least one"]),
    "recorder-where-others-come-in": (
        '{"Recorder":{"From":["tag:k8s"],"Address":"127.0.0.1:80"}}',
        "Tailproxy.Recorder.Address",
        ["127.0.0.2"],
    ),
    "recorder-on-a-listener": (
        '{"Recorder":{"From":["tag:k8s"],"Address":"127.0.0.2:8443"}}',
        "Tailproxy.Recorder.Address",
        ["no listener has"],
    ),
    "unknown-key": ('{"Replicas":{}}', "Tailproxy.Replicas", ["unknown key"]),
    "nearest-key": ('{"Listners":[]}', "Tailproxy.Listners", ["did you mean Listeners?"]),
    "no-near-key": (
        '{"Drain":{"zzz":1}}',
        "Tailproxy.Drain.zzz",
        ["wanted one of Requests, Streams"],
    ),
    "key-twice": ('{"Drain":{},"drain":{}}', "Tailproxy.drain", ["second time"]),
    "plugin-twice": ('{"Plugins":{"a":{},"a":{}}}', "Tailproxy.Plugins.a", ["second time"]),
    "plugin-no-object": ('{"Plugins":{"a":1}}', "Tailproxy.Plugins.a", ["an object"]),
    "no-listener": ('{"Listeners":[]}', "Tailproxy.Listeners", ["at least one"]),
    "serve-on-127.0.0.1": (
        '{"Listeners":[{"Address":"127.0.0.1:8443"}]}',
        "Tailproxy.Listeners[0].Address",
        ["other than 127.0.0.1", "forge"],
    ),
    "serve-on-mapped-127.0.0.1": (
        '{"Listeners":[{"Address":"[::ffff:127.0.0.1]:8443"}]}',
        "Tailproxy.Listeners[0].Address",
        ["IP:PORT"],
    ),
    "serve-on-a-name": (
        '{"Listeners":[{"Address":"localhost:8443"}]}',
        "Tailproxy.Listeners[0].Address",
        ['"localhost:8443"', "IP:PORT"],
    ),
    "serve-on-all": (
        '{"Listeners":[{"Address":"0.0.0.0:8443"}]}',
        "Tailproxy.Listeners[0].Address",
        ["a loopback address"],
    ),
    "serve-on-all-of-6": (
        '{"Listeners":[{"Address":"[::]:8443"}]}',
        "Tailproxy.Listeners[0].Address",
        ["a loopback address"],
    ),
    "serve-without-address": (
        '{"Listeners":[{"Address":8443}]}',
        "Tailproxy.Listeners[0].Address",
        ["found 8443", "a loopback address"],
    ),
    "serve-on-a-lan-address": (
        '{"Listeners":[{"Address":"192.0.2.1:8443"}]}',
        "Tailproxy.Listeners[0].Address",
        ["a loopback address"],
    ),
    "tailnet-on-all": (
        '{"Listeners":[{"Kind":"tailnet","Address":"0.0.0.0:443"}]}',
        "Tailproxy.Listeners[0].Address",
        ["a port alone"],
    ),
    "tailnet-tls": (
        '{"Listeners":[{"Kind":"tailnet","TLS":"tailscaled"}]}',
        "Tailproxy.Listeners[0].TLS",
        ['"own"'],
    ),
    "loopback-on-a-lan-address": (
        '{"Listeners":[{"Kind":"loopback","Address":"192.0.2.1:443"}]}',
        "Tailproxy.Listeners[0].Address",
        ["127.0.0.1"],
    ),
    "loopback-on-127.0.0.2": (
        '{"Listeners":[{"Kind":"loopback","Address":"127.0.0.2:443"}]}',
        "Tailproxy.Listeners[0].Address",
        ["127.0.0.1:PORT"],
    ),
    "redirect-elsewhere": (
        '{"Listeners":[{"Redirect":true}]}',
        "Tailproxy.Listeners[0].Redirect",
        ["the kind tailnet"],
    ),
    "same-name": (
        '{"Listeners":[{"Address":"127.0.0.2:1"},{"Address":"127.0.0.2:2"}]}',
        "Tailproxy.Listeners[1]",
        ["no Name", "a name that no other"],
    ),
    "same-address": (
        '{"Listeners":[{"Address":"127.0.0.2:1"},{"Name":"b","Address":"127.0.0.2:1"}]}',
        "Tailproxy.Listeners[1].Address",
        ["an address that no other"],
    ),
    "bad-service": (
        '{"Listeners":[{"Service":"kube"}]}',
        "Tailproxy.Listeners[0].Service",
        ["svc:kube"],
    ),
    "static-on-the-tailnet": (
        '{"Resolver":{"Kind":"static"},"Listeners":[{"Kind":"tailnet"}]}',
        "Tailproxy.Listeners[0].Kind",
        ["static resolver", "loopback listeners"],
    ),
    "identities-without-static": (
        '{"Resolver":{"Identities":[{"User":"a"}]}}',
        "Tailproxy.Resolver.Identities",
        ['the Kind "static"'],
    ),
    "identity-of-nobody": (
        '{"Resolver":{"Kind":"static","Identities":[{"Node":"a"}]}}',
        "Tailproxy.Resolver.Identities[0]",
        ["either a User or Tags"],
    ),
    "identities-of-one-address": (
        '{"Resolver":{"Kind":"static","Identities":[{"User":"a"},{"User":"b"}]}}',
        "Tailproxy.Resolver.Identities[1]",
        ["no Address", "no other row"],
    ),
    "files-without-chain": (
        '{"Certificates":{"Source":"files","Key":"k.pem"}}',
        "Tailproxy.Certificates",
        ["no Chain"],
    ),
    "key-without-files": (
        '{"Certificates":{"Key":"k.pem"}}',
        "Tailproxy.Certificates.Key",
        ['the Source "files"'],
    ),
    "names-without-tailnet": (
        '{"Certificates":{"Source":"self-signed","Names":["a"]}}',
        "Tailproxy.Certificates.Names",
        ['the Source "tailnet"'],
    ),
    "empty-path": ('{"Tailscaled":{"Socket":""}}', "Tailproxy.Tailscaled.Socket", ["the path"]),
    "negative-time": ('{"Drain":{"Requests":-1}}', "Tailproxy.Drain.Requests", ["0 or more"]),
    "huge-port": ('{"Admin":{"Port":70000}}', "Tailproxy.Admin.Port", ["65535"]),
    "list-for-object": ('{"Log":[]}', "Tailproxy.Log", ["an array", "an object"]),
    "object-for-list": ('{"Listeners":{}}', "Tailproxy.Listeners", ["an object", "a list"]),
    "object-for-text": ('{"Upstream":{"Context":{}}}', "Tailproxy.Upstream.Context", ["a string"]),
    "sink-without-a-path": (
        '{"Audit":{"Sinks":[{"Kind":"file"}]}}',
        "Tailproxy.Audit.Sinks[0]",
        ["no Path", "the path of a file"],
    ),
    "sink-without-a-url": (
        '{"Audit":{"Sinks":[{"Kind":"http"}]}}',
        "Tailproxy.Audit.Sinks[0]",
        ["no Url", "a URL"],
    ),
    "path-of-a-server": (
        '{"Audit":{"Sinks":[{"Kind":"http","Url":"http://x/","Path":"a"}]}}',
        "Tailproxy.Audit.Sinks[0].Path",
        ['the Kind "file"'],
    ),
    "token-for-a-file": (
        '{"Audit":{"Sinks":[{"Kind":"file","Path":"a","TokenFile":"t"}]}}',
        "Tailproxy.Audit.Sinks[0].TokenFile",
        ['the Kind "http"'],
    ),
    "url-with-a-password": (
        '{"Audit":{"Sinks":[{"Kind":"http","Url":"https://a:b@x/"}]}}',
        "Tailproxy.Audit.Sinks[0].Url",
        ["without a password"],
    ),
    "sinks-of-one-name": (
        '{"Audit":{"Sinks":[{"Kind":"file","Path":"a"},{"Kind":"file","Path":"b"}]}}',
        "Tailproxy.Audit.Sinks[1]",
        ["a name that no other sink has"],
    ),
    "sinks-of-one-file": (
        '{"Audit":{"Sinks":[{"Kind":"file","Path":"a"},{"Name":"b","Kind":"file","Path":"a"}]}}',
        "Tailproxy.Audit.Sinks[1].Path",
        ["a file that no other sink has"],
    ),
    "port-out-of-range": (
        '{"Listeners":[{"Address":"127.0.0.2:65536"}]}',
        "Tailproxy.Listeners[0].Address",
        ["IP:PORT"],
    ),
}


@pytest.mark.parametrize(("text", "key", "parts"), OURS_REFUSED.values(), ids=OURS_REFUSED)
def test_our_own_object_refuses_what_cannot_work(text, key, parts):
    error = our_refusal(text)
    assert error.key == key
    assert error.line == 2
    for part in parts:
        assert part in error.message


def test_an_unknown_key_is_shown_where_the_key_stands():
    error = refusal('{"version":"v1alpha1","tailproxy":{\n  "Replicas": {}}}')
    assert (error.line, error.column) == (2, 3)


def test_a_long_value_is_cut_in_the_error():
    error = our_refusal(json.dumps({"ClientImpersonation": "x" * 500}))
    assert len(str(error)) < 200


def test_a_secret_is_neither_in_an_error_nor_in_the_repr():
    error = refusal('{"version":"v1alpha1","AuthKey":["tskey-secret"]}')
    assert "tskey-secret" not in str(error)
    config = parse('{"version":"v1alpha1","AuthKey":"tskey-secret"}', "test.hujson")
    assert config.auth_key == "tskey-secret"
    assert "tskey-secret" not in repr(config)


def test_the_operators_configuration_is_enough():
    config = parse(OPERATOR, "operator")
    assert config.api_server_proxy.service_name == "svc:kube-prod"
    assert config.log_level is LogLevel.INFO
    assert config.admin_enabled
    (listener,) = config.tailproxy.listeners
    assert listener.kind is ListenerKind.SERVE
    assert listener.endpoint == Endpoint(IPv4Address("127.0.0.2"), 8443)
    assert not listener.own_tls


def test_the_default_address_of_a_listener_follows_its_kind():
    config = ours('{"Listeners":[{"Kind":"tailnet"},{"Kind":"loopback"}]}')
    tailnet, loopback = config.tailproxy.listeners
    assert (str(tailnet.endpoint), tailnet.label, tailnet.own_tls) == ("443", "tailnet", True)
    assert (str(loopback.endpoint), loopback.label) == ("127.0.0.1:443", "loopback")


@pytest.mark.parametrize(
    ("value", "endpoint"),
    [
        ('"127.0.0.3:1"', Endpoint(IPv4Address("127.0.0.3"), 1)),
        ('"[::1]:8443"', Endpoint(IPv6Address("::1"), 8443)),
        ('"127.0.0.2:0"', Endpoint(IPv4Address("127.0.0.2"), 0)),
    ],
)
def test_an_address_is_a_literal_one_with_a_port(value, endpoint):
    config = ours('{"Listeners":[{"Address":%s}]}' % value)  # noqa: UP031 - braces
    assert config.tailproxy.listeners[0].endpoint == endpoint
    assert json.dumps(str(endpoint)) == value


@pytest.mark.parametrize(
    "value", ['"::1:1"', '"[127.0.0.2]:1"', '"127.0.0.2:"', '"127.0.0.2:-1"', "true", "-1", "1.5"]
)
def test_an_address_is_nothing_else(value):
    error = our_refusal('{"Listeners":[{"Kind":"tailnet","Address":%s}]}' % value)  # noqa: UP031
    assert error.key == "Tailproxy.Listeners[0].Address"


def test_the_static_resolver_serves_any_loopback_address():
    config = ours(
        '{"Resolver":{"Kind":"static","Identities":[{"Address":"::1","User":"dev@example.com",'
        '"Groups":["g"]},{"Address":"127.0.0.5","Tags":["tag:ci"],"Node":"ci.x.ts.net"}]},'
        '"Listeners":[{"Kind":"loopback","Address":"127.0.0.9:0"}]}'
    )
    assert config.tailproxy.resolver == Resolver(
        ResolverKind.STATIC,
        (
            StaticIdentity(IPv6Address("::1"), "dev@example.com", ("g",)),
            StaticIdentity(IPv4Address("127.0.0.5"), node="ci.x.ts.net", tags=("tag:ci",)),
        ),
    )


def test_a_plugin_gets_its_object_as_it_stands():
    config = ours('{"Plugins":{"hello":{"Greeting":["hi",1,null,{"a":true}]}}}')
    assert config.tailproxy.plugins == {"hello": {"Greeting": ["hi", 1, None, {"a": True}]}}


def test_keys_of_our_own_match_in_any_case():
    config = ours('{"clientimpersonation":"strip"}')
    assert config.tailproxy.client_impersonation is ClientImpersonation.STRIP


@pytest.mark.parametrize("text", ["{}", '{"Admin":{}}', '{"Admin":null}'])
def test_the_admin_port_opens_when_it_is_asked_for(text):
    assert ours(text).admin_enabled == ("{}}" in text)


def test_values_made_by_hand_are_checked_too():
    with pytest.raises(MisfitError, match=r"other than 127\.0\.0\.1"):
        Listener(address=Endpoint(IPv4Address("127.0.0.1"), 8443))
    with pytest.raises(MisfitError, match="PEM file"):
        Certificates(CertificatesFrom.FILES)
    with pytest.raises(MisfitError, match="at least one"):
        Tailproxy(listeners=())


def test_the_example_shows_the_defaults():
    assert load(str(EXAMPLE)).config == Config()


def _keys(cls: type):
    for _, entry in options(cls):
        yield entry.key
        kind = entry.kind.kind if isinstance(entry.kind, Many) else entry.kind
        if isinstance(kind, Nested):
            yield from _keys(kind.cls)


def test_the_example_names_every_key():
    text = EXAMPLE.read_text(encoding="utf-8")
    missing = [key for key in _keys(Config) if f'"{key}":' not in text]
    assert missing == []


def test_every_option_says_in_a_sentence_what_it_does():
    def entries(cls):
        for _, entry in options(cls):
            yield entry
            kind = entry.kind.kind if isinstance(entry.kind, Many) else entry.kind
            if isinstance(kind, Nested):
                yield from entries(kind.cls)

    assert [entry.key for entry in entries(Config) if not entry.doc.endswith(".")] == []


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match="No such file") as caught:
        load(str(tmp_path / "missing.hujson"))
    assert str(caught.value).startswith(str(tmp_path / "missing.hujson"))


@pytest.mark.parametrize(
    "source", ["kube:ops-config", "kube:/x", "kube:x/"], ids="dp_C17-{}".format
)
def test_a_secret_needs_a_namespace_and_a_name(source):
    with pytest.raises(ConfigError, match="wanted kube:NAMESPACE/NAME"):
        load(source)


def test_a_secret_is_not_taken_for_a_file():
    with pytest.raises(ConfigError, match="mount it"):
        load("kube:ops/config")


def test_a_file_that_is_not_utf_8_is_refused(tmp_path):
    path = tmp_path / "bad.hujson"
    path.write_bytes(b'{"version":"\xff"}')
    with pytest.raises(ConfigError, match="UTF-8"):
        load(str(path))


def test_keys_that_nothing_heeds_are_named_when_they_are_set():
    text = """{"Version": "v1alpha1", "AuthKey": "k", "Hostname": "api-0", "LocalPort": 1,
        "AcceptRoutes": null, "APIServerProxy": {"IssueCerts": true, "Mode": "auth"}}"""
    assert parse(text, "x").unheeded == ("AuthKey", "Hostname", "APIServerProxy.IssueCerts")


@pytest.fixture(scope="module")
def schema() -> jsonschema.Draft7Validator:
    schema = json.loads((EXAMPLE.parent / "tailproxy.schema.json").read_text("utf-8"))
    jsonschema.Draft7Validator.check_schema(schema)
    return jsonschema.Draft7Validator(schema)


class TestJSONSchema:
    # What the schema cannot know, since it sees one value at a time or is stricter than need be:
    # keys that repeat, rules between two options, numbers that JSON Schema takes for whole ones.
    BEYOND = frozenset(
        (
            "files-without-chain",
            "recorder-for-nobody",
            "recorder-on-a-listener",
            "recorder-where-others-come-in",
            "identities-of-one-address",
            "identities-without-static",
            "identity-of-nobody",
            "key-twice",
            "key-without-files",
            "loopback-on-127.0.0.2",
            "loopback-on-a-lan-address",
            "names-without-tailnet",
            "no-listener",
            "path-of-a-server",
            "plugin-twice",
            "port-as-float",
            "port-out-of-range",
            "redirect-elsewhere",
            "same-address",
            "same-name",
            "serve-on-127.0.0.1",
            "serve-on-a-lan-address",
            "serve-on-all",
            "serve-on-all-of-6",
            "serve-on-mapped-127.0.0.1",
            "sink-without-a-path",
            "sink-without-a-url",
            "sinks-of-one-file",
            "sinks-of-one-name",
            "token-for-a-file",
            "serve-without-address",
            "static-on-the-tailnet",
            "tailnet-on-all",
            "tailnet-tls",
        )
    )

    @classmethod
    def spelled(cls, value, kind):
        """The same with each known key as the schema spells it."""
        if isinstance(kind, Many) and isinstance(value, list):
            return [cls.spelled(each, kind.kind) for each in value]
        if not (isinstance(kind, Nested) and isinstance(value, dict)):
            return value
        known = {entry.key.lower(): entry for _, entry in options(kind.cls)}
        found = {}
        for key, inner in value.items():
            if key.lower() in known:
                entry = known[key.lower()]
                found[entry.key] = cls.spelled(inner, entry.kind)
            else:
                found["Version" if key.lower() == "version" else key] = inner
        return found

    def errors(self, schema, text):
        value = self.spelled(read(text).plain(), Nested(Config))
        return [error.message for error in schema.iter_errors(value)]

    def test_the_example_fits(self, schema):
        assert self.errors(schema, EXAMPLE.read_text("utf-8")) == []

    @pytest.mark.parametrize("name", sorted(set(ACCEPTED) - {"dp_C4"}))
    def test_what_is_accepted_fits(self, schema, name):
        assert self.errors(schema, ACCEPTED[name][0]) == []

    def test_the_operators_configuration_fits(self, schema):
        assert self.errors(schema, OPERATOR) == []

    @pytest.mark.parametrize("name", sorted({*REFUSED, *OURS_REFUSED}))
    def test_what_is_refused_for_its_shape_does_not_fit(self, schema, name):
        text = REFUSED[name][0] if name in REFUSED else OURS_REFUSED[name][0]
        if name in OURS_REFUSED:
            text = '{"Version":"v1alpha1","Tailproxy":' + text + "}"
        try:
            errors = self.errors(schema, text)
        except HuJSONError:
            return  # not even HuJSON, which an editor says by itself
        assert bool(errors) == (name not in self.BEYOND)

    def test_it_knows_every_key_and_no_other(self, schema):
        def keys(shape):
            for key, inner in shape.get("properties", {}).items():
                yield key
                for kind in inner.get("anyOf", ()):
                    yield from keys(kind.get("items", kind))

        assert sorted(keys(schema.schema)) == sorted([*_keys(Config), "Version", "v1alpha1"])
