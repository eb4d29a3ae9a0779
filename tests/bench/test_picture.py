from __future__ import annotations

from xml.etree import ElementTree as ET

from bench.goals import GOALS, Goal, Verdict, judge
from bench.picture import BAR, LEFT, RIGHT, WIDTH, draw, x

SVG = "{http://www.w3.org/2000/svg}"


def bars(svg):
    """The bars of the goals; those of the legend are left of them."""
    found = ET.fromstring(svg).iter(f"{SVG}rect")
    return [each for each in found if float(each.get("x", "0")) >= LEFT]


def goal(what="a", proxy="go-peer", limit=0.5):
    return Goal(what, "p50_ms", limit, "get-1", (proxy, "get-1"))


def test_a_bar_is_as_long_as_its_ratio():
    one, half = bars(draw([Verdict(goal(), 1.0), Verdict(goal("b"), 0.5)]))
    assert float(one.get("width")) == (WIDTH - LEFT - RIGHT) / 2
    assert float(half.get("width")) == (WIDTH - LEFT - RIGHT) / 4


def test_a_bar_stays_inside_the_picture():
    (bar,) = bars(draw([Verdict(goal(), 7.3)]))
    assert float(bar.get("x")) + float(bar.get("width")) == WIDTH - RIGHT
    assert x(-1) == LEFT


def test_the_number_stands_beside_the_bar_and_a_missed_goal_is_named():
    text = "".join(ET.fromstring(draw([Verdict(goal(), 0.4), Verdict(goal("b"), 0.6)])).itertext())
    assert "0.40" in text
    assert "0.60 (goal 0.5)" in text
    assert "0.40 (goal" not in text


def test_both_proxies_of_a_goal_share_a_line():
    pair = [Verdict(goal(), 0.4), Verdict(goal(proxy="go-stdlib"), 0.6)]
    first, second = bars(draw(pair))
    assert [first.get("class"), second.get("class")] == ["go-peer", "go-stdlib"]
    assert BAR < float(second.get("y")) - float(first.get("y")) < 2 * BAR


def test_what_was_not_measured_has_no_bar():
    svg = draw([Verdict(goal(), None)])
    assert bars(svg) == []
    assert "not measured" in svg


def test_goals_without_another_proxy_are_not_in_the_picture():
    svg = draw(judge([]))
    for each in GOALS:
        assert (each.what in svg) == (each.against != "itself"), each.what


def test_a_goals_words_are_escaped():
    text = "".join(ET.fromstring(draw([Verdict(goal("a < b & c"), 0.1)])).itertext())
    assert "a < b & c" in text
