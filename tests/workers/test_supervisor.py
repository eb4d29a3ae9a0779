"""The supervisor with workers of the test's own, in time that only the tests move."""

from __future__ import annotations

import socket

import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from tailproxy.interfaces import IDrainable, IReadinessCheck
from tailproxy.metrics import Metrics
from tailproxy.workers.balance import Dispatcher
from tailproxy.workers.messages import Adopt
from tailproxy.workers.supervisor import Supervisor, WorkersCheck
from tests.workers.test_figures import read


class FakeWorker:
    """Does what the test says."""

    def __init__(self, number: int, chief: Supervisor) -> None:
        self.number = number
        self.chief = chief
        self.pid = 1000 + number
        self.ready = False
        self.load = self.unsent = 0
        self.patience = 25.0
        self.checks = ()
        self.metrics = Metrics("1")
        self.families = []
        self.orders: list[str] = []
        self.taken: list[object] = []
        self.answers = True
        self.told: list[Adopt] = []
        self.adoptions: list[Deferred] = []

    def take(self, listener, connection):
        self.taken.append(connection)

    def leave(self, after):
        self.ready = False
        self.orders.append("leave later" if after else "leave")

    def kill(self):
        self.orders.append("kill")

    def adopt(self, order):
        self.told.append(order)
        self.adoptions.append(Deferred())
        return self.adoptions[-1]

    def ask_metrics(self):
        if not self.answers:
            return Deferred()
        self.families = list(self.metrics.registry.collect())
        return succeed(self.families)

    def gets_ready(self):
        self.ready = True
        self.chief.worker_ready(self)

    def ends(self, reason="signal SIGKILL", unsent=()):
        self.ready = False
        self.pid = 0
        self.chief.worker_ended(self, reason, list(unsent))


