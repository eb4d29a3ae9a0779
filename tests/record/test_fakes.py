"""The fakes of sinks and of the tailnet keep the promises of the seams."""

from __future__ import annotations

import pytest
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.task import Clock
from zope.interface import implementer
from zope.interface.verify import verifyObject

from tailproxy.interfaces import (
    ISessionSink,
    ISessionSinks,
    ITailnetDialer,
    IUpload,
    IUploadWatcher,
    SinkError,
)
from tailproxy.testing import FakeDialer, FakeSessionSink, FakeSessionSinks, FakeUpload
from tailproxy.wire.addresses import AddressPort

RECORDER = AddressPort.parse("100.99.99.99:80")


@implementer(IUploadWatcher)
class Watcher:
    """Notes what it is told."""

    def __init__(self):
        self.told = []

    def upload_drained(self):
        self.told.append("drained")

    def upload_failed(self, error):
        self.told.append(error.reason)


def outcome(deferred):
    results = []
    deferred.addBoth(results.append)
    return results[0] if results else "nothing yet"


def test_an_upload_tells_its_watcher_when_there_is_room_and_when_it_breaks():
    upload = FakeUpload("s-1", limit=8)
    verifyObject(IUpload, upload)
    watcher = Watcher()
    upload.watch(watcher)
    upload.stalled = True
    upload.write(b"[1]\n")
    upload.drain()
    assert watcher.told == []
    upload.write(b"[2]\n[3]\n")
    assert upload.full
    upload.drain()
    upload.fail("full disk")
    assert watcher.told == ["drained", "full disk"]
    upload.write(b"[4]\n")
    assert upload.written == b"[1]\n[2]\n[3]\n"
    assert outcome(upload.finish()).check(SinkError)


def test_an_upload_ends_when_everything_is_acknowledged():
    upload = FakeUpload("s-1")
    end = upload.finish()
    assert outcome(end) == "nothing yet"
    upload.acknowledge()
    assert outcome(end) is None


@pytest.mark.parametrize("lines", [b"half a line", b""])
def test_an_upload_takes_whole_lines_only(lines):
    with pytest.raises(AssertionError):
        FakeUpload("s-1").write(lines)


def test_a_sink_takes_refuses_or_keeps_waiting():
    sink = FakeSessionSink()
    verifyObject(ISessionSink, sink)
    assert outcome(sink.open("s-1")) is sink.uploads[0]
    sink.error = SinkError("nobody there", "100.99.99.99:80: refused")
    assert outcome(sink.open("s-2")).value.detail == "100.99.99.99:80: refused"
    sink.error, sink.hanging = None, True
    waiting, gone = sink.open("s-3"), sink.open("s-4")
    gone.addErrback(lambda _: None)
    gone.cancel()
    sink.release()
    assert outcome(waiting).session == "s-3"
    assert sink.given_up == ["s-4"]


def test_everybody_has_the_same_sink():
    sinks = FakeSessionSinks(FakeSessionSink())
    verifyObject(ISessionSinks, sinks)
    assert sinks.sink([RECORDER]) is sinks.one
    assert sinks.asked == [(RECORDER,)]


def test_a_tailnet_is_what_the_test_says():
    endpoint = TCP4ClientEndpoint(Clock(), "127.0.0.1", 1)
    dialer = FakeDialer({RECORDER: endpoint})
    verifyObject(ITailnetDialer, dialer)
    assert dialer.endpoint(RECORDER) is endpoint
    assert dialer.dialled == [RECORDER]
