"""Who gets a connection."""

import socket

import pytest
from zope.interface.verify import verifyObject

from tailproxy.interfaces import IDoor
from tailproxy.workers.balance import UNSENT_AT_MOST, Dispatcher, PassingDoor


class FakeWorker:
    def __init__(self, load: int = 0) -> None:
        self.load = load
        self.unsent = 0
        self.taken: list[tuple[str, object]] = []

    def take(self, listener, connection):
        self.load += 1
        self.taken.append((listener, connection))


@pytest.fixture
def held():
    return []


@pytest.fixture
def dispatcher(held):
    found = Dispatcher(held.append)
    yield found
    found.close()


@pytest.fixture
def connection():
    """Make connections; all are closed with the test."""
    made = []

    def make() -> socket.socket:
        made.extend(socket.socketpair())
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_the_one_with_the_fewest_connections_gets_the_next(dispatcher, connection):
    busy, idle = FakeWorker(5), FakeWorker(2)
    dispatcher.join(busy)
    dispatcher.join(idle)
    for _ in range(5):
        dispatcher.admit("serve", connection())
    assert (busy.load, idle.load) == (6, 6)


def test_equals_take_turns(dispatcher, connection):
    workers = [FakeWorker() for _ in range(3)]
    for worker in workers:
        dispatcher.join(worker)
    for _ in range(9):
        dispatcher.admit("serve", connection())
        for worker in workers:
            worker.load = 0  # each is done with its connection at once
    assert [len(worker.taken) for worker in workers] == [3, 3, 3]


def test_long_lived_connections_count_for_as_long_as_they_live(dispatcher, connection):
    workers = [FakeWorker(), FakeWorker()]
    for worker in workers:
        dispatcher.join(worker)
    for _ in range(10):
        dispatcher.admit("serve", connection())
    workers[0].load -= 4  # watches that have ended
    for _ in range(4):
        dispatcher.admit("serve", connection())
    assert [worker.load for worker in workers] == [5, 5]


def test_without_a_worker_connections_wait_and_listeners_are_held(dispatcher, held, connection):
    dispatcher.hold()
    assert held == [True]
    waiting = [connection(), connection()]
    for each in waiting:
        dispatcher.admit("serve", each)
    worker = FakeWorker()
    dispatcher.join(worker)
    assert worker.taken == [("serve", each) for each in waiting]
    assert held == [True, False]


def test_listeners_are_held_again_when_the_last_worker_goes(dispatcher, held):
    workers = [FakeWorker(), FakeWorker()]
    dispatcher.hold()
    for worker in workers:
        dispatcher.join(worker)
    dispatcher.leave(workers[0])
    dispatcher.leave(workers[0])
    assert held == [True, False]
    dispatcher.leave(workers[1])
    assert held == [True, False, True]


def test_a_worker_that_lags_behind_gets_no_more_for_now(dispatcher, held, connection):
    slow, quick = FakeWorker(), FakeWorker(10)
    slow.unsent = UNSENT_AT_MOST
    dispatcher.join(slow)
    dispatcher.join(quick)
    dispatcher.admit("serve", connection())
    assert (len(slow.taken), len(quick.taken)) == (0, 1)
    quick.unsent = UNSENT_AT_MOST
    dispatcher.admit("serve", connection())
    assert held[-1] is True
    slow.unsent = 0
    dispatcher.resume()
    assert len(slow.taken) == 1
    assert held[-1] is False


def test_what_waits_at_the_end_is_closed_and_what_comes_then_too(dispatcher, connection):
    waiting, late = connection(), connection()
    dispatcher.admit("serve", waiting)
    dispatcher.close()
    dispatcher.admit("serve", late)
    assert (waiting.fileno(), late.fileno()) == (-1, -1)


def test_a_door_passes_on_with_its_listeners_name(dispatcher, connection):
    worker, one = FakeWorker(), connection()
    dispatcher.join(worker)
    door = PassingDoor("tailnet", dispatcher)
    assert verifyObject(IDoor, door)
    door.admit(one)
    door.close()
    assert worker.taken == [("tailnet", one)]
