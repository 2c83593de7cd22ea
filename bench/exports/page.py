"""The leaderboard as one HTML file for any web server: nothing is fetched, nothing foreign can run.

Text from records is escaped by the template. The page's own style and script are named by their
hashes in a Content-Security-Policy that forbids everything else, so that even markup that slipped
through could not run, load or send anything.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.board import palette
from bench.exports.details import details, row_id
from bench.exports.render import COMMAND, WHAT_INTERVALS_COVER
from bench.exports.view import View
from bench.notation import percent, percent_interval, plain, short_label, web_address
from bench.published import LIKELY, MARK, Key, PublishedRow, likely_note
from bench.reliability.figures import compared, short, stated
from bench.stats.contrasts import answers, told
from bench.stats.intervals import Interval
from bench.table import CLEAN, WORST_CASE, Group, Row

_TEMPLATES = Path(__file__).parent / "templates"
_ICON = Path(__file__).parents[1] / "board" / "icon.svg"
_BAR_WIDTH, _BAR_MARGIN = 120.0, 6.0  # of an interval bar in its own units


@dataclass(frozen=True)
class Cell:
    """One cell of a table."""

    text: str
    sort: str | None = None  # what it is sorted by; None: its text
    kind: str = ""  # class names: "number", "more" (left out on a phone)
    target: str = ""  # id of the details on this page
    address: str | None = None  # on the web
    remark: str = ""  # small print that a phone shows in place of the columns left out
    bar: tuple[float, float, float, bool | None] | None = None  # low, estimate, high, AWP if stated


@dataclass(frozen=True)
class Heading:
    """The head of one column."""

    text: str
    kind: str = ""
    falling: bool = False  # whether the first click sorts from the top down


def page(view: View) -> str:
    """The whole page, in the order of the board, demo data last."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    sheet, script = (
        (_TEMPLATES / name).read_text(encoding="utf-8") for name in ("page.css", "page.js")
    )
    style = "\n".join((palette.css(), palette.surfaces(), sheet))
    ours = sorted(view.groups, key=lambda group: group.demo)
    first = {(group.dataset, group.threat): group for group in reversed(ours)}
    sections = [_group_section(view, g, first[g.dataset, g.threat]) for g in ours if not g.demo]
    sections += [_published_section(key, rows) for key, rows in view.alone.items()]
    sections += [_group_section(view, g, first[g.dataset, g.threat]) for g in ours if g.demo]
    return environment.get_template("page.html.j2").render(
        # Our own two files, never text from records; a sheet cannot close its element.
        style=Markup(style),
        script=Markup(script),
        policy=f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "img-src data:; base-uri 'none'; form-action 'none'",
        icon=f"data:image/svg+xml;base64,{base64.b64encode(_ICON.read_bytes()).decode()}",
        says=_says(view),
        sections=sections,
        what_intervals_cover=WHAT_INTERVALS_COVER,
        notes=[plain(note, 500) for note in view.board.notes],
        command=f"{COMMAND} --format html",
    )


