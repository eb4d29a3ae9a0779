"""Recordings as objects: whole or not there, out of the spool."""

from __future__ import annotations

import sys

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred

from tailproxy.interfaces import SinkError
from tailproxy.record.bucket import Bucket
from tailproxy.record.sinks import Sinks
from tailproxy.record.threads import Threads
from tailproxy.recording_options import Recording, Sink, SinkKind, Spool
from tailproxy.schema import ConfigError
from tailproxy.testing import FakeDialer
from tests.record.s3 import S3
from tests.record.wires import HEADER


@pytest.fixture
def service(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with S3() as service:
        yield service


@pytest.fixture
def threads():
    threads = Threads(reactor)
    threads.startService()
    yield threads
    pytest_twisted.blockon(threads.stopService())


def options(url, **more):
    return Sink(kind=SinkKind.S3, bucket="casts", endpoint=url, region="eu-1", **more)


@pytest.fixture
def bucket(service, threads):
    return Bucket(reactor, threads, options(service.url, prefix="lab/"), 1 << 20)


@pytest_twisted.ensureDeferred
async def test_a_recording_is_one_object_in_one_request(service, bucket):
    upload = await bucket.open("s-1")
    assert upload.place.startswith("s3://casts/lab/2")
    assert upload.place.endswith("Z-s-1.cast")
    upload.write(HEADER)
    upload.write(b"[1]\n")
    assert service.objects == {}
    await upload.finish()
    key = upload.place.removeprefix("s3:/")
    assert service.objects == {key: HEADER + b"[1]\n"}
    assert service.types[key] == "application/x-asciicast"
    assert service.requests == [f"PUT {key}"]
    assert service.signed[0].startswith("Credential=key/")
    assert "/eu-1/s3/" in service.signed[0]


@pytest_twisted.ensureDeferred
async def test_a_long_one_is_sent_in_parts(service, bucket):
    upload = await bucket.open("s-1")
    line = b"x" * ((1 << 16) - 1) + b"\n"
    for _ in range(200):
        while upload.full:
            turn = Deferred()
            reactor.callLater(0, turn.callback, None)
            await turn
        upload.write(line)
    assert service.objects == {}
    await upload.finish()
    (data,) = service.objects.values()
    assert data == line * 200
    assert len(service.requests) == 5


@pytest_twisted.ensureDeferred
async def test_one_that_is_given_up_is_no_object(service, bucket):
    upload = await bucket.open("s-1")
    upload.write(HEADER)
    upload.abandon()
    await bucket._run(lambda: None)
    assert service.objects == {}


@pytest.mark.parametrize("status", [403, 404])
@pytest_twisted.ensureDeferred
async def test_a_refusal_is_an_error_that_does_not_name_the_key(service, bucket, status):
    service.refusing = status
    upload = await bucket.open("s-1")
    upload.write(HEADER)
    with pytest.raises(SinkError) as caught:
        await upload.finish()
    assert caught.value.reason == "the bucket cannot be written"
    assert "secret" not in caught.value.detail
    assert service.objects == {}


@pytest_twisted.ensureDeferred
async def test_it_is_written_out_of_the_spool_and_waits_there(service, threads, tmp_path):
    recording = Recording(sinks=(options(service.url),), spool=Spool(folder=tmp_path))
    service.refusing = 403
    sinks = Sinks(reactor, threads, FakeDialer({}), recording)
    upload = await sinks.sink([]).open("s-1")
    assert upload.place.startswith(str(tmp_path))
    upload.write(HEADER)
    await upload.finish()
    sinks.startService()
    while not service.requests:
        await threads(lambda: None)
    await sinks.stopService()
    assert len(list(tmp_path.iterdir())) == 1
    service.refusing = None
    sinks.startService()
    while list(tmp_path.iterdir()):
        await threads(lambda: None)
    await sinks.stopService()
    assert list(service.objects.values()) == [HEADER]


def test_what_is_missing_is_said_before_anything_starts(monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(ConfigError, match=r"install tailproxy\[s3\]"):
        Bucket(reactor, None, options("http://127.0.0.1"), 1)


def test_what_the_library_cannot_use_is_said_before_anything_starts(monkeypatch):
    monkeypatch.setenv("AWS_CHECKSUM_ALGORITHM", "md4")
    with pytest.raises(ConfigError, match="cannot use the bucket"):
        Bucket(reactor, None, options("http://127.0.0.1"), 1)
