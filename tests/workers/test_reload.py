"""What a reload changes, and what it leaves as it is."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred

from tailproxy.config import Document, parse
from tailproxy.metrics import Metrics
from tailproxy.schema import ConfigError
from tailproxy.workers.reload import Reloader, adopt


def config(ours: str = "", top: str = ""):
    return parse('{"Version":"v1alpha1",' + top + '"Tailproxy":{' + ours + "}}", "test")


#: What is put in, and the keys that need a restart.
LATER = {
    "nothing": ("", "", []),
    "listeners": ('"Listeners":[{"Address":"127.0.0.3:1"}]', "", ["Tailproxy.Listeners"]),
    "workers": ('"Workers":5', "", ["Tailproxy.Workers"]),
    "tailscaled": ('"Tailscaled":{"Socket":"/x"}', "", ["Tailproxy.Tailscaled.Socket"]),
    "upstream": ('"Upstream":{"Context":"x"}', "", ["Tailproxy.Upstream.Context"]),
    "admin": ('"Admin":{"Port":1}', "", ["Tailproxy.Admin"]),
    "log format": ('"Log":{"Format":"text"}', "", ["Tailproxy.Log.Format"]),
    "resolver": ('"Resolver":{"Kind":"static"}', "", ["Tailproxy.Resolver.Kind"]),
    "log level": ("", '"LogLevel":"debug",', ["LogLevel"]),
    "mode": ("", '"APIServerProxy":{"Mode":"noauth"},', ["APIServerProxy.Mode"]),
    "port of probes": ("", '"LocalPort":1,', ["LocalPort"]),
    "drain": ('"Drain":{"Streams":1}', "", []),
    "limits": ('"Limits":{"IdleSeconds":5}', "", []),
    "impersonation": ('"ClientImpersonation":"strip"', "", []),
    "service": ("", '"APIServerProxy":{"ServiceName":"svc:kube"},', []),
    "two": (
        '"Workers":5,"Drain":{"Streams":1}',
        '"LocalPort":1,',
        ["LocalPort", "Tailproxy.Workers"],
    ),
}


@pytest.mark.parametrize("case", LATER)
def test_what_the_supervisor_works_with_waits_for_a_restart(case):
    ours, top, keys = LATER[case]
    new = config(ours, top)
    adopted, later = adopt(config(), new)
    assert later == keys
    assert (adopted == new) is (not keys)
    assert adopt(config(), adopted) == (adopted, [])


def test_a_table_of_callers_can_change():
    row = '"Resolver":{"Kind":"static","Identities":[{"User":"%s"}]}'
    adopted, later = adopt(config(row % "ada"), config(row % "bob"))
    assert later == []
    assert adopted.tailproxy.resolver.identities[0].user == "bob"


class FakeSupervisor:
    """Notes what it is told, and replaces its workers when the test says so."""

    draining = False

    def __init__(self) -> None:
        self.replacements: list[Deferred] = []
        self.notes: list[str] = []

    def replace(self):
        self.replacements.append(Deferred())
        return self.replacements[-1]

    def note(self, text):
        self.notes.append(text)


class Service:
    """A configuration that the test can change, and what happens when it is read again."""

    def __init__(self) -> None:
        self.text = '{"Version":"v1alpha1"}'
        self.unusable = ""
        self.metrics = Metrics("1")
        self.supervisor = FakeSupervisor()
        self.reloader = Reloader(self.read(), self.read, self.check, self.metrics)

    def read(self) -> Document:
        return Document("test", self.text, parse(self.text, "test"))

    def check(self, _config) -> None:
        if self.unusable:
            raise ConfigError("test", self.unusable)

    def reload(self) -> Deferred:
        return self.reloader.reload(self.supervisor)

    @property
    def successful(self) -> float | None:
        name = "tailproxy_config_last_reload_successful"
        return self.metrics.registry.get_sample_value(name)


@pytest.fixture
def service():
    return Service()


def test_a_good_configuration_is_what_new_workers_start_with(service):
    service.text = '{"Version":"v1alpha1","Tailproxy":{"Drain":{"Streams":1}}}'
    service.reload()
    assert service.reloader.current.text == service.text
    assert service.reloader.first.text != service.text
    service.supervisor.replacements[0].callback(True)
    assert service.supervisor.notes == [""]
    assert service.successful == 1


@pytest.mark.parametrize("text", ["{", '{"Version":"v1alpha1","Tailproxy":{"Wokers":2}}'])
def test_a_bad_one_changes_nothing_and_that_is_told(service, text):
    before = service.reloader.current
    service.text = text
    service.reload()
    assert service.reloader.current is before
    assert service.supervisor.replacements == []
    assert service.supervisor.notes[-1].startswith("the new configuration is not used: test:")
    assert service.successful == 0


def test_one_that_names_what_cannot_be_used_is_a_bad_one(service):
    service.unusable = "cannot read the kubeconfig"
    service.reload()
    assert service.supervisor.replacements == []
    assert "cannot read the kubeconfig" in service.supervisor.notes[-1]


def test_one_with_which_workers_do_not_get_ready_is_a_bad_one(service):
    before = service.reloader.current
    service.reload()
    service.supervisor.replacements[0].callback(False)
    assert service.reloader.current is before
    assert service.successful == 0


def test_a_good_one_after_a_bad_one_is_well_again(service):
    good, service.text = service.text, "{"
    service.reload()
    service.text = good
    service.reload()
    service.supervisor.replacements[0].callback(True)
    assert service.supervisor.notes[-1] == ""
    assert service.successful == 1


def test_signals_during_a_reload_become_one_more(service):
    done = service.reload()
    for _ in range(3):
        service.reload()
    assert len(service.supervisor.replacements) == 1
    service.supervisor.replacements[0].callback(True)
    assert len(service.supervisor.replacements) == 2
    service.supervisor.replacements[1].callback(True)
    assert done.called
    assert len(service.supervisor.replacements) == 2