class Team:
    """A supervisor with two places, and all workers that it has started."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.workers: list[FakeWorker] = []
        self.held: list[bool] = []
        self.metrics = Metrics("1")
        self.dispatcher = Dispatcher(self.held.append)
        self.supervisor = Supervisor(self.clock, 2, self.launch, self.dispatcher, self.metrics)
        self.supervisor.startService()

    def launch(self, number, chief):
        self.workers.append(FakeWorker(number, chief))
        return self.workers[-1]

    def figure(self, name: str) -> float | None:
        return self.metrics.registry.get_sample_value(name)


@pytest.fixture
def team():
    return Team()


@pytest.fixture
def ready(team):
    for worker in team.workers:
        worker.gets_ready()
    return team


def test_it_is_what_it_says(team):
    assert verifyObject(IReadinessCheck, team.supervisor)
    assert verifyObject(IDrainable, team.supervisor)
    assert verifyObject(IReadinessCheck, WorkersCheck("certificate", team.supervisor))


def test_every_place_is_filled_at_the_start_and_nobody_is_let_in_yet(team):
    assert [worker.number for worker in team.workers] == [1, 2]
    assert team.held == [True]
    result = team.supervisor.check()
    assert (result.ok, result.detail) == (False, "0 of 2 ready")


def test_it_is_ready_with_the_first_worker(team):
    team.workers[1].gets_ready()
    assert team.held == [True, False]
    result = team.supervisor.check()
    assert (result.ok, result.detail) == (True, "1 of 2 ready")
    assert team.figure("tailproxy_workers") == 1


def test_a_worker_that_dies_is_replaced_and_counted(ready):
    ready.workers[0].ends()
    assert ready.figure("tailproxy_workers") == 1
    ready.clock.advance(0.11)
    assert [worker.number for worker in ready.workers] == [1, 2, 1]
    assert ready.figure("tailproxy_worker_restarts_total") == 1
    ready.workers[2].gets_ready()
    assert ready.supervisor.check().detail == "2 of 2 ready"


def test_when_the_last_worker_dies_connections_are_held_until_the_next(ready):
    for worker in list(ready.workers):
        worker.ends()
    assert ready.held[-1] is True
    assert not ready.supervisor.check().ok
    ready.clock.advance(0.11)
    ready.workers[2].gets_ready()
    assert ready.held[-1] is False


def test_what_a_dead_worker_was_not_sent_goes_to_another(ready):
    ours, theirs = socket.socketpair()
    ready.workers[0].ends(unsent=[("serve", ours)])
    assert ready.workers[1].taken == [ours]
    ours.close()
    theirs.close()


def test_a_worker_that_leaves_by_itself_is_replaced_while_it_drains(ready):
    ready.workers[0].ready = False
    ready.supervisor.worker_leaving(ready.workers[0])
    ready.clock.advance(0.11)
    assert len(ready.workers) == 3
    ready.workers[0].ends("exit status 0")
    ready.clock.advance(29)
    assert len(ready.workers) == 3
    assert ready.figure("tailproxy_worker_restarts_total") == 1


def test_a_worker_that_hears_nothing_gets_no_more_and_is_killed_if_it_does_not_end(ready):
    ready.workers[0].ready = False
    ready.supervisor.worker_silent(ready.workers[0])
    ours, theirs = socket.socketpair()
    ready.dispatcher.admit("serve", ours)
    assert ready.workers[1].taken == [ours]
    ready.clock.advance(31)
    assert ready.workers[0].orders[-1] == "kill"
    ready.workers[0].ends()
    ready.clock.advance(0.11)
    assert [worker.number for worker in ready.workers] == [1, 2, 1]
    ours.close()
    theirs.close()


class TestDrain:
    def test_all_are_told_to_leave_and_waited_for(self, ready):
        drained = ready.supervisor.drain()
        again = ready.supervisor.drain()
        assert [worker.orders for worker in ready.workers] == [["leave"], ["leave"]]
        ready.workers[0].ends("exit status 0")
        assert not drained.called
        ready.workers[1].ends("exit status 0")
        assert drained.called
        assert again.called
        ready.clock.advance(60)
        assert len(ready.workers) == 2

    def test_one_that_does_not_end_is_killed_when_its_time_is_over(self, ready):
        drained = ready.supervisor.drain()
        ready.clock.advance(29)
        assert ready.workers[0].orders == ["leave"]
        ready.clock.advance(2)
        assert ready.workers[0].orders == ["leave", "kill"]
        for worker in ready.workers:
            worker.ends()
        assert drained.called

    def test_nobody_is_started_any_more(self, ready):
        ready.workers[0].ends()
        drained = ready.supervisor.drain()
        ready.clock.advance(60)
        assert len(ready.workers) == 2
        ready.workers[1].ends()
        assert drained.called

    def test_without_workers_it_is_over_at_once(self, team):
        for worker in list(team.workers):
            worker.ends()
        assert team.supervisor.drain().called


ORDER = Adopt("file", "{}", "json")


class TestAdoption:
    def test_every_worker_is_told_those_that_still_start_too(self, team):
        team.workers[0].gets_ready()
        done = team.supervisor.adopt(ORDER)
        assert [worker.told for worker in team.workers] == [[ORDER], [ORDER]]
        team.workers[0].adoptions[0].callback("")
        assert not done.called
        team.workers[1].adoptions[0].callback("")
        assert done.result == ""

    def test_what_one_cannot_do_is_the_answer(self, ready):
        done = ready.supervisor.adopt(ORDER)
        ready.workers[0].adoptions[0].callback("")
        ready.workers[1].adoptions[0].callback("no such file")
        assert done.result == "no such file"

    def test_one_that_does_not_answer_in_time_cannot(self, ready):
        done = ready.supervisor.adopt(ORDER)
        ready.workers[0].adoptions[0].callback("")
        ready.clock.advance(10.1)
        assert "not taken it up in time" in done.result

    def test_one_that_leaves_is_not_asked(self, ready):
        ready.supervisor.worker_leaving(ready.workers[0])
        ready.supervisor.adopt(ORDER)
        assert ready.workers[0].told == []


class TestNumber:
    def test_more_workers_are_started_at_once(self, ready):
        ready.supervisor.resize(4)
        assert [worker.number for worker in ready.workers] == [1, 2, 3, 4]
        ready.workers[3].gets_ready()
        assert ready.supervisor.check().detail == "3 of 4 ready"

    def test_those_that_are_too_many_drain_and_are_not_started_again(self, ready):
        ready.supervisor.resize(1)
        assert [worker.orders for worker in ready.workers] == [[], ["leave later"]]
        assert ready.supervisor.check().detail == "1 of 1 ready"
        ready.workers[1].ends("exit status 0")
        ready.clock.advance(60)
        assert len(ready.workers) == 2

    def test_one_that_was_still_starting_gets_no_connections(self, team):
        team.workers[0].gets_ready()
        team.supervisor.resize(1)
        team.workers[1].gets_ready()
        team.dispatcher.admit("serve", object())
        team.dispatcher.admit("serve", object())
        assert len(team.workers[0].taken) == 2

    def test_a_place_that_waits_to_be_filled_can_go(self, ready):
        ready.workers[1].ends()
        ready.supervisor.resize(1)
        ready.clock.advance(60)
        assert len(ready.workers) == 2


class TestChecks:
    def test_a_check_of_the_workers_is_as_well_as_that_of_the_worst(self, ready):
        check = WorkersCheck("certificate", ready.supervisor)
        assert not check.check().ok
        ready.workers[0].checks = (("certificate", True, "valid"), ("other", False, "no"))
        assert check.check().ok
        ready.workers[1].checks = (("certificate", False, "no certificate: why"),)
        assert check.check().detail == "no certificate: why"

    def test_without_a_worker_that_serves_the_others_say_why(self, team):
        team.workers[0].checks = (("certificate", False, "not yet"),)
        result = WorkersCheck("certificate", team.supervisor).check()
        assert result.detail == "not yet"


def collected(team) -> dict[str, float]:
    waiting = Deferred.fromCoroutine(team.supervisor.collect())
    team.clock.advance(1.01)
    return read(waiting.result)


class TestMetrics:
    HITS = "tailproxy_whois_cache_hits_total{}"

    def test_they_are_those_of_all(self, ready):
        for worker in ready.workers:
            worker.metrics.whois_cache_hits.inc(2)
        ready.metrics.whois_cache_hits.inc()
        assert collected(ready)[self.HITS] == 5

    def test_counts_of_one_that_ended_are_kept_and_its_gauges_are_not(self, ready):
        first = ready.workers[0]
        first.metrics.whois_cache_hits.inc(3)
        first.metrics.connections.labels("serve").inc(7)
        assert collected(ready)[self.HITS] == 3
        first.ends()
        after = collected(ready)
        assert after[self.HITS] == 3
        assert 'tailproxy_connections{"listener": "serve"}' not in after

    def test_one_that_does_not_answer_counts_as_it_last_did(self, ready):
        first = ready.workers[0]
        first.metrics.whois_cache_hits.inc(3)
        collected(ready)
        first.answers = False
        ready.workers[1].metrics.whois_cache_hits.inc()
        assert collected(ready)[self.HITS] == 4
