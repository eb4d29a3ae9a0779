"""Sessions are recorded at a recorder on the tailnet; what must be and cannot be does not run."""

from __future__ import annotations

import base64
import json
import re
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.e2e.client import ask
from tests.lab.kubectl import Terminal
from tests.lab.operations import Kubectl, Scene
from tests.record.recorder import Manners, Recorder

PODS = "/api/v1/namespaces/default/pods"
SPDY = [("Connection", "Upgrade"), ("Upgrade", "SPDY/3.1")]
HELD_TO_SPDY = {"KUBECTL_REMOTE_COMMAND_WEBSOCKETS": "false"}
#: By name: the version of kubectl, and what makes it choose a protocol.
CLIENTS = {"spdy": ("1.27", {}), "websocket": ("1.36", {}), "new-spdy": ("1.36", HELD_TO_SPDY)}


@pytest.fixture(params=CLIENTS)
def scene(lab, tmp_path, request):
    version, environment = CLIENTS[request.param]
    made = Scene.of(lab, "alice", tmp_path, version=version)
    kubectl = made.kubectl
    return Scene(
        Kubectl(kubectl.words, {**kubectl.env, **environment}, kubectl.network),
        made.folder,
        made.write_log,
    )


def whole(recorder: Recorder, number: int = 1):
    """The recordings, once that many have ended."""
    recorder.wait(lambda seen: sum(each.whole for each in seen.recordings) >= number)
    return recorder.recordings


def shown(recording) -> str:
    """What the user saw."""
    return "".join(line[2] for line in recording.lines[1:] if line[1] == "o")


def audited(proxy, before: int, count: int = 1) -> list[dict]:
    """Lines of the audit trail about exec, once there are so many."""
    deadline = time.monotonic() + 10
    while True:
        lines = [json.loads(line) for line in proxy.log.read_text().splitlines()[before:]]
        access = [line for line in lines if line["logger"] == "tailproxy.access"]
        found = [line for line in access if line["path"].endswith("/exec")]
        if len(found) >= count:
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


@pytest.mark.parametrize("enforced", [True, False], ids=["enforced", "fail-open"])
def test_a_session_is_recorded_as_its_user_saw_it(proxy, demand, recorder, scene, enforced):
    before = len(proxy.log.read_text().splitlines())
    demand(recorder.address, enforced=enforced)
    done = scene.kubectl.run(
        "exec", scene.pod, "--", "sh", "-c", "echo hello; echo wörld >&2; sleep 0.2"
    )
    assert (done.returncode, done.stdout, done.stderr.decode()) == (0, b"hello\n", "wörld\n")
    (recording,) = whole(recorder)
    assert recording.version == 2
    header = recording.lines[0]
    assert header["srcNodeUser"] == "alice@example.com"
    assert header["kubernetes"]["PodName"] == "shell"
    assert header["command"] == "sh -c echo hello; echo wörld >&2; sleep 0.2"
    assert sorted(shown(recording).splitlines()) == ["hello", "wörld"]
    (line,) = audited(proxy, before)
    assert line["recorded"] == recorder.address
    assert header["tailproxy"]["request"] == line["request_id"]


def test_a_terminal_is_recorded_with_its_sizes(demand, recorder, scene):
    demand(recorder.address)
    with Terminal(scene.kubectl, "exec", "-it", scene.pod, "--", "sh", rows=31, columns=97) as tty:
        tty.expect(rb"[$#] ")
        tty.type(b"echo $((6*7))\r")
        tty.expect(rb"\b42\r?\n")
        tty.resize(40, 120)
        time.sleep(0.3)
        tty.type(b"exit\r")
    (recording,) = whole(recorder)
    header = recording.lines[0]
    assert (header["width"], header["height"]) == (97, 31)
    assert "42" in shown(recording)
    assert [line[2] for line in recording.lines[1:] if line[1] == "r"] == ["120x40"]


