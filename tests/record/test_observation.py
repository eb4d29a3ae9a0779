"""What is known of sessions that are not recorded."""

from __future__ import annotations

import json

import pytest
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from zope.interface.verify import verifyObject

from tailproxy.interfaces import IRecording, RecordedSession, ResponseHead
from tailproxy.record.observation import Observation
from tailproxy.wire.head import read_head
from tests.proxy.plane import identity
from tests.record.test_session import WEBSOCKET, frame
from tests.wire.encoders import SpdyWriter
from tests.wire.test_portforward import pair

SPDY = (b"Upgrade", b"SPDY/3.1")
FORWARD = ResponseHead(101, b"", [SPDY, (b"X-Stream-Protocol-Version", b"portforward.k8s.io")])


@pytest.fixture
def lines():
    """What is logged about connections to ports."""
    found = []

    def keep(event) -> None:
        if "port" in event and "pod" in event:
            found.append(event)

    globalLogPublisher.addObserver(keep)
    yield found
    globalLogPublisher.removeObserver(keep)


def observe(kind: str, head: ResponseHead, clock: Clock | None = None) -> Observation:
    request = read_head(
        b"POST", b"/api/v1/namespaces/prod/pods/web-0/%b" % kind.encode(), "1.1", [(b"Host", b"k")]
    )
    session = RecordedSession("r1", kind, request, identity(), enforced=False)
    observation = Observation(session, clock or Clock())
    observation.begin(head, None)
    return observation


def test_it_is_what_it_says():
    assert verifyObject(IRecording, observe("exec", WEBSOCKET))


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ({"status": "Success"}, 0),
        (
            {
                "status": "Failure",
                "reason": "NonZeroExitCode",
                "details": {"causes": [{"reason": "ExitCode", "message": "7"}]},
            },
            7,
        ),
        ({"status": "Failure", "message": "no such container"}, None),
    ],
)
def test_the_exit_code_is_known_and_the_bytes_pass_as_they_are(status, code):
    observation = observe("exec", WEBSOCKET)
    data = frame(1, b"output") + frame(3, json.dumps(status).encode())
    assert observation.down(data[:9]) == data[:9]
    assert observation.down(data[9:]) == data[9:]
    observation.ended()
    assert (observation.exit_code, observation.where) == (code, "")


def test_a_forwarded_connection_is_a_line_with_its_port_bytes_and_time(lines):
    clock = Clock()
    observation = observe("portforward", FORWARD, clock)
    up, down = SpdyWriter(), SpdyWriter()
    observation.up(pair(up, 1, "8080", "0") + up.data(3, b"ask"))
    observation.down(down.reply(1) + down.reply(3) + down.data(3, b"answer"))
    assert lines == []
    clock.advance(2.5)
    observation.up(up.data(1, last=True) + up.data(3, last=True))
    observation.down(down.data(1, last=True) + down.data(3, last=True))
    observation.ended()
    (line,) = lines
    assert (line["port"], line["received"], line["sent"], line["duration"]) == (8080, 3, 6, 2.5)
    assert (line["user"], line["pod"], line["namespace"]) == (identity().user, "web-0", "prod")
    assert (line["request_id"], line["error"]) == ("r1", "")


def test_one_that_is_cut_off_is_a_line_too(lines):
    observation = observe("portforward", FORWARD)
    observation.up(pair(SpdyWriter(), 1, "53", "0"))
    observation.ended()
    assert [line["port"] for line in lines] == [53]


@pytest.mark.parametrize("kind", ["exec", "portforward"])
def test_what_is_not_understood_passes_all_the_same(kind):
    observation = observe(kind, ResponseHead(101, b"", [(b"Upgrade", b"smtp")]))
    observation.up(b"EHLO")
    assert observation.down(b"250") == b"250"
    observation.ended()
    assert observation.exit_code is None
