"""Which sink a session is recorded at, with real threads, files and sockets."""

from __future__ import annotations

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import maybeDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from zope.interface.verify import verifyObject

from tailproxy.config import parse
from tailproxy.interfaces import ISessionSinks, SinkError
from tailproxy.record.sinks import FirstOf, Sinks
from tailproxy.record.threads import Threads
from tailproxy.testing import FakeDialer, FakeSessionSink
from tests.record.recorder import Manners, Recorder
from tests.record.wires import HEADER, A, B, Result

NOBODY = TCP4ClientEndpoint(reactor, "127.0.0.1", 9)


@pytest.fixture
def made():
    """Makes what a configuration says; it is stopped in the end."""
    threads = Threads(reactor)
    threads.startService()
    services = [threads]

    def make(options, endpoints):
        text = f'{{"Version":"v1alpha1","Tailproxy":{{"Recording":{options}}}}}'
        recording = parse(text, "test.hujson").tailproxy.recording
        sinks = Sinks(reactor, threads, FakeDialer(endpoints), recording)
        verifyObject(ISessionSinks, sinks)
        sinks.startService()
        services.append(sinks)
        return sinks

    yield make
    for service in reversed(services):
        pytest_twisted.blockon(maybeDeferred(service.stopService))


async def record(sink, session="s-1"):
    upload = await sink.open(session)
    upload.write(HEADER)
    upload.write(b"[1]\n")
    await upload.finish()
    return upload.place


def only(folder):
    (path,) = folder.iterdir()
    return path.read_bytes()


def test_without_recorders_and_sinks_there_is_none(made):
    assert made("{}", {}).sink([]) is None


def test_a_spool_alone_is_none(made, tmp_path):
    assert made(f'{{"Spool":{{"Folder":"{tmp_path}"}}}}', {}).sink([]) is None


@pytest_twisted.ensureDeferred
async def test_grants_decide_where_they_name_a_recorder(made, tmp_path):
    with Recorder() as recorder:
        sinks = made(
            f'{{"Sinks":[{{"Folder":"{tmp_path}"}}]}}',
            {A: TCP4ClientEndpoint(reactor, "127.0.0.1", recorder.port)},
        )
        assert await record(sinks.sink([A])) == "100.64.0.1:80"
        assert recorder.recordings[0].data == HEADER + b"[1]\n"
        assert list(tmp_path.iterdir()) == []


@pytest_twisted.ensureDeferred
async def test_the_configurations_sinks_are_for_all_others(made, tmp_path):
    sinks = made(
        f"""{{"Sinks":[
            {{"Kind":"recorder","Addresses":["{B}"]}},
            {{"Folder":"{tmp_path / "file"}"}},
            {{"Folder":"{tmp_path / "folder"}"}},
        ]}}""",
        {B: NOBODY},
    )
    (tmp_path / "file").write_text("")
    place = await record(sinks.sink([]))
    assert place.startswith(str(tmp_path / "folder"))
    assert only(tmp_path / "folder") == HEADER + b"[1]\n"


@pytest_twisted.ensureDeferred
async def test_the_spool_takes_what_nobody_takes_and_sends_it_later(made, tmp_path):
    with Recorder(Manners(post_status=503)) as recorder:
        options = f'{{"Spool":{{"Folder":"{tmp_path}"}}}}'
        endpoints = {A: TCP4ClientEndpoint(reactor, "127.0.0.1", recorder.port)}
        sinks = made(options, endpoints)
        assert (await record(sinks.sink([A]))).startswith(str(tmp_path))
        assert recorder.recordings == []
        recorder.manners.post_status = 200
        await sinks.stopService()
        made(options, endpoints)
        while list(tmp_path.iterdir()):
            await sinks._run(lambda: None)
        assert recorder.recordings[0].data == HEADER + b"[1]\n"
        assert recorder.recordings[0].whole


def test_when_nobody_takes_it_all_reasons_are_given():
    sinks = [FakeSessionSink(), FakeSessionSink()]
    for sink, reason in zip(sinks, ("the recorder is silent", "the spool is full"), strict=True):
        sink.error = SinkError(reason, f"{reason}!")
    error = Result(FirstOf(sinks).open("s-1")).error
    assert error.reason == "the recorder is silent, and the spool is full"
    assert error.detail == "the recorder is silent!; the spool is full!"


def test_who_does_not_wait_any_more_is_not_passed_on():
    first, second = FakeSessionSink(), FakeSessionSink()
    first.hanging = True
    opening = FirstOf([first, second]).open("s-1")
    opening.addErrback(lambda _: None)
    opening.cancel()
    assert first.given_up == ["s-1"]
    assert second.uploads == []
