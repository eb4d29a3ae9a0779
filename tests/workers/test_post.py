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


def test_somebody_elses_end_is_not_its_business(place):
    place.post.left(FakeWorker(), "exit status 0")
    place.clock.advance(60)
    assert place.post.holder is place.started[0]
    assert len(place.started) == 1


def test_a_closed_place_stays_empty(place):
    place.post.left(place.post.holder, "exit status 0")
    place.post.close()
    place.clock.advance(60)
    assert len(place.started) == 1