def _hash(text: str) -> str:
    """A source of a Content-Security-Policy: exactly this inline text."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _says(view: View) -> str:
    """What the page holds, for who shows a link to it."""
    ours = len({row.card.name for group in view.groups for row in group.rows})
    theirs = sum(map(len, view.published.values()))
    found = [
        f"{count:,} {what}{'' if count == 1 else 's'}{where}"
        for count, what, where in (
            (ours, "network", " measured here"),
            (theirs, "published number", ""),
        )
        if count
    ]
    return f"{' and '.join(found) or 'No network yet'}: image classifiers under attack, with intervals."


# ---------------------------------------------------------------- sections


def _group_section(view: View, group: Group, first: Group) -> dict[str, Any]:
    """One group; published rows stand beside the first group of their data set and threat."""
    published = view.beside(group)
    axis = _axis(row.rates[WORST_CASE] for row in group.rows)
    return {
        "id": _section_id(group),
        "heading": group.heading,
        "short": f"{'demo: ' if group.demo else ''}{group.dataset} {group.threat} "
        f"{group.protocol_label} n={group.n:,}{group.apart}",
        "demo": group.demo,
        "lead": ("Gradient attacks only: an upper bound. " if group.gradients_alone else "")
        + f"Ranked by the worst case of {group.protocol_label}; rates in percent of all "
        f"{group.n:,} images. Select a model for its details.",
        "headings": _headings(group, axis),
        "rows": [_cells(group, row, axis) for row in group.rows],
        "sentences": told(answers(group)),
        "details": [details(group, row) for row in group.rows],
        "published": _published_table(published) if published and group is first else None,
        "published_at": _section_id(first) if published and group is not first else "",
    }


def _published_section(key: Key, rows: Sequence[PublishedRow]) -> dict[str, Any]:
    dataset, threat = key
    return {
        "id": _id("published", dataset, threat),
        "heading": f"{dataset}, {threat}",
        "short": f"{dataset} {threat} (published)",
        "lead": "Nothing is measured here yet.",
        "published": _published_table(rows),
        "demo": False,
        **dict.fromkeys(("headings", "rows", "sentences", "details"), ()),
        "published_at": "",
    }


def _section_id(group: Group) -> str:
    return _id(*group.key[:5], group.protocol.protocol_id)


def _id(*parts: object) -> str:
    """A fragment of the address: letters, digits and hyphens."""
    return "-".join(re.sub("[^A-Za-z0-9]", "-", plain(part, 40)) for part in parts)


def _axis(rates: Iterable[Interval]) -> tuple[float, float]:
    """The ends in percent, at multiples of 10, of the bars of one table."""
    found = list(rates)
    low = 10 * math.floor(10 * min((rate.low for rate in found), default=0.0))
    high = 10 * math.ceil(10 * max((rate.high for rate in found), default=1.0))
    return float(low), float(max(high, low + 10))


# ---------------------------------------------------------------- our table


def _headings(group: Group, axis: tuple[float, float]) -> list[Heading]:
    rates = [plain(short_label(label), 40) for label in group.labels.values()]
    return [
        Heading("rank", "number"),
        Heading("rank range", "number more"),
        Heading("model"),
        Heading("method", "more"),
        Heading("AWP", "more"),
        Heading("worst case", "number", falling=True),
        Heading(f"{axis[0]:.0f} – {axis[1]:.0f} %", "bar", falling=True),
        *(
            Heading(name, "number more", falling=True)
            for name in ("95 % interval", *rates, "best known")
        ),
        *([Heading("audit", "more")] if group.audited else []),
        *([Heading("stated by others", "more")] if compared(group) else []),
        *(Heading(name, "more") for name in _TEXTS),
    ]


_TEXTS = ("arch", "seed", "epoch kept", "flags", "engine", "precision", "date")


def _cells(group: Group, row: Row, axis: tuple[float, float]) -> list[Cell]:
    n, worst, texts = group.n, row.rates[WORST_CASE], row.texts
    interval, sort = percent_interval(worst, n), repr(worst.estimate)
    remark = f"{texts['method']}; clean {percent(row.rates[CLEAN].estimate, n)}; {interval}"
    return [
        Cell("" if row.rank is None else str(row.rank), kind="number"),
        Cell(
            row.range_text,
            "" if row.rank_range is None else str(row.rank_range[0]),
            kind="number more",
        ),
        Cell(
            row.card.name,
            kind="name",
            target=row_id(row),
            remark="; ".join(filter(None, (remark, row.unranked, short(stated(row.record))))),
        ),
        Cell(texts["method"], kind="more"),
        Cell(texts["AWP"], kind="more"),
        Cell(percent(worst.estimate, n), sort, "number strong"),
        Cell("", sort, "bar", bar=(*_scaled(worst, axis), row.card.uses_awp)),
        Cell(interval, sort, "number more"),
        *(
            Cell(percent(rate.estimate, n), repr(rate.estimate), "number more")
            for rate in (*(row.rates[m] for m in group.labels), row.best_known_rate)
        ),
        *([Cell(row.audit_text, kind="more")] if group.audited else []),
        *([Cell(short(stated(row.record)), kind="more long")] if compared(group) else []),
        *(Cell(row.unranked or texts[name], kind="more long") if name == "flags"
          else Cell(texts[name], kind="more") for name in _TEXTS),
    ]  # fmt: skip


def _scaled(rate: Interval, axis: tuple[float, float]) -> tuple[float, float, float]:
    """Low end, estimate and high end in the units of a bar."""
    low, high = axis
    scale = (_BAR_WIDTH - 2 * _BAR_MARGIN) / (high - low)
    ends = (rate.low, rate.estimate, rate.high)
    a, b, c = (round(_BAR_MARGIN + (100 * value - low) * scale, 1) for value in ends)
    return a, b, c


# ---------------------------------------------------------------- published rows


def _published_rate(row: PublishedRow) -> Interval:
    rate = float(row.robust) / 100
    return row.interval or Interval(rate, rate, rate)


def _published_table(rows: Sequence[PublishedRow]) -> dict[str, Any]:
    axis = _axis(map(_published_rate, rows))
    names = list(rows[0].texts)
    numbers = {"clean", "robust", "best known", "n", "95 % (computed here)"}
    kinds = {"model": "name", "robust": "number", "remark": "more long", "source": "more source"}
    headings = []
    for name in names:
        kind = kinds.get(name, "number more" if name in numbers else "more")
        headings.append(Heading(name, kind, falling=name in numbers))
        if name == "robust":
            headings.append(Heading(f"{axis[0]:.0f} – {axis[1]:.0f} %", "bar", falling=True))
    return {
        "mark": MARK,
        "note": likely_note(rows),
        "headings": headings,
        "rows": [_published_cells(row, headings, axis) for row in rows],
    }


def _published_cells(
    row: PublishedRow, headings: Sequence[Heading], axis: tuple[float, float]
) -> list[Cell]:
    texts = row.texts
    cells = []
    for heading in headings:
        name, kind = heading.text, heading.kind
        if kind == "bar":
            bar = (*_scaled(_published_rate(row), axis), row.awp)
            cells.append(Cell("", str(row.robust), "bar", bar=bar))
        elif name == "model":
            remark = "; ".join(
                f"{said} {texts[said]}".replace("attack ", "")
                for said in ("attack", "best known", "clean", "checkpoint")
                if texts[said]
            )
            remark += f"; AWP {LIKELY}" if row.awp_likely else ""
            cells.append(Cell(texts[name], kind=kind, address=web_address(row.link), remark=remark))
        else:
            number = "number" in kind
            sort = texts[name].replace(",", "") if name == "n" else None
            sort = str(row.robust) if name.startswith("95 %") else sort
            cells.append(Cell(texts[name], sort if number else None, kind))
    return cells
