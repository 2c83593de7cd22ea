"""The table of methods as HTML: links, check boxes and details that work without a script.

Ticked rows are compared by the page Compare, to which the form leads. On a phone a row is a card. A
filled diamond is a network trained with AWP, an open circle one without, a triangle one with random
perturbations, a square one of which it is not known.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlencode

from markupsafe import Markup, escape

from bench.board import article, palette
from bench.board.tables import Axis, bar_axis
from bench.catalogue import OBJECTIVES
from bench.notation import ends, percent, percent_interval, plain, points, short_label, web_address
from bench.records.card_text import awp_text
from bench.reliability.figures import short, stated
from bench.stats import audit
from bench.stats.contrasts import Answer
from bench.stats.intervals import Interval
from bench.stats.method_rows import BADGES, MethodRow, settings_text
from bench.stats.versus import twins
from bench.table import CLEAN, WORST_CASE, Group, Row

MOST = 60  # rows of one table; the rest is a button away
_AWP_PAPER = "https://arxiv.org/abs/2004.05884"


def table(group: Group, rows: Sequence[MethodRow], *, compare: bool = True) -> Markup:
    """The rows of a table of methods, a body each; compare: with check boxes."""
    axis = bar_axis(row.rate() for row in rows)
    twin_of = {with_awp: rows[vanilla] for vanilla, with_awp in twins(rows)}
    bodies = Markup("").join(
        _body(group, row, axis, twin_of.get(place), compare) for place, row in enumerate(rows)
    )
    form = (
        '<form class="board-form" action="compare" method="get">'
        '<input type="hidden" name="measurement" value="{}">'
        '<table class="board-methods"><caption>{}</caption>{}{}</table>{}</form>'
    )
    button = '<button type="submit">Compare the ticked rows</button>' if compare else ""
    label = article.measurement_label(group)
    caption = f"Methods, most robust first: {group.heading}"
    return Markup(form).format(label, caption, _head(group, axis), bodies, Markup(button))


def _head(group: Group, axis: Axis) -> Markup:
    attacks = ", ".join(short_label(group.labels[column.name]) for column in group.columns)
    robust = "robust, at most" if group.gradients_alone else "robust"
    form = (
        '<thead><tr><th scope="col">rank</th><th scope="col">method</th>'
        '<th scope="col">minus twin</th><th scope="col">clean</th>'
        '<th scope="col" title="right under every attack: {}">{}, %</th>'
        '<th scope="col" class="axis"><span>{} %</span><span>{} %</span></th>'
        '<th scope="col">checks</th></tr></thead>'
    )
    low, high = (f"{100 * end:.0f}" for end in axis)
    return Markup(form).format(attacks, robust, low, high)


def _body(
    group: Group, row: MethodRow, axis: Axis, twin: MethodRow | None, compare: bool
) -> Markup:
    rate, n = row.rate(), group.n
    rank = row.range_text.replace("-", "–") or "none"
    box = '<input type="checkbox" name="row" value="{}" aria-label="compare {}"> '
    tick = Markup(box).format(row.name, row.name) if compare else Markup()
    form = (
        '<tbody class="{}"><tr><td class="rank" data-label="rank">{}{}</td>'
        '<th scope="row">{}</th><td data-label="minus twin">{}</td>'
        '<td data-label="clean">{}</td>'
        '<td data-label="robust"><b>{}</b> <small>{}</small></td>'
        '<td class="bar">{}</td><td class="checks">{}</td></tr>'
        '<tr class="more"><td colspan="7">{}</td></tr></tbody>'
    )
    return Markup(form).format(
        palette.TRAINED[awp_text(row.card)][0],
        tick,
        rank,
        _name(group, row),
        _difference(group, row, twin),
        percent(row.rate(CLEAN).estimate, n),
        percent(rate.estimate, n),
        percent_interval(rate, n),
        bar(rate, axis, row.each() if not row.alone else ()),
        _badges(row),
        _details(group, row),
    )


def _name(group: Group, row: MethodRow) -> Markup:
    """The name as a link to its page, and the paper of the method."""
    asked = urlencode(article.model_address(group, row.rows[0]))
    form = '<a class="name" href="model?{}" target="_self" title="{}">{}</a>'
    said = Markup(form).format(asked, settings_text(row.card), row.name)
    if address := paper(row):
        said += Markup(" ") + article.link(address, "paper")
    if quoted := short(stated(row.rows[0].record)) if row.alone else "":
        said += Markup("<small>stated by others: {}</small>").format(quoted)
    return said


def paper(row: MethodRow) -> str | None:
    """Where the method, or the network, was published; None where that is not known."""
    card = row.card
    if own := web_address(card.link):
        return own
    if card.train is None or card.objective is None:
        return None
    if card.uses_awp:
        return _AWP_PAPER
    source = OBJECTIVES[card.objective].source
    return f"https://arxiv.org/abs/{source[6:]}" if source.startswith("arXiv ") else None


def _difference(group: Group, row: MethodRow, twin: MethodRow | None) -> Markup:
    """The difference to the twin, which leads to the comparison of both where it is in the table."""
    if row.difference is None:
        return Markup('<span class="none">–</span>')
    sign = row.against.verdict.sign if isinstance(row.against, Answer) else 0
    kind = {1: "better", -1: "worse"}.get(sign, "nothing")
    text = Markup('<b class="{}">{}</b> <small>{}</small>').format(
        kind, points(row.difference.estimate), ends(row.difference)
    )
    return text if twin is None else article.link_to_compare(group, (row.name, twin.name), text)


def _badges(row: MethodRow) -> Markup:
    many = f"n = {row.group.n:,}"
    found = [*row.badges, *(["one network"] if row.alone else []), many]
    meanings = BADGES | {
        "one network": "its interval is over images, not over seeds",
        many: "test images of every network",
    }
    said = article.each(
        '<span class="badge" title="{}">{}</span> ', ((meanings[name], name) for name in found)
    )
    if told := "; ".join(run.challenge_text for run in (*row.rows, *row.others) if run.challenges):
        said += Markup('<span class="badge" title="{}">challenged</span> ').format(told)
    doubt = Markup('<span class="badge doubt">{}</span>').format(row.unranked)
    return said + doubt if row.unranked else said


def _details(group: Group, row: MethodRow) -> Markup:
    """Every network of the row under every attack, folded."""
    measures = [CLEAN, *(column.name for column in group.columns), WORST_CASE]
    labels = {**group.labels, WORST_CASE: "all"}
    head = article.each('<th scope="col">{}</th>', (short_label(labels[m]) for m in measures))
    runs = sorted((*row.rows, *row.others), key=lambda run: run.card.seed or 0)
    lines = Markup("").join(_run(group, run, measures) for run in runs)
    summary = "every attack"
    if not row.alone:
        kept = "" if not row.others else ", best and last"
        summary = f"{row.seeds} seeds{kept}, every attack"
    form = (
        "<details><summary>{}</summary><table><thead><tr>"
        '<th scope="col">network</th>{}</tr></thead><tbody>{}</tbody></table>{}</details>'
    )
    audits = article.each(
        "<p>Audit of {}: {}.</p>",
        (
            (run.card.name, audit.sentence(each, group.n))
            for run in runs
            for each in run.record.audits
        ),
    )
    return Markup(form).format(summary, head, lines, audits)


def _run(group: Group, run: Row, measures: Sequence[str]) -> Markup:
    kept = run.texts["epoch kept"]
    seed = "" if run.card.seed is None else f"seed {run.card.seed}, "
    asked = urlencode(article.model_address(group, run))
    name = f"{seed}{kept}" if run.card.train is not None else plain(run.card.name, 80)
    link = Markup('<a href="model?{}" target="_self">{}</a>').format(asked, name)
    cells = article.each("<td>{}</td>", (percent(run.rates[m].estimate, group.n) for m in measures))
    return Markup('<tr><th scope="row">{}{}</th>{}</tr>').format(
        link, escape(f" ({run.unranked})" if run.unranked else ""), cells
    )


def bar(interval: Interval, axis: Axis, seeds: Sequence[float] = ()) -> Markup:
    """An interval on the axis of its table, a tick a seed."""

    def at(rate: float) -> float:
        share = (rate - axis[0]) / (axis[1] - axis[0])
        return round(100 * min(max(share, 0.0), 1.0), 1)

    ticks = article.each('<i class="tick" style="left:{}%"></i>', map(at, seeds))
    place = f"--low:{at(interval.low)}%;--high:{at(interval.high)}%;--at:{at(interval.estimate)}%"
    form = '<span class="board-bar" style="{}" aria-hidden="true">{}<i></i><b></b></span>'
    return Markup(form).format(place, ticks)
