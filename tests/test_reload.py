"""When a configuration is read again, and what becomes of a bad one."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from tailproxy.config import load, parse
from tailproxy.interfaces import IReadinessCheck
from tailproxy.metrics import Metrics
from tailproxy.reload import PERIOD, Reloader, changed_keys
from tailproxy.schema import ConfigError

GOOD = '{"Version":"v1alpha1"}'
BETTER = '{"Version":"v1alpha1","LogLevel":"debug"}'


def config(ours: str = "", top: str = ""):
    return parse('{"Version":"v1alpha1",' + top + '"Tailproxy":{' + ours + "}}", "test")


@pytest.mark.parametrize(
    ("ours", "top", "keys"),
    [
        ("", "", []),
        ('"Workers":5', "", ["Tailproxy.Workers"]),
        ('"Admin":{"Port":1}', "", ["Tailproxy.Admin"]),
        ('"Upstream":{"Context":"x"}', "", ["Tailproxy.Upstream.Context"]),
        ("", '"AuthKey":"tskey-secret",', ["AuthKey"]),
        (
            '"Drain":{"Streams":1}',
            '"LogLevel":"warn","APIServerProxy":{"Mode":"noauth"},',
            ["LogLevel", "APIServerProxy.Mode", "Tailproxy.Drain.Streams"],
        ),
    ],
)
def test_what_has_changed_is_named_by_its_keys(ours, top, keys):
    assert changed_keys(config(), config(ours, top)) == keys


class Service:
    """A file, and a service that takes up what is in it as the test says."""

    def __init__(self, folder) -> None:
        self.path = folder / "tailproxy.hujson"
        self.path.write_text(GOOD)
        self.other = folder / "kubeconfig"
        self.metrics = Metrics("1")
        self.clock = Clock()
        self.adopted: list[str] = []
        self.answers: list = []
        self.reloader = Reloader(
            load(str(self.path)),
            lambda: load(str(self.path)),
            lambda _: [self.path, self.other],
            self.adopt,
            self.metrics,
            self.clock,
            lambda: 1000 + self.clock.seconds(),
        )
        self.reloader.startService()

    async def adopt(self, document) -> None:
        self.adopted.append(document.text)
        if self.answers:
            await self.answers.pop(0)

    def passes(self, looks: int) -> None:
        for _ in range(looks):
            self.clock.advance(PERIOD)

    def metric(self, name: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"tailproxy_config_last_reload_{name}")


@pytest.fixture
def service(tmp_path):
    service = Service(tmp_path)
    yield service
    service.reloader.stopService()
    assert service.clock.getDelayedCalls() == []


def test_it_is_what_it_says(service):
    assert verifyObject(IReadinessCheck, service.reloader)


def test_a_file_that_stays_as_it_is_is_left_alone(service):
    service.passes(5)
    assert service.adopted == []


def test_a_change_is_taken_up_when_it_has_settled(service):
    service.path.write_text(BETTER[:-5])
    service.passes(1)
    service.path.write_text(BETTER)
    service.passes(1)
    assert service.adopted == []
    service.passes(1)
    assert service.adopted == [BETTER]
    assert service.reloader.current.text == BETTER
    service.passes(5)
    assert service.adopted == [BETTER]


def test_a_symbolic_link_that_is_switched_is_a_change(service, tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    (tmp_path / "one" / "file").write_text(GOOD)
    (tmp_path / "two" / "file").write_text(BETTER)
    (tmp_path / "data").symlink_to("one")
    service.path.unlink()
    service.path.symlink_to("data/file")
    service.passes(3)
    assert service.adopted == []
    (tmp_path / "new").symlink_to("two")
    (tmp_path / "new").rename(tmp_path / "data")
    service.passes(2)
    assert service.adopted == [BETTER]


def test_a_change_of_another_file_that_it_names_is_one_too(service):
    service.other.write_text("new")
    service.passes(2)
    assert service.adopted == [GOOD]


def test_a_signal_does_not_wait_and_the_look_behind_it_finds_nothing_new(service):
    service.path.write_text(BETTER)
    assert service.reloader.reload().called
    assert service.adopted == [BETTER]
    service.passes(5)
    assert service.adopted == [BETTER]


def test_the_time_of_the_last_good_one_is_told(service):
    assert service.metric("success_timestamp_seconds") == 1000
    service.clock.advance(0.5)
    service.reloader.reload()
    assert service.metric("success_timestamp_seconds") == 1000.5


BAD = {
    "no HuJSON": "{",
    "a wrong key": '{"Version":"v1alpha1","Tailproxy":{"Wokers":2}}',
    "gone": None,
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_one_changes_nothing_and_that_is_told(service, what):
    before = service.reloader.current
    if BAD[what] is None:
        service.path.unlink()
    else:
        service.path.write_text(BAD[what])
    service.passes(10)
    assert service.adopted == []
    assert service.reloader.current is before
    assert service.metric("successful") == 0
    assert service.metric("success_timestamp_seconds") == 1000
    result = service.reloader.check()
    assert result.ok
    assert f"the new one is not used: {service.path}" in result.detail


async def _fails(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ConfigError("file", "cannot listen"), "not used: file: cannot listen"),
        (ZeroDivisionError("oh"), "not used: ZeroDivisionError('oh')"),
    ],
)
def test_one_that_cannot_be_taken_up_is_a_bad_one(service, error, told):
    service.answers.append(_fails(error))
    service.path.write_text(BETTER)
    service.reloader.reload()
    assert service.reloader.current.text == GOOD
    assert told in service.reloader.check().detail
    assert service.metric("successful") == 0


def test_a_good_one_after_a_bad_one_is_well_again(service):
    service.path.write_text("{")
    service.passes(2)
    service.path.write_text(GOOD)
    service.passes(2)
    assert service.adopted == [GOOD]
    assert service.metric("successful") == 1
    assert "not used" not in service.reloader.check().detail


def test_signals_while_one_is_taken_up_become_one_more(service):
    slow = Deferred()
    service.answers.append(slow)
    service.reloader.reload()
    for _ in range(3):
        service.reloader.reload()
    assert len(service.adopted) == 1
    service.answers.append(succeed(None))
    slow.callback(None)
    assert len(service.adopted) == 2


def test_nothing_is_taken_up_any_more_when_the_service_ends(service):
    slow = Deferred()
    service.answers.append(slow)
    service.reloader.reload()
    service.reloader.reload()
    service.reloader.stopService()
    slow.callback(None)
    assert len(service.adopted) == 1
