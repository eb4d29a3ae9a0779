"""Staying connected to the bus."""

from __future__ import annotations

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from tailproxy.tailnet.bus import LINE_LIMIT, MASK, BusWatcher
from tailproxy.testing import Reply


class Subscriber:
    """Writes down what it hears, and lets a test wait for it."""

    def __init__(self):
        self.heard = []
        self._waiters = []

    def _note(self, *what):
        self.heard.append(what)
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.callback(None)

    def bus_connected(self):
        self._note("connected")

    def bus_message(self, message):
        self._note("message", message)

    def bus_lost(self, reason):
        self._note("lost", reason)

    async def until(self, *kinds):
        """Wait until exactly these kinds of things were heard since the last time."""
        while len(self.heard) < len(kinds):
            waiter = Deferred()
            self._waiters.append(waiter)
            await waiter
            # Go on from the reactor, not from within the watcher.
            await deferLater(reactor, 0)
        heard, self.heard = self.heard, []
        assert tuple(each[0] for each in heard) == kinds
        return heard


@pytest.fixture
def subscriber():
    return Subscriber()


@pytest.fixture
def watcher(clock, api, subscriber):
    made = BusWatcher(clock, api, jitter=lambda: 0)
    made.subscribe(subscriber)
    yield made
    if made.running:
        made.stopService()


def test_the_mask_asks_for_changes_but_not_for_the_whole_map():
    assert MASK & 4096, "changes of peers"
    assert MASK & 142 == 2 + 4 + 128, "state, settings, health, but not the map"
    assert not MASK & (1 | 256), "statistics, the rate limit"


class TestMessages:
    @pytest_twisted.ensureDeferred
    async def test_subscribers_hear_of_the_connection_and_then_of_each_message(
        self, watcher, subscriber, daemon
    ):
        watcher.startService()
        await subscriber.until("connected")
        assert daemon.requests == [f"GET /localapi/v0/watch-ipn-bus?mask={MASK}"]
        daemon.say({"State": 6})
        daemon.say({"PeersRemoved": [7]})
        heard = await subscriber.until("message", "message")
        assert heard == [("message", {"State": 6}), ("message", {"PeersRemoved": [7]})]

    @pytest_twisted.ensureDeferred
    async def test_a_message_right_behind_the_head_comes_after_the_connection(
        self, watcher, subscriber, daemon
    ):
        daemon.replies["watch-ipn-bus"] = Reply('{"State": 6}\n')
        watcher.startService()
        await subscriber.until("connected", "message", "lost")

    @pytest.mark.parametrize("junk", [b"not json\n", b"[]\n", b"\xff\n", b"x" * (LINE_LIMIT + 1)])
    @pytest_twisted.ensureDeferred
    async def test_what_cannot_be_read_means_that_everything_may_have_changed(
        self, watcher, subscriber, daemon, clock, junk
    ):
        watcher.startService()
        await subscriber.until("connected")
        daemon.say(junk)
        await subscriber.until("lost")
        clock.advance(0.1)
        await subscriber.until("connected")


class TestReconnecting:
    @pytest_twisted.ensureDeferred
    async def test_a_bus_that_ends_is_connected_again_after_50_milliseconds(
        self, watcher, subscriber, daemon, clock
    ):
        watcher.startService()
        await subscriber.until("connected")
        daemon.end_bus()
        ((_, reason),) = await subscriber.until("lost")
        assert "ended the stream" in reason
        clock.advance(0.049)
        assert daemon.watchers == 0
        clock.advance(0.002)
        await subscriber.until("connected")

    @pytest_twisted.ensureDeferred
    async def test_it_tries_less_often_but_at_least_every_second(
        self, watcher, subscriber, daemon, clock
    ):
        await daemon.stop()
        watcher.startService()
        await subscriber.until("lost")
        waits = []
        for _ in range(8):
            (call,) = clock.getDelayedCalls()
            waits.append(round(call.getTime() - clock.seconds(), 3))
            clock.advance(waits[-1])
            ((_, reason),) = await subscriber.until("lost")
            assert "there is no socket" in reason
        assert waits == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0]
        daemon.restart()
        clock.advance(1.0)
        await subscriber.until("connected")

    @pytest_twisted.ensureDeferred
    async def test_a_connection_that_held_makes_it_eager_again(
        self, watcher, subscriber, daemon, clock
    ):
        await daemon.stop()
        watcher.startService()
        await subscriber.until("lost")
        for _ in range(6):
            clock.advance(1)
            await subscriber.until("lost")
        daemon.restart()
        clock.advance(1)
        await subscriber.until("connected")
        clock.advance(1.1)
        daemon.end_bus()
        await subscriber.until("lost")
        clock.advance(0.05)
        await subscriber.until("connected")

    @pytest_twisted.ensureDeferred
    async def test_one_that_breaks_at_once_does_not(self, watcher, subscriber, daemon, clock):
        daemon.replies["watch-ipn-bus"] = Reply("")
        watcher.startService()
        await subscriber.until("connected", "lost")
        clock.advance(0.05)
        await subscriber.until("connected", "lost")
        clock.advance(0.05)
        assert len(daemon.requests) == 2
        clock.advance(0.05)
        await subscriber.until("connected", "lost")

    @pytest_twisted.ensureDeferred
    async def test_a_daemon_that_does_not_answer_is_lost_after_the_time_out(
        self, watcher, subscriber, daemon, clock
    ):
        daemon.hanging.add("watch-ipn-bus")
        watcher.startService()
        await daemon.received(1)
        clock.advance(5)
        ((_, reason),) = await subscriber.until("lost")
        assert "did not answer watch-ipn-bus" in reason

    @pytest_twisted.ensureDeferred
    async def test_jitter_takes_up_to_a_quarter_off(self, clock, api, subscriber, daemon):
        await daemon.stop()
        watcher = BusWatcher(clock, api, jitter=lambda: 1)
        watcher.subscribe(subscriber)
        watcher.startService()
        await subscriber.until("lost")
        (call,) = clock.getDelayedCalls()
        assert call.getTime() == pytest.approx(0.0375)
        watcher.stopService()


class TestStopping:
    @pytest_twisted.ensureDeferred
    async def test_a_connected_one_hangs_up(self, watcher, subscriber, daemon):
        watcher.startService()
        await subscriber.until("connected")
        gone = daemon.bus_ended()
        watcher.stopService()
        await gone
        assert daemon.watchers == 0
        assert watcher._attempt is None
        assert subscriber.heard == []

    @pytest_twisted.ensureDeferred
    async def test_a_subscriber_may_stop_it(self, watcher, subscriber, daemon, clock):
        subscriber.bus_connected = watcher.stopService
        watcher.startService()
        await daemon.received(1)
        await deferLater(reactor, 0)
        await daemon.bus_ended()
        assert clock.getDelayedCalls() == []
        assert subscriber.heard == []

    @pytest_twisted.ensureDeferred
    async def test_a_waiting_one_does_not_try_again(self, watcher, subscriber, daemon, clock):
        await daemon.stop()
        watcher.startService()
        await subscriber.until("lost")
        watcher.stopService()
        assert clock.getDelayedCalls() == []

    @pytest_twisted.ensureDeferred
    async def test_one_that_just_connects_gives_up(self, watcher, subscriber, daemon, clock):
        daemon.hanging.add("watch-ipn-bus")
        watcher.startService()
        await daemon.received(1)
        watcher.stopService()
        assert clock.getDelayedCalls() == []
        assert subscriber.heard == []