@pytest.mark.node
def test_the_exit_code_is_recorded_and_audited(proxy, demand, recorder, scene):
    before = len(proxy.log.read_text().splitlines())
    demand(recorder.address)
    done = scene.kubectl.run("exec", scene.pod, "--", "sh", "-c", "exit 7")
    assert done.returncode == 7
    (recording,) = whole(recorder)
    assert recording.lines[-1][1:] == ["m", "exit 7"]
    (line,) = audited(proxy, before)
    assert line["exit_code"] == 7


def test_a_recorder_of_the_first_version_does_too(demand, recorder, scene):
    recorder.manners.versions = (1,)
    demand(recorder.address)
    assert scene.exec("sh", "-c", "echo hello; sleep 0.2") == b"hello\n"
    (recording,) = whole(recorder)
    assert (recording.version, shown(recording)) == (1, "hello\n")


def test_without_a_recorder_in_the_grant_nothing_goes(lab, proxy, demand):
    """dp_R4"""
    address = demand("")
    answer = ask(lab, proxy, address, PODS)
    assert answer.status == 403
    assert "enforceRecorder" in answer.json["message"]


class TestNobodyThere:
    def test_an_enforced_session_does_not_run(self, demand, place, scene, tmp_path):
        demand(f"{place.addresses[0]}:1")
        mark = tmp_path / "ran"
        done = scene.kubectl.run("exec", scene.pod, "--", "touch", str(mark))
        assert done.returncode != 0
        assert b"must be recorded" in done.stderr
        assert place.addresses[0].encode() not in done.stderr
        assert not mark.exists()
        # What is no session goes on.
        assert scene.kubectl.run("get", "pods").returncode == 0

    def test_another_one_goes_on_and_that_is_told(self, proxy, demand, place, scene):
        before = len(proxy.log.read_text().splitlines())
        demand(f"{place.addresses[0]}:1", enforced=False)
        assert scene.exec("sh", "-c", "echo hello; sleep 0.2") == b"hello\n"
        (line,) = audited(proxy, before)
        assert line["recorded"] == ""
        assert line["reason"]


class TestMidSession:
    def test_an_enforced_session_ends_with_a_word(self, demand, recorder, scene):
        demand(recorder.address)
        with scene.kubectl.running("exec", "-i", scene.pod, "--", "cat") as session:
            session.write(b"one\n")
            session.until(rb"^one\n")
            recorder.cut()
            started = time.monotonic()
            assert session.process.wait(10) != 0
            assert time.monotonic() - started < 5
            assert b"must be recorded" in session.errors()

    def test_another_one_is_untouched(self, demand, recorder, scene):
        demand(recorder.address, enforced=False)
        with scene.kubectl.running("exec", "-i", scene.pod, "--", "cat") as session:
            for number in range(6):
                session.write(b"line %d\n" % number)
                session.until(rb"^line %d\n" % number)
                if number == 2:
                    recorder.cut()
                    recorder.wait(lambda seen: len(seen.recordings) == 2)
        _, second = recorder.recordings
        recorder.wait(lambda _: second.whole)
        assert "line 5" in shown(second)
        assert second.lines[1][1] == "m"


#: What a recorder does once it has the header and a few lines.
TROUBLES = ["error", "end", "reset", "goaway", "garbage", "cut"]


@pytest.mark.parametrize("trouble", TROUBLES)
class TestTrouble:
    def test_an_enforced_session_ends_with_a_word(self, demand, recorder, scene, trouble):
        recorder.manners = Manners(trouble=trouble, after=1500)
        demand(recorder.address)
        # Without a buffer there is nothing left to write when kubectl has gone.
        words = ("exec", "-i", scene.pod, "--", "cat")
        with scene.kubectl.running(*words, bufsize=0) as session:
            started = time.monotonic()
            for number in range(200):
                with suppress(BrokenPipeError):
                    session.write(b"line %d\n" % number)
                time.sleep(0.01)
                if session.process.poll() is not None:
                    break
            assert session.process.wait(10) != 0
            assert time.monotonic() - started < 10
            assert b"must be recorded" in session.errors()

    def test_another_one_is_untouched(self, demand, recorder, scene, trouble):
        recorder.manners = Manners(trouble=trouble, after=1500)
        demand(recorder.address, enforced=False)
        with scene.kubectl.running("exec", "-i", scene.pod, "--", "cat") as session:
            for number in range(150):
                session.write(b"line %d\n" % number)
                session.until(rb"^line %d\n" % number)


