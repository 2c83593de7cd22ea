"""A model's number as a badge: a small SVG for the README of whoever trained it."""

from __future__ import annotations

from collections.abc import Sequence

from bench.board import palette
from bench.exports.boards import measures_autoattack
from bench.exports.view import View
from bench.notation import percent, percent_interval, plain
from bench.table import WORST_CASE, Group, Row

_CURVE = "curve"  # the protocol whose records hold distances: no answer to one radius
_LONGEST = 90  # characters on either side
_HEIGHT, _MARGIN = 20, 6  # pixels
# Pixels of characters at a size of 11 px in the fonts named below; textLength makes up for others.
_WIDE, _NARROW = dict.fromkeys("mwMWN%@&", 9.5), dict.fromkeys("ijlI.,:;'|!()[]/ -", 4.2)
_FORM = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" role="img"'
    ' aria-label="{label}: {value}"><title>{title}</title>'
    '<clipPath id="r"><rect width="{width}" height="{height}" rx="3"/></clipPath>'
    '<g clip-path="url(#r)"><rect width="{left}" height="{height}" fill="{says}"/>'
    '<rect x="{left}" width="{right}" height="{height}" fill="{colour}"/></g>'
    '<g fill="{text}" font-family="Verdana,DejaVu Sans,Geneva,sans-serif" font-size="11">'
    '<text x="{margin}" y="14" textLength="{label_long}" lengthAdjust="spacingAndGlyphs">{label}</text>'
    '<text x="{at}" y="14" textLength="{value_long}" lengthAdjust="spacingAndGlyphs">{value}</text>'
    "</g></svg>\n"
)


def badge(group: Group, row: Row) -> str:
    """`robust 52.0 % [48.9 – 55.1] (n = 1,000, linf:8/255, AutoAttack)`, or why it has no rank."""
    if row.rank is None:
        said, colour = f"unranked ({', '.join(row.doubts)})", palette.BADGE_UNRANKED
    else:
        rate = row.rates[WORST_CASE]
        attack = "AutoAttack" if measures_autoattack(group) else f"protocol {group.protocol_label}"
        number = f"{percent(rate.estimate, group.n)} % [{percent_interval(rate, group.n)}]"
        said, colour = f"{number} (n = {group.n:,}, {group.threat}, {attack})", palette.BADGE_RANKED
    return _drawn("robust", said, f"{row.card.name}: {group.heading}", colour)


def badge_files(view: View) -> dict[str, str]:
    """badge/<name>.svg -> SVG, for every model."""
    return {f"badge/{name}.svg": badge(*place) for name, place in speaking(view.groups).items()}


def speaking(groups: Sequence[Group]) -> dict[str, tuple[Group, Row]]:
    """Name -> the measurement that a badge of it tells: known, of AutoAttack, of most images."""
    found: dict[str, tuple[tuple[bool, bool, int], tuple[Group, Row]]] = {}
    for group in groups:
        if group.protocol.name == _CURVE:
            continue
        auto = measures_autoattack(group)
        for row in group.rows:
            order = (not row.known, not auto, -group.n)
            if row.card.name not in found or order < found[row.card.name][0]:
                found[row.card.name] = order, (group, row)
    return {name: place for name, (_, place) in found.items()}


def _drawn(label: str, value: str, title: str, colour: str) -> str:
    from markupsafe import Markup

    label, value = (plain(text, _LONGEST) for text in (label, value))
    label_long, value_long = _length(label), _length(value)
    left, right = label_long + 2 * _MARGIN, value_long + 2 * _MARGIN
    return Markup(_FORM).format(
        width=left + right, left=left, right=right, height=_HEIGHT, margin=_MARGIN, at=left + _MARGIN,
        label=label, value=value, label_long=label_long, value_long=value_long,
        title=plain(title, 300), says=palette.BADGE_SAYS, text=palette.BADGE_TEXT,
        colour=colour,
    )  # fmt: skip


def _length(text: str) -> int:
    """Pixels."""
    return round(sum(_WIDE.get(c) or _NARROW.get(c) or 7.0 for c in text))
