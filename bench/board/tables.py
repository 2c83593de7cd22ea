"""The columns of the wide tables: ranked rows, published rows, pairs; intervals as small pictures.

A picture's filled diamond is a network trained with AWP, an open circle one without, a triangle one
with random perturbations, a square one of which it is not known: shape says what colour does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import quote

import pyarrow as pa
from markupsafe import Markup
from streamlit import column_config as columns
from streamlit.elements.lib.column_types import ColumnConfig

from bench.board import article
from bench.board.article import Line
from bench.board.filters import extra_data
from bench.board.palette import AWP, LINE, RANDOM, UNKNOWN, VANILLA
from bench.notation import (
    ends,
    harmless,
    p_value_text,
    percent,
    percent_interval,
    plain,
    short_label,
    web_address,
)
from bench.published import LIKELY, MARK, PublishedRow
from bench.records.card_text import awp_text
from bench.reliability.figures import compared, contradictions, short, stated
from bench.stats.contrasts import Pair
from bench.stats.intervals import Interval
from bench.table import CLEAN, WORST_CASE, Group, Row

_TRAINED = {True: "yes", False: "no", None: "unknown"}
_MOST_DENIED = 10  # contradictions told below a table
number, text = columns.NumberColumn, columns.TextColumn
Columns = tuple[pa.Table, Mapping[str, ColumnConfig]]
Cells = Mapping[str, tuple[Sequence[object], ColumnConfig | None]]  # None: headed by its name


def _made(cells: Cells) -> Columns:
    data = pa.table({name: list(values) for name, (values, _) in cells.items()})
    return data, {name: config for name, (_, config) in cells.items() if config is not None}


def ranked(group: Group, rows: Sequence[Row]) -> Columns:
    """The rows in the order of their ranks, rates in percent."""
    form = "%.1f" if group.n <= 1000 else "%.2f"
    worst = [row.rates[WORST_CASE] for row in rows]
    axis = bar_axis(worst)
    bars = [bar(rate, axis, awp_text(row.card)) for row, rate in zip(rows, worst, strict=True)]
    texts = [row.texts for row in rows]
    cells: Cells = {
        # Empty where a flag keeps the row out.
        "rank": ([row.rank for row in rows], number("rank", width=46)),
        "range": (
            [row.range_text for row in rows],
            text("range", width=56, help="places left open: rows not separated by the tests"),
        ),
        "model": ([row.card.name for row in rows], text("model", width=225)),
        "AWP": (
            [said["AWP"] for said in texts],
            text("AWP", width=66, help="weights perturbed while training"),
        ),
        WORST_CASE: (
            [100 * rate.estimate for rate in worst],
            number("worst case", format=form, width=84, help="the rank key: all columns"),
        ),
        "bar": (
            bars,
            columns.ImageColumn(
                bar_heading(axis),
                width=145,
                help="diamond: with AWP, circle: without, triangle: random, square: not known",
            ),
        ),
        "interval": (
            [percent_interval(rate, group.n) for rate in worst],
            text("95 % interval", width=104),
        ),
        **({"stated": (
            [short(stated(row.record)) for row in rows],
            text("stated by others", width=210, help="in images; compared, never ranked"),
        )} if compared(group) else {}),
        **{
            measure: (
                [100 * row.rates[measure].estimate for row in rows],
                number(short_label(label), format=form, width=_rate_width(label)),
            )
            for measure, label in group.labels.items()
        },
        "best_known": (
            [100 * row.best_known_rate.estimate for row in rows],
            number(
                "best known",
                format=form,
                width=92,
                help="standing under all records of these weights; effort differs, so never ranked",
            ),
        ),
        **({"challenged": (
            [harmless(row.challengers) for row in rows],
            text("challenged by", width=130, help="broke more than our attacks; ranks stay"),
        )} if group.challenge_lines else {}),
        **({"audit": (
            [row.audit_text for row in rows],
            text("audit", width=130, help="AutoAttack on a sample of what stands; 95 % bound"),
        )} if group.audited else {}),
        "flags": (
            [row.unranked or said["flags"] for row, said in zip(rows, texts, strict=True)],
            text("flags", width=130),
        ),
        **{name: ([said[name] for said in texts], text(name, width=width))
           for name, width in (("method", 84), ("arch", 110))},
        "extra data": ([extra_data(row) for row in rows], text("extra data", width=82)),
        "epoch kept": ([said["epoch kept"] for said in texts], text("epoch kept", width=124)),
        "seed": ([row.card.seed for row in rows], number("seed", width=52)),
        **{name: ([said[name] for said in texts], text(name, width=width))
           for name, width in (("engine", 150), ("precision", 84))},
        "passes": (
            [row.record.passes / row.record.n for row in rows],
            number("passes", format="%,.0f", width=76, help="forward and backward, an image"),
        ),
        "seconds": (
            [row.record.seconds for row in rows],
            number("seconds", format="%,.0f", width=76, help="on the machine of the record"),
        ),
        "n": ([row.record.n for row in rows], number("n", width=64)),
        "date": ([said["date"] for said in texts], text("date", width=96)),
    }  # fmt: skip
    return _made(cells)


def _rate_width(label: str) -> int:
    """Pixels that hold a rate and its heading."""
    return 68 if len(short_label(label)) < 8 else 86


def ranked_line(group: Group, row: Row) -> Line:
    """A row where a wide table does not fit."""
    ranged = row.range_text not in ("", str(row.rank))
    worst = row.rates[WORST_CASE]
    said = (
        percent_interval(worst, group.n),
        f"rank {row.range_text}" if ranged else "",
        f"clean {percent(row.rates[CLEAN].estimate, group.n)}",
        row.texts["method"],
        row.unranked,
        short(stated(row.record)),
    )
    rank = "" if row.rank is None else str(row.rank)
    name = article.link_to_model(group, row)
    return rank, name, percent(worst.estimate, group.n), "; ".join(filter(None, said))


def show_contradictions(group: Group, rows: Sequence[Row]) -> None:
    """What others state of some rows and their records deny, a paragraph each."""
    denied = [(row, sentence) for row in rows for sentence in contradictions(row.record)]
    for row, sentence in denied[:_MOST_DENIED]:
        name = article.link_to_model(group, row)
        article.paragraph(Markup("<strong>Contradicted</strong>, {}: {}.").format(name, sentence))
    if len(denied) > _MOST_DENIED:
        article.small(f"and {len(denied) - _MOST_DENIED} more, on the pages of their models.")


# ---------------------------------------------------------------- published rows


def published(rows: Sequence[PublishedRow], attack: str) -> Columns:
    """Published rows under one attack, in the words of their sources."""
    axis = bar_axis(row.interval for row in rows if row.interval is not None)
    texts = [row.texts for row in rows]

    def said(heading: str) -> list[str]:
        return [harmless(each[heading]) for each in texts]

    cells: Cells = {
        "model": (said("model"), text("model", width=300)),
        "AWP": (said("AWP"), text("AWP", width=78, help=f"AWP {LIKELY}; the remark says where")),
        "clean": (
            [None if row.clean is None else float(row.clean) for row in rows],
            number("clean", format="%.2f", width=68),
        ),
        "robust": (
            [float(row.robust) for row in rows],
            number(plain(attack, 40), format="%.2f", width=94, help=f"as published: {MARK}"),
        ),
        "bar": (
            [row.interval and bar(row.interval, axis, _TRAINED[row.awp]) for row in rows],
            columns.ImageColumn(bar_heading(axis), width=145),
        ),
        "interval": (
            said("95 % (computed here)"),
            text("95 % interval", width=112, help="computed here"),
        ),
        "best_known": (
            [float(row.standing) for row in rows],
            number(
                "best known",
                format="%.2f",
                width=92,
                help="the lowest known: others may have found less",
            ),
        ),
        "arch": (said("arch"), text("arch", width=170)),
        "extra data": (said("extra data"), None),
        "method": ([harmless(plain(row.method, 60)) for row in rows], None),
        "checkpoint": (said("checkpoint"), None),
        "n": (said("n"), None),
        "venue": ([harmless(plain(row.venue, 60)) for row in rows], None),
        "paper": (
            [web_address(row.link) for row in rows],
            columns.LinkColumn("paper", display_text="open", width=64),
        ),
        "remark": (said("remark"), None),
        "source": (said("source"), text("source", width=330)),
        "status": ([MARK] * len(rows), None),
    }
    return _made(cells)


def published_line(row: PublishedRow) -> Line:
    """A published row where a wide table does not fit."""
    texts = row.texts
    clean = texts["clean"] and f"clean {texts['clean']}"
    awp = f"AWP {LIKELY}" if row.awp_likely else f"AWP {texts['AWP']}"
    said = (
        clean,
        awp,
        texts["95 % (computed here)"],
        texts["arch"],
        texts["checkpoint"],
        "published",
    )
    name = article.link(row.link, plain(row.name, 100))
    return "", name, texts["robust"], "; ".join(filter(None, said))


# ---------------------------------------------------------------- pairs


def show_pairs(group: Group, found: Sequence[Pair]) -> None:
    """Differences of pairs on the same images, in percentage points, a row each."""
    worst = [pair.comparisons[WORST_CASE] for pair in found]
    cells: Cells = {
        "model": ([pair.awp.card.name for pair in found], text("model", width=215)),
        "twin": ([pair.vanilla.card.name for pair in found], text("twin", width=190)),
        "seed": ([pair.awp.card.seed for pair in found], number("seed", width=52)),
        WORST_CASE: (
            [100 * c.difference.estimate for c in worst],
            number("worst case", format="%+.1f", width=84),
        ),
        "interval": ([ends(c.difference) for c in worst], text("95 % interval", width=100)),
        "p": ([p_value_text(c.p_value) for c in worst], text("p", width=68)),
        **{
            measure: (
                [100 * pair.comparisons[measure].difference.estimate for pair in found],
                number(short_label(label), format="%+.1f", width=_rate_width(label)),
            )
            for measure, label in group.labels.items()
        },
        "remark": ([pair.remark for pair in found], None),
    }
    data, config = _made(cells)
    article.table(data, "pairs", columns=config)


# ---------------------------------------------------------------- intervals in cells

_WIDTH, _HEIGHT, _MARGIN = 130, 22, 7  # pixels
Axis = tuple[float, float]  # where bars start and end, as rates


def bar_axis(intervals: Iterable[Interval]) -> Axis:
    """One axis for all rows of a table: multiples of 5 % around most of them.

    Rows far below, less than half the best, would squeeze the others: they are drawn at its start.
    """
    found = list(intervals)
    best = max((interval.estimate for interval in found), default=1.0)
    near = [interval for interval in found if 2 * interval.estimate >= best]
    low = math.floor(20 * min((interval.low for interval in near), default=0.0)) / 20
    high = math.ceil(20 * max((interval.high for interval in found), default=1.0)) / 20
    return max(low, 0.0), min(max(high, low + 0.05), 1.0)


def bar_heading(axis: Axis) -> str:
    """`20 – 75 %`: what the bars of a column span."""
    return f"{100 * axis[0]:.0f} – {100 * axis[1]:.0f} %"


def bar(interval: Interval, axis: Axis, trained: str) -> str:
    """One interval on the axis as an SVG picture in a data address.

    trained: yes, no, random or unknown, whether with AWP.
    """

    def x(rate: float) -> float:
        share = (rate - axis[0]) / (axis[1] - axis[0])
        return round(_MARGIN + (_WIDTH - 2 * _MARGIN) * min(max(share, 0.0), 1.0), 1)

    at, middle = x(interval.estimate), _HEIGHT / 2
    ring = f"stroke='{VANILLA}' stroke-width='2'"
    colour, mark = {
        "yes": (AWP, f"<path d='M{at} {middle - 5}l5 5-5 5-5-5z' fill='{AWP}'/>"),
        "no": (VANILLA, f"<circle cx='{at}' cy='{middle}' r='4' fill='white' {ring}/>"),
        "random": (RANDOM, f"<path d='M{at} {middle - 5}l5 9h-10z' fill='{RANDOM}'/>"),
        "unknown": (UNKNOWN, f"<path d='M{at - 4} {middle - 4}h8v8h-8z' fill='{UNKNOWN}'/>"),
    }[trained]
    if interval.estimate < axis[0]:  # off the axis: an arrow says where to
        colour, mark = LINE, f"<path d='M{_MARGIN - 5} {middle}l8-5v10z' fill='{LINE}'/>"
    svg = (
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{_WIDTH}' height='{_HEIGHT}'>"
        f"<path d='M{_MARGIN} {middle}H{_WIDTH - _MARGIN}' stroke='{LINE}' stroke-opacity='.35'/>"
        f"<path d='M{x(interval.low)} {middle}H{x(interval.high)}' stroke='{colour}' "
        f"stroke-width='3'/>{mark}</svg>"
    )
    return f"data:image/svg+xml,{quote(svg)}"
