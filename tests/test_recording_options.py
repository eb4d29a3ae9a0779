"""The object `Recording`: what it may hold, and what each kind of sink demands."""

from __future__ import annotations

from pathlib import Path

import pytest

from tailproxy.config import parse
from tailproxy.recording_options import OnFailure, Recording, Sink, SinkKind, Spool
from tailproxy.schema import ConfigError
from tailproxy.wire.addresses import AddressPort


def recording(text):
    whole = f'{{"Version":"v1alpha1","Tailproxy":{{"Recording":{text}}}}}'
    return parse(whole, "test.hujson").tailproxy.recording


def refusal(text):
    with pytest.raises(ConfigError) as caught:
        recording(text)
    return caught.value


def test_nothing_is_kept_here_unless_it_is_said():
    found = recording("{}")
    assert found == Recording()
    assert found.sinks == ()
    assert found.spool is None
    assert found.on_failure is OnFailure.OPEN
    assert (found.queue_bytes, found.header_seconds, found.resolve_tags) == (1 << 20, 2.0, False)


def test_sinks_are_of_three_kinds():
    found = recording(
        """{"Sinks": [
            {"Kind": "recorder", "Addresses": ["100.99.99.99:80", "[fd7a:115c:a1e0::1]:80"]},
            {"Folder": "/var/lib/casts"},
            {"Kind": "s3", "Bucket": "casts", "Prefix": "lab/", "Region": "eu-central-1",
             "Endpoint": "https://minio.example.com:9000"},
        ], "Spool": {"Folder": "/spool", "Bytes": 1048576, "Age": 60}, "OnFailure": "closed"}"""
    )
    addresses = map(AddressPort.parse, ("100.99.99.99:80", "[fd7a:115c:a1e0::1]:80"))
    assert found.sinks == (
        Sink(SinkKind.RECORDER, addresses=tuple(addresses)),
        Sink(SinkKind.FOLDER, folder=Path("/var/lib/casts")),
        Sink(
            SinkKind.S3,
            bucket="casts",
            prefix="lab/",
            region="eu-central-1",
            endpoint="https://minio.example.com:9000",
        ),
    )
    assert found.spool == Spool(Path("/spool"), 1 << 20, 60.0)
    assert found.on_failure is OnFailure.CLOSED


@pytest.mark.parametrize(
    ("sink", "key", "wanted"),
    [
        ("{}", "", "the path of a folder"),
        ('{"Kind":"recorder"}', "", "the address of a recorder"),
        ('{"Kind":"s3"}', "", "the name of a bucket"),
        ('{"Folder":"/x","Bucket":"b"}', ".Bucket", 'the Kind "s3"'),
        ('{"Folder":"/x","Addresses":["100.64.0.1:80"]}', ".Addresses", 'the Kind "recorder"'),
        ('{"Kind":"s3","Bucket":"b","Folder":"/x"}', ".Folder", 'the Kind "folder"'),
        ('{"Folder":"/x","Prefix":"p"}', ".Prefix", 'the Kind "s3"'),
        ('{"Folder":"/x","Endpoint":"https://x"}', ".Endpoint", 'the Kind "s3"'),
        ('{"Folder":"/x","Region":"x"}', ".Region", 'the Kind "s3"'),
        ('{"Kind":"recorder","Addresses":["recorder:80"]}', ".Addresses[0]", "IP:PORT"),
        ('{"Kind":"s3","Bucket":"b","Endpoint":"minio:9000"}', ".Endpoint", "a URL"),
    ],
)
def test_each_kind_has_what_it_needs_and_nothing_of_the_others(sink, key, wanted):
    error = refusal(f'{{"Sinks":[{sink}],"Spool":{{}}}}')
    assert error.key == f"Tailproxy.Recording.Sinks[0]{key}"
    assert wanted in str(error)


def test_a_bucket_needs_a_spool():
    error = refusal('{"Sinks":[{"Kind":"s3","Bucket":"b"}]}')
    assert error.key == "Tailproxy.Recording.Sinks[0].Kind"
    assert "Recording.Spool" in str(error)


@pytest.mark.parametrize(
    "text",
    [
        '{"Spool":{"Bytes":1}}',
        '{"Spool":{"Age":1}}',
        '{"QueueBytes":1}',
        '{"HeaderSeconds":-1}',
        '{"OnFailure":"maybe"}',
        '{"Sink":[]}',
    ],
)
def test_anything_else_is_refused(text):
    assert refusal(text).key.startswith("Tailproxy.Recording")
