"""The goals as a picture: a bar for each ratio, in SVG."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from bench.goals import PEER, STDLIB, lines

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.goals import Verdict

WIDTH = 920
LEFT = 340
RIGHT = 130
TOP = 84
BAR = 11
LINE = 38
#: The largest ratio that is drawn in full.
MOST = 2.0
NAMES = {PEER: "the Go peer", STDLIB: "Go's standard library"}
# It brings its own ground: a viewer may have a dark page and know nothing of colour schemes.
STYLE = """\
.paper { fill: #ffffff; }
text { font: 13px system-ui, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2328; }
.title { font-size: 16px; font-weight: 600; }
.small { font-size: 11px; fill: #59636e; }
.value { font-size: 11px; paint-order: stroke; stroke: #ffffff; stroke-width: 3px; }
.missed { font-weight: 700; fill: #b35900; }
.go-peer { fill: #2f81f7; }
.go-stdlib { fill: #8250df; }
.grid { stroke: #d1d9e0; }
.one { stroke: #59636e; stroke-dasharray: 4 3; }
.limit { stroke: #1f2328; stroke-width: 2; }
@media (prefers-color-scheme: dark) {
  .paper { fill: #0d1117; }
  text { fill: #e6edf3; }
  .value { stroke: #0d1117; }
  .small { fill: #9198a1; }
  .missed { fill: #f0a05a; }
  .go-peer { fill: #4493f8; }
  .go-stdlib { fill: #ab7df8; }
  .grid { stroke: #3d444d; }
  .one { stroke: #9198a1; }
  .limit { stroke: #e6edf3; }
}"""


def x(ratio: float) -> float:
    """Where a ratio is, from the left."""
    return LEFT + min(max(ratio, 0.0), MOST) / MOST * (WIDTH - LEFT - RIGHT)


def _line(at: float, top: float, bottom: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{at:.1f}" y1="{top:.1f}" x2="{at:.1f}" y2="{bottom:.1f}"/>'


def _rect(kind: str, at: float, y: float, width: float) -> str:
    return (
        f'<rect class="{kind}" x="{at:.1f}" y="{y:.1f}" width="{width:.1f}" height="{BAR}" rx="2"/>'
    )


def _text(at: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    named = f' class="{kind}"' if kind else ""
    return f'<text{named} x="{at:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _bar(verdict: Verdict, y: float) -> list[str]:
    goal = verdict.goal
    if verdict.measured is None:
        return [_text(x(0) + 4, y + BAR - 2, "not measured", "small")]
    end = x(verdict.measured)
    text = f"{verdict.measured:.2f}"
    if not verdict.met:
        text += f" (goal {goal.limit:g})"
    kind = "value" if verdict.met else "value missed"
    return [
        _rect(goal.against, x(0), y, max(end - x(0), 1)),
        _line(x(goal.limit), y - 1, y + BAR + 1, "limit"),
        _text(max(end, x(goal.limit)) + 6, y + BAR - 2, text, kind),
    ]


def draw(verdicts: Sequence[Verdict]) -> str:
    """The picture of all goals that are against another proxy.

    Below each goal is a bar per proxy: our figure divided by its. Shorter is better; the short
    upright stroke is the goal.
    """
    shown = [line for line in lines(verdicts) if PEER in line.verdicts or STDLIB in line.verdicts]
    height = TOP + LINE * len(shown) + 30
    bottom = TOP + LINE * len(shown)
    size = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-labelledby="title">',
        '<title id="title">Figures of tailproxy divided by those of other proxies</title>',
        f"<style>\n{STYLE}\n</style>",
        '<rect class="paper" width="100%" height="100%"/>',
        _text(16, 28, "tailproxy compared: its figure divided by that of the other", "title"),
    ]
    at = 16.0
    for kind, name in NAMES.items():
        parts.append(_rect(kind, at, 43, 18) + _text(at + 24, 53, f"to {name}"))
        at += 50 + 7.5 * len(name)
    parts.append(_line(at + 4, 41, 56, "limit") + _text(at + 12, 53, "the goal: at most"))
    parts.append(_text(at + 140, 53, "shorter is better", "small"))
    for step in range(int(MOST * 4) + 1):
        ratio = step / 4
        kind = "one" if ratio == 1 else "grid"
        parts.append(_line(x(ratio), TOP - 6, bottom, kind))
        if step % 2 == 0:
            parts.append(_text(x(ratio), bottom + 16, f"{ratio:g}", "small", "middle"))
    for number, line in enumerate(shown):
        top = TOP + number * LINE
        parts.append(_text(LEFT - 10, top + LINE / 2 - 2, line.what, anchor="end"))
        bars = [line.verdicts[kind] for kind in NAMES if kind in line.verdicts]
        y = top + (LINE - 8 - len(bars) * (BAR + 3)) / 2 + 1
        for verdict in bars:
            parts += _bar(verdict, y)
            y += BAR + 3
    return "\n".join([*parts, "</svg>", ""])
