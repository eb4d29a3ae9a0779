"""A worker's place, in time that only the tests move."""

import pytest
from twisted.internet.task import Clock

from tailproxy.workers.post import Post


class FakeWorker:
    pid = 1


class Place:
    """A post, and all the workers that were started for it."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.started: list[FakeWorker] = []
        self.restarts = 0
        self.broken = False
        self.post = Post(self.clock, 3, self.launch, self.restarted)

    def launch(self, number: int) -> FakeWorker:
        assert number == 3
        if self.broken:
            raise OSError(11, "Resource temporarily unavailable")
        self.started.append(FakeWorker())
        return self.started[-1]

    def restarted(self) -> None:
        self.restarts += 1


@pytest.fixture
def place():
    found = Place()
    found.post.fill()
    return found


def test_a_worker_that_ends_is_started_again_with_longer_and_longer_waits(place):
    for wait in (0.1, 0.2, 0.4):
        place.post.left(place.post.holder, "signal SIGKILL")
        assert place.post.holder is None
        before = len(place.started)
        place.clock.advance(wait - 0.01)
        assert len(place.started) == before
        place.clock.advance(0.02)
        assert place.post.holder is place.started[before]
    assert place.restarts == 3


def test_a_worker_that_ran_for_a_minute_is_started_again_at_once(place):
    for _ in range(6):
        place.post.left(place.post.holder, "exit status 1")
        place.clock.advance(10)
    place.clock.advance(60)
    place.post.left(place.post.holder, "exit status 1")
    place.clock.advance(0.11)
    assert place.post.holder is place.started[-1]


def test_a_system_without_room_for_a_process_is_asked_again(place):
    place.broken = True
    place.post.left(place.post.holder, "exit status 1")
    place.clock.advance(0.11)
    assert place.post.holder is None
    place.broken = False
    place.clock.advance(0.21)
    assert place.post.holder is place.started[1]


def test_a_place_is_handed_over_when_the_new_worker_is_ready(place):
    old = place.post.holder
    taken = place.post.hand_over()
    new = place.started[1]
    assert (place.post.holder, place.post.heir) == (old, new)
    assert place.post.ready(new) is old
    assert (place.post.holder, place.post.heir) == (new, None)
    assert taken.result is True
    place.post.left(old, "exit status 0")
    place.clock.advance(60)
    assert len(place.started) == 2


def test_a_new_worker_that_does_not_get_ready_leaves_the_old_one_in_place(place):
    old = place.post.holder
    taken = place.post.hand_over()
    place.post.left(place.started[1], "exit status 1")
    assert taken.result is False
    assert (place.post.holder, place.post.heir) == (old, None)
    assert place.clock.getDelayedCalls() == []


def test_an_old_worker_that_dies_meanwhile_is_replaced_by_the_new_one_alone(place):
    taken = place.post.hand_over()
    place.post.left(place.started[0], "signal SIGKILL")
    place.clock.advance(60)
    assert len(place.started) == 2
    assert place.post.ready(place.started[1]) is None
    assert taken.result is True
    assert place.post.holder is place.started[1]


def test_when_both_have_died_the_place_is_filled_again(place):
    place.post.hand_over()
    place.post.left(place.started[0], "signal SIGKILL")
    place.post.left(place.started[1], "exit status 1")
    place.clock.advance(0.11)
    assert place.post.holder is place.started[2]


def test_no_process_for_the_new_worker_leaves_the_old_one_in_place(place):
    place.broken = True
    assert place.post.hand_over().result is False
    assert place.post.holder is place.started[0]


def test_a_closed_place_stays_empty(place):
    place.post.left(place.post.holder, "exit status 0")
    place.post.close()
    place.clock.advance(60)
    assert len(place.started) == 1


def test_closing_ends_the_wait_for_a_new_worker(place):
    taken = place.post.hand_over()
    place.post.close()
    assert taken.result is False
