"""Lines on their way to a place that may be slow or away."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent

from tailproxy.audit.delivery import (
    BATCH_BYTES,
    BROKEN_AFTER,
    FIRST_WAIT,
    GATHER_SECONDS,
    LAST_SECONDS,
    LONGEST_WAIT,
    CarrierError,
    Delivery,
)
from tailproxy.metrics import Metrics

LIMIT = 4 * BATCH_BYTES


class Place:
    """Takes batches, or waits, or fails, as it is told."""

    def __init__(self) -> None:
        self.taken: list[bytes] = []
        self.tried = 0
        self.error: Exception | None = None
        self.hold: Deferred[None] | None = None
        self.closed = False

    def carry(self, lines: bytes) -> Deferred[None]:
        self.tried += 1
        if self.hold is not None:
            return self.hold
        if self.error is not None:
            return fail(self.error)
        self.taken.append(lines)
        return succeed(None)

    def close(self) -> None:
        self.closed = True

    @property
    def lines(self) -> list[str]:
        return b"".join(self.taken).decode().splitlines()


@pytest.fixture
def place() -> Place:
    return Place()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics("test")


@pytest.fixture
def delivery(place, clock, metrics) -> Delivery:
    return Delivery("there", place, LIMIT, clock, metrics)


@pytest.fixture
def counted(metrics):
    def count(what: str) -> float:
        name = f"tailproxy_audit_{what}_total"
        return metrics.registry.get_sample_value(name, {"sink": "there"}) or 0.0

    return count


def test_lines_go_together_in_their_order_a_moment_later(delivery, place, clock, counted):
    for number in range(3):
        delivery.put(f"{number}\n")
    assert place.taken == []
    clock.advance(GATHER_SECONDS)
    assert place.taken == [b"0\n1\n2\n"]
    delivery.put("3\n")
    clock.advance(GATHER_SECONDS)
    assert place.taken == [b"0\n1\n2\n", b"3\n"]
    assert (counted("lines"), counted("dropped")) == (4, 0)
    assert clock.getDelayedCalls() == []


def test_full_batch_goes_at_once_and_alone(delivery, place, clock):
    line = "x" * (BATCH_BYTES - 1) + "\n"
    delivery.put(line)
    delivery.put("y\n")
    assert place.taken == []  # a request must not wait for it
    clock.advance(0)
    assert [len(batch) for batch in place.taken] == [BATCH_BYTES]
    clock.advance(GATHER_SECONDS)
    assert place.lines[-1] == "y"


def test_lines_that_fill_a_batch_do_not_wait_for_others(delivery, place, clock):
    delivery.put("y\n")
    clock.advance(GATHER_SECONDS / 2)
    for _ in range(BATCH_BYTES // 1024):
        delivery.put("x" * 1023 + "\n")
    clock.advance(0)
    assert place.tried == 1


def test_one_batch_is_under_way_at_a_time(delivery, place, clock):
    hold = place.hold = Deferred()
    delivery.put("1\n")
    clock.advance(GATHER_SECONDS)
    delivery.put("2\n")
    clock.advance(10 * GATHER_SECONDS)
    assert place.tried == 1
    place.hold = None
    hold.callback(None)
    clock.advance(GATHER_SECONDS)
    assert (place.tried, place.lines) == (2, ["2"])


def test_what_does_not_fit_is_dropped_and_counted(delivery, place, clock, counted):
    hold = place.hold = Deferred()
    line = "x" * 1023 + "\n"
    for _ in range(2 * LIMIT // 1024):
        delivery.put(line)
    assert counted("dropped") == LIMIT // 1024
    place.hold = None
    hold.callback(None)
    clock.pump([GATHER_SECONDS] * 10)
    assert counted("lines") == LIMIT // 1024
    delivery.put("again\n")
    clock.advance(GATHER_SECONDS)
    assert place.lines[-1] == "again"


def test_failing_place_is_left_alone_longer_and_longer_and_loses_nothing(
    delivery, place, clock, counted
):
    place.error = OSError("full")
    delivery.put("1\n")
    clock.advance(GATHER_SECONDS)
    wait = FIRST_WAIT
    for tried in range(1, 12):
        assert place.tried == tried
        delivery.put(f"{tried + 1}\n")
        clock.advance(wait * 0.99)
        assert place.tried == tried
        clock.advance(wait * 0.011)
        wait = min(2 * wait, LONGEST_WAIT)
    assert counted("failures") == 12
    place.error = None
    clock.advance(LONGEST_WAIT)
    clock.advance(GATHER_SECONDS)
    assert place.lines == [str(number) for number in range(1, 13)]
    assert counted("dropped") == 0


def test_broken_place_is_told_of_once_and_its_return_too(delivery, place, clock):
    place.error = OSError("no space left")
    with capturedLogs() as events:
        delivery.put("1\n")
        clock.advance(GATHER_SECONDS)
        clock.pump([LONGEST_WAIT] * (BROKEN_AFTER + 3))
        place.error = None
        clock.advance(LONGEST_WAIT)
    told = [formatEvent(event) for event in events]
    assert told[0].startswith("audit sink there takes no lines: no space left; 2 bytes wait")
    assert told[1:] == ["audit sink there takes lines again"]


def test_what_was_taken_of_a_batch_does_not_go_again(delivery, place, clock, counted):
    place.error = CarrierError("full", taken=4)
    delivery.put("1\n")
    delivery.put("2\n")
    delivery.put("3\n")
    clock.advance(GATHER_SECONDS)
    place.error = None
    clock.advance(FIRST_WAIT)
    assert place.taken == [b"3\n"]
    assert counted("lines") == 3


def test_batch_that_is_never_taken_makes_way_for_the_next(delivery, place, clock, counted):
    place.error = CarrierError("the server answered with status 413", hopeless=True)
    with capturedLogs() as events:
        delivery.put("1\n")
        delivery.put("2\n")
        clock.advance(GATHER_SECONDS)
    assert [formatEvent(event) for event in events] == [
        "audit sink there refuses 2 lines: the server answered with status 413"
    ]
    place.error = None
    delivery.put("3\n")
    clock.advance(GATHER_SECONDS)
    assert place.lines == ["3"]
    assert (counted("dropped"), counted("failures"), counted("lines")) == (2, 1, 1)


class TestEnd:
    def test_what_waits_is_delivered(self, delivery, place, clock, counted):
        delivery.put("1\n")
        done = delivery.close()
        clock.advance(0)
        assert (place.lines, place.closed) == (["1"], True)
        assert done.called
        delivery.put("2\n")
        assert counted("dropped") == 1
        assert clock.getDelayedCalls() == []

    def test_with_nothing_left_it_is_over_at_once(self, delivery, place):
        assert delivery.close().called
        assert place.closed

    def test_place_that_hangs_is_waited_for_no_longer_than_stated(
        self, delivery, place, clock, counted
    ):
        place.hold = Deferred()
        delivery.put("1\n")
        clock.advance(GATHER_SECONDS)
        delivery.put("2\n")
        done = delivery.close()
        clock.advance(LAST_SECONDS * 0.99)
        assert not done.called
        clock.advance(LAST_SECONDS * 0.02)
        assert done.called
        assert place.closed
        assert counted("dropped") == 2

    def test_place_that_fails_is_tried_once_more(self, delivery, place, clock, counted):
        place.error = OSError("full")
        delivery.put("1\n")
        clock.advance(GATHER_SECONDS)
        done = delivery.close()
        clock.advance(0)
        assert done.called
        assert (place.tried, counted("dropped")) == (2, 1)
        assert clock.getDelayedCalls() == []
