"""When events of a recording are shown."""

from __future__ import annotations

import pytest

from tailproxy.client.playback import FASTEST, SLOWEST, Playback
from tailproxy.wire.cast import CastEvent

EVENTS = (
    CastEvent(1.0, "o", "a"),
    CastEvent(1.5, "o", "b"),
    CastEvent(1.5, "m", "here"),
    CastEvent(61.5, "r", "100x30"),
    CastEvent(62.0, "o", "c"),
)


def playback(*events: CastEvent, **options: float) -> Playback:
    return Playback(iter(events or EVENTS), 100.0, **options)


def shown(events) -> str:
    return " ".join(event.data for event in events)


def test_each_event_comes_at_its_time():
    playing = playback()
    assert playing.wait(100.0) == 1.0
    assert shown(playing.take(100.9)) == ""
    assert shown(playing.take(101.0)) == "a"
    assert playing.wait(101.2) == pytest.approx(0.3)
    assert shown(playing.take(101.6)) == "b here"
    assert shown(playing.take(161.5)) == "100x30"
    assert not playing.ended
    assert shown(playing.take(500.0)) == "c"
    assert playing.ended


def test_late_events_do_not_delay_the_rest():
    playing = playback()
    assert shown(playing.take(101.4)) == "a"
    assert playing.wait(101.4) == pytest.approx(0.1)


def test_speed_counts_from_when_it_is_changed():
    playing = playback(speed=2.0)
    assert playing.wait(100.0) == 0.5
    assert shown(playing.take(100.5)) == "a"
    playing.change_speed(100.5, 0.25)
    assert playing.speed == 0.5
    assert playing.wait(100.5) == 1.0
    for _ in range(30):
        playing.change_speed(100.5, 2)
    assert playing.speed == FASTEST
    for _ in range(30):
        playing.change_speed(100.5, 0.5)
    assert playing.speed == SLOWEST


def test_long_pauses_become_short():
    playing = playback(idle=2.0)
    list(playing.take(101.5))
    assert playing.wait(101.5) == 2.0
    assert shown(playing.take(103.5)) == "100x30"
    assert shown(playing.take(104.0)) == "c"


def test_time_stands_still_in_a_pause():
    playing = playback()
    list(playing.take(101.0))
    playing.pause(101.1, paused=True)
    assert playing.wait(400.0) is None
    assert shown(playing.take(400.0)) == ""
    playing.pause(401.0, paused=False)
    assert playing.wait(401.0) == pytest.approx(0.4)


def test_step_goes_on_to_the_next_output():
    playing = playback()
    playing.pause(100.0, paused=True)
    assert shown(playing.step(100.0)) == "a"
    assert shown(playing.step(100.0)) == "b"
    assert shown(playing.step(100.0)) == "here 100x30 c"
    assert playing.ended
    assert shown(playing.step(100.0)) == ""


def test_marker_is_jumped_to_and_played_on_from():
    playing = playback()
    assert shown(playing.to_marker(100.0)) == "a b here"
    assert playing.wait(100.0) == 60.0
    assert shown(playing.to_marker(100.0)) == "100x30 c"
    assert playing.ended


def test_time_that_goes_backwards_takes_no_time():
    playing = playback(CastEvent(5.0, "o", "a"), CastEvent(4.0, "o", "b"), CastEvent(6.0, "o", "c"))
    assert shown(playing.take(105.0)) == "a b"
    assert playing.wait(105.0) == 1.0


def test_nothing_is_read_before_it_is_needed():
    read = []

    def events():
        for event in EVENTS:
            read.append(event)
            yield event

    playing = Playback(events(), 100.0)
    list(playing.take(101.0))
    assert len(read) == 2


def test_recording_without_events_has_ended():
    playing = Playback(iter(()), 100.0)
    assert playing.ended
