"""Passes against what is left: the edge of the plans, and two drawings (SVG)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from html import escape

WIDTH, HEIGHT, LEFT, BOTTOM = 760, 440, 60, 50
COLOURS = ("#0072b2", "#d55e00")
Point = tuple[float, float]  # passes, what is left


def edge(points: Mapping[str, Point]) -> list[str]:
    """Those that no other beats on both counts, the cheapest first."""
    answer, least = [], math.inf
    for name in sorted(points, key=lambda name: points[name]):
        if points[name][1] < least:
            answer.append(name)
            least = points[name][1]
    return answer


class Axes:
    """Where a point lies on the paper; passes on a scale of powers of ten."""

    def __init__(self, points: Iterable[Point], words: tuple[str, str]) -> None:
        listed = [p for p in points if p[0] > 0]
        low, high = min(p[0] for p in listed), max(p[0] for p in listed)
        self.low, self.high = math.log10(low) - 0.03, math.log10(high) + 0.03
        self.bottom, self.top = 0.0, 1.05 * max(p[1] for p in listed)
        self.words = words

    def at(self, point: Point) -> Point:
        right = (math.log10(max(point[0], 1e-9)) - self.low) / (self.high - self.low)
        up = (point[1] - self.bottom) / (self.top - self.bottom)
        return LEFT + right * (WIDTH - LEFT - 20), HEIGHT - BOTTOM - up * (HEIGHT - BOTTOM - 20)

    def frame(self) -> list[str]:
        marks = []
        for power in range(math.floor(self.low), math.ceil(self.high) + 1):
            for passes in (k * 10**power for k in (1, 2, 5)):
                if self.low <= math.log10(passes) <= self.high:
                    across, down = self.at((passes, 0))
                    marks.append(text(across, down + 18, f"{passes:g}", "middle"))
        for part in range(5):
            left = self.top * part / 4
            marks.append(text(LEFT - 6, self.at((1, left))[1] + 4, f"{left:.3g}", "end"))
        middle = text((LEFT + WIDTH) / 2, HEIGHT - 8, self.words[0], "middle")
        across, down = LEFT, HEIGHT - BOTTOM
        lines = f"<path d='M{across},10 V{down} H{WIDTH - 10}' fill='none' stroke='#888'/>"
        return [lines, *marks, middle, text(LEFT + 8, 16, self.words[1], "start")]


def text(across: float, down: float, words: str, anchor: str) -> str:
    return f"<text x='{across:.1f}' y='{down:.1f}' text-anchor='{anchor}'>{escape(words)}</text>"


def paper(parts: Iterable[str]) -> str:
    inside = "\n".join(parts)
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {HEIGHT}' "
        f"font-family='sans-serif' font-size='12'>\n<rect width='{WIDTH}' height='{HEIGHT}' "
        f"fill='white'/>\n{inside}\n</svg>\n"
    )


def drawn(points: Mapping[str, Point], marked: Mapping[str, str], words: tuple[str, str]) -> str:
    """Every plan a dot, those marked with a number that the list explains."""
    most = 2 * max(points[name][1] for name in marked)
    shown = {name: p for name, p in points.items() if p[1] <= most or name in marked}
    axes = Axes(shown.values(), words)
    dots = (axes.at(p) for name, p in shown.items() if name not in marked)
    places = sorted({(2 * round(across / 2), 2 * round(down / 2)) for across, down in dots})
    parts = axes.frame()
    parts += [f"<circle cx='{across}' cy='{down}' r='1.5' fill='#bbb'/>" for across, down in places]
    for number, (name, label) in enumerate(marked.items(), start=1):
        across, down = axes.at(points[name])
        colour = COLOURS[label != name]
        parts.append(f"<circle cx='{across:.1f}' cy='{down:.1f}' r='8' fill='{colour}'/>")
        parts.append(f"<g fill='white'>{text(across, down + 4, str(number), 'middle')}</g>")
        line = text(WIDTH - 14, 16 + 15 * number, f"{label}: {number}", "end")
        parts.append(f"<g fill='{colour}'>{line}</g>")
    return paper(parts)


def curves(lines: Mapping[str, list[Point]], words: tuple[str, str]) -> str:
    """A staircase a plan."""
    axes = Axes([p for line in lines.values() for p in line], words)
    parts = axes.frame()
    for number, (name, line) in enumerate(lines.items()):
        first, *rest = (axes.at(point) for point in line)
        path = f"M{first[0]:.1f},{first[1]:.1f}" + "".join(f"H{a:.1f}V{d:.1f}" for a, d in rest)
        colour = COLOURS[number]
        parts.append(f"<path d='{path}' fill='none' stroke='{colour}' stroke-width='2'/>")
        parts.append(f"<g fill='{colour}'>{text(WIDTH - 30, 50 + 18 * number, name, 'end')}</g>")
    return paper(parts)