@pytest.mark.parametrize("method", ["POST", "GET"])
@pytest.mark.parametrize(
    "path",
    [
        "/shell/exec?command=true&stdout=true",
        "/shell/exec/?command=true&stdout=true",
        "/shell%2Fexec?command=true&stdout=true",
        "/shell/%65xec?command=true&stdout=true",
        "/shell/attach?stdout=true",
    ],
)
def test_a_session_is_recorded_however_it_is_spelled(lab, proxy, demand, recorder, path, method):
    """dp_T3: by what the API server would run, not by the bytes of the path."""
    address = demand(recorder.address)
    headers = [*SPDY, ("X-Stream-Protocol-Version", "v4.channel.k8s.io")]
    answer = ask(lab, proxy, address, PODS + path, headers, method=method)
    probes = [request for request in recorder.seen.requests if request[1] == "POST"]
    assert len(probes) == 1, (answer.status, recorder.seen.requests)


def test_output_by_way_of_a_node_is_refused(lab, proxy, demand, recorder):
    address = demand(recorder.address)
    nodes = lab.cluster.api.call("GET", "/api/v1/nodes")["items"]
    path = f"/api/v1/nodes/{nodes[0]['metadata']['name']}/proxy/run/default/shell/shell?cmd=id"
    answer = ask(lab, proxy, address, path, method="POST")
    assert answer.status == 403
    assert re.search(r"cannot be recorded", answer.json["message"])
    assert recorder.recordings == []


class EventRecorder(ThreadingHTTPServer):
    """Takes request events.

    :ivar events: what it took.
    :ivar status: what it answers to one.
    """

    def __init__(self, listener) -> None:
        super().__init__(listener.getsockname(), EventHandler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.server_activate()
        self.events: list[dict] = []
        self.status = 200


class EventHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(200)

    def do_POST(self) -> None:
        self.server.events.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self._answer(self.server.status)

    def _answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Not on the test's output."""


@pytest.fixture
def event_recorder(lab, place):
    listener = lab.cluster.network.open_socket()
    listener.bind(("127.0.0.1", 0))
    with EventRecorder(listener) as server:
        server.address = f"{place.addresses[0]}:{listener.getsockname()[1]}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join(5)


class TestEvents:
    def test_each_request_is_reported_with_its_body(self, lab, demand, event_recorder):
        demand(event_recorder.address, enableEvents=True)
        made = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "reported"}}
        done = lab.kubectl("alice", "create", "-f", "-", stdin=json.dumps(made))
        assert done.returncode == 0, done.stderr
        lab.kubectl("alice", "delete", "configmap", "reported")
        created = [e for e in event_recorder.events if e["request"]["method"] == "POST"]
        (event,) = created
        assert event["kubernetes"]["Verb"] == "create"
        assert event["source"]["nodeUser"] == "alice@example.com"
        body = json.loads(base64.b64decode(event["request"]["body"]))
        assert body["metadata"]["name"] == "reported"

    def test_what_is_not_taken_does_not_run(self, lab, proxy, demand, event_recorder):
        address = demand(event_recorder.address, enableEvents=True)
        event_recorder.status = 500
        answer = ask(lab, proxy, address, PODS)
        assert answer.status == 403
        assert "must be told" in answer.json["message"]

    def test_beside_a_request_nothing_waits(self, lab, proxy, demand, event_recorder):
        address = demand(event_recorder.address, enforced=False, enableEvents=True)
        event_recorder.status = 500
        assert ask(lab, proxy, address, PODS).status == 200
