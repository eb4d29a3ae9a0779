"""Several recorders: in which order they are tried, and what is remembered of them."""

from __future__ import annotations

import pytest
from zope.interface.verify import verifyObject

from tailproxy.interfaces import ISessionSink, SinkError
from tailproxy.record.recorders import Recorders
from tests.record.recorder import Manners
from tests.record.wires import A6, HEADER, A, B, C, Result, Tailnet, Watcher


def recorders_of(tailnet):
    return Recorders(tailnet.clock, tailnet, 1 << 20)


def opened(recorders, tailnet, *addresses):
    result = Result(recorders.sink(addresses).open("s-1"))
    tailnet.pump()
    return result


def test_the_first_that_takes_it_has_it():
    tailnet = Tailnet(B, C)
    recorders = recorders_of(tailnet)
    verifyObject(ISessionSink, recorders.sink([A]))
    assert opened(recorders, tailnet, A, B, C).value.place == "100.64.0.2:80"
    assert tailnet.dialled == [A, B]


def test_each_address_counts_once():
    tailnet = Tailnet()
    opened(recorders_of(tailnet), tailnet, A, B, A, B)
    assert tailnet.dialled == [A, B]


def test_no_address_at_all_is_a_refusal():
    tailnet = Tailnet()
    assert opened(recorders_of(tailnet), tailnet).error.reason == "there is no recorder"


def test_none_takes_it_and_the_log_says_why_of_each():
    tailnet = Tailnet(B)
    tailnet.manners[B] = Manners(post_status=503)
    error = opened(recorders_of(tailnet), tailnet, A, B).error
    assert isinstance(error, SinkError)
    assert error.reason == "none of 2 recorders takes it"
    assert "100.64.0.1:80 cannot be reached" in error.detail
    assert "100.64.0.2:80 answers 503" in error.detail


def test_a_single_recorder_speaks_for_itself():
    tailnet = Tailnet(A)
    tailnet.manners[A] = Manners(post_status=503)
    assert opened(recorders_of(tailnet), tailnet, A).error.reason == "the recorder answers 503"


def test_dead_ones_are_tried_last_for_30_seconds():
    tailnet = Tailnet(B, C)
    recorders = recorders_of(tailnet)
    opened(recorders, tailnet, A, B)
    tailnet.dialled.clear()
    tailnet.clock.advance(29)
    opened(recorders, tailnet, A, C, B)
    assert tailnet.dialled == [B]
    del tailnet.manners[B]
    opened(recorders, tailnet, A, B, C)
    assert tailnet.dialled == [B, B, C]
    tailnet.dialled.clear()
    tailnet.clock.advance(2)
    del tailnet.manners[C]
    opened(recorders, tailnet, A, B, C)
    assert tailnet.dialled == [C, A, B]


def test_dead_ones_are_tried_all_the_same_when_there_is_no_other():
    tailnet = Tailnet()
    recorders = recorders_of(tailnet)
    opened(recorders, tailnet, A)
    opened(recorders, tailnet, A)
    assert tailnet.dialled == [A, A]


def test_the_one_that_worked_last_is_tried_first():
    tailnet = Tailnet(B)
    recorders = recorders_of(tailnet)
    opened(recorders, tailnet, A, B)
    tailnet.wait(100)
    tailnet.dialled.clear()
    opened(recorders, tailnet, A, B)
    assert tailnet.dialled == [B]


def test_one_that_failed_in_the_middle_is_not_tried_first_again():
    tailnet = Tailnet(A, B)
    recorders = recorders_of(tailnet)
    upload = opened(recorders, tailnet, A, B).value
    watcher = Watcher()
    upload.watch(watcher)
    tailnet.manners[A].trouble = "reset"
    upload.write(HEADER)
    tailnet.pump()
    assert watcher.told == ["the recorder has given the recording up"]
    assert opened(recorders, tailnet, A, B).value.place == "100.64.0.2:80"
    assert tailnet.dialled == [A, B]


def test_one_recording_that_is_left_says_nothing_about_the_recorder():
    tailnet = Tailnet(A, B)
    recorders = recorders_of(tailnet)
    opened(recorders, tailnet, A, B).value.abandon()
    assert opened(recorders, tailnet, A, B).value.place == "100.64.0.1:80"


class TestTwoAddresses:
    def test_the_other_one_is_tried_after_300_milliseconds(self):
        tailnet = Tailnet(A6)
        tailnet.unreachable.add(A)
        result = Result(recorders_of(tailnet).sink([A, A6]).open("s-1"))
        tailnet.clock.advance(0.29)
        assert tailnet.dialled == [A]
        tailnet.clock.advance(0.01)
        tailnet.pump()
        assert result.value.place == "[fd7a:115c:a1e0::1]:80"
        assert tailnet.given_up == [A]

    def test_not_once_there_is_a_connection(self):
        tailnet = Tailnet(A, A6)
        tailnet.manners[A].silent = "post"
        Result(recorders_of(tailnet).sink([A, A6]).open("s-1"))
        tailnet.pump()
        tailnet.wait(9)
        assert tailnet.dialled == [A]
        tailnet.wait(1)
        assert tailnet.dialled == [A, A6]

    def test_at_once_when_the_first_refuses(self):
        tailnet = Tailnet(A6)
        assert opened(recorders_of(tailnet), tailnet, A, A6).value
        assert tailnet.dialled == [A, A6]
        assert not tailnet.clock.getDelayedCalls()[1:]

    def test_another_recorder_is_not_tried_beside_them(self):
        tailnet = Tailnet()
        tailnet.unreachable.update([A, A6, B])
        Result(recorders_of(tailnet).sink([A, A6, B]).open("s-1"))
        tailnet.wait(5.2, step=0.1)
        assert tailnet.dialled == [A, A6]
        tailnet.wait(0.2, step=0.1)
        assert tailnet.dialled == [A, A6, B]


def test_all_of_them_have_30_seconds_together():
    tailnet = Tailnet(A, B, C)
    for manners in tailnet.manners.values():
        manners.silent = "post"
    addresses = [A, B, C, *(A.parse(f"100.64.1.{n}:80") for n in range(3))]
    tailnet.unreachable.update(addresses[3:])
    result = Result(recorders_of(tailnet).sink(addresses).open("s-1"))
    tailnet.wait(29.9, step=0.1)
    assert not result.done
    tailnet.wait(0.2, step=0.1)
    assert result.error.reason == "none of 6 recorders takes it within 30 s"
    assert "100.64.0.1:80 is not ready within 10 s" in result.error.detail
    tailnet.pump()
    assert all(wire.lost for wire in tailnet.wires)
    assert not tailnet.clock.getDelayedCalls()


@pytest.mark.parametrize("silent", ["accept", "head", "post"])
def test_who_does_not_wait_any_more_leaves_no_connection(silent):
    tailnet = Tailnet(A)
    tailnet.manners[A].silent = silent
    opening = recorders_of(tailnet).sink([A]).open("s-1")
    opening.addErrback(lambda _: None)
    tailnet.pump()
    opening.cancel()
    tailnet.pump()
    assert tailnet.wires[0].lost
    assert not tailnet.clock.getDelayedCalls()
    assert tailnet.dialled == [A]
