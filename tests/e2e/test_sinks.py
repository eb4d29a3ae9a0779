"""Recordings that go elsewhere than to a grant's recorder: a folder, and the spool."""

from __future__ import annotations

import json
import time

import pytest

from tests.e2e.client import address_of, ask
from tests.lab.operations import Scene
from tests.lab.tailnet import CAPABILITY
from tests.record.recorder import Recorder

ECHO = ("sh", "-c", "echo hello; sleep 0.2")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {name: tmp_path_factory.mktemp(name) for name in ("casts", "spool")}


@pytest.fixture(scope="module")
def keeper(lab, proxy, folders):
    """A tailproxy that keeps recordings itself."""
    recording = {
        "Sinks": [{"Folder": str(folders["casts"])}],
        "Spool": {"Folder": str(folders["spool"])},
        "ResolveTags": True,
    }
    service = lab.start_tailproxy("serve", name="keeper", tailproxy={"Recording": recording})
    yield service
    assert service.stop() == 0, service.log.read_text()[-3000:]
    proxy.announce()


@pytest.fixture(scope="module")
def place(lab):
    node = lab.tailnet.add_node("late-recorder", tags=["tag:recorder"])
    lab.tailnet.allow("*", src="tag:k8s", dst="tag:recorder")
    yield node
    node.stop()


def files(folder):
    return sorted(path for path in folder.iterdir() if not path.name.endswith(".part"))


def until(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def output(lines):
    header, *events = map(json.loads, lines)
    assert header["kubernetes"]["PodName"] == "shell"
    return "".join(event[2] for event in events if event[1] == "o")


def test_a_session_is_kept_in_the_folder_where_no_grant_names_a_recorder(
    lab, keeper, folders, tmp_path
):
    scene = Scene.of(lab, "alice", tmp_path)
    assert scene.exec(*ECHO) == b"hello\n"
    until(lambda: files(folders["casts"]))
    (path,) = files(folders["casts"])
    assert output(path.read_bytes().splitlines()) == "hello\n"
    assert path.stat().st_mode & 0o777 == 0o600
    until(lambda: str(path) in keeper.log.read_text())


@pytest.fixture
def listener(lab, place):
    """A socket that the recorder's node leads to from its port 80."""
    listener = lab.cluster.network.open_socket()
    listener.bind(("127.0.0.1", 0))
    place.serve(80, f"127.0.0.1:{listener.getsockname()[1]}", terminate_tls=False, proxy_protocol=0)
    yield listener
    place.serve_nothing()
    listener.close()


@pytest.fixture
def demand(lab, keeper):
    """Give alice a rule in the tailnet's policy, and wait until the proxy knows."""
    before = lab.tailnet.policy
    address = address_of(lab, "alice")

    def rules():
        return ask(lab, keeper, address, "/.tailproxy/whoami").json["rules"]

    def give(rule):
        grant = {"src": ["alice@example.com"], "dst": ["tag:k8s"], "app": {CAPABILITY: [rule]}}
        lab.tailnet.edit_policy(lambda policy: policy["grants"].append(grant))
        until(rules)

    yield give
    lab.tailnet.set_policy(before)
    until(lambda: not rules())


def test_a_recorder_is_found_by_its_tag(lab, listener, demand, tmp_path):
    demand({"recorder": ["tag:recorder"], "enforceRecorder": True})
    with Recorder(listener=listener) as recorder:
        assert Scene.of(lab, "alice", tmp_path).exec(*ECHO) == b"hello\n"
        recorder.wait(lambda seen: any(each.whole for each in seen.recordings))
        (recording,) = recorder.recordings
        assert output(bytes(recording.data).splitlines()) == "hello\n"


def test_an_enforced_session_runs_with_the_spool_and_its_recording_arrives_later(
    lab, place, listener, demand, folders, tmp_path
):
    four, six = place.addresses
    addresses = [f"{four}:80", f"[{six}]:80"]
    demand({"recorderAddrs": addresses, "enforceRecorder": True})
    assert Scene.of(lab, "alice", tmp_path).exec(*ECHO) == b"hello\n"
    until(lambda: files(folders["spool"]))
    (path,) = files(folders["spool"])
    kept = path.read_bytes().splitlines()
    assert output(kept[1:]) == "hello\n"
    with Recorder(listener=listener) as recorder:
        recorder.wait(lambda seen: any(each.whole for each in seen.recordings), 60)
        (recording,) = recorder.recordings
        assert bytes(recording.data).splitlines() == kept[1:]
        assert recording.authority in addresses
        until(lambda: not files(folders["spool"]))
