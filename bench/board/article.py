"""What every page is made of: paragraphs, lists, tables, charts, and the small print below them.

Names, links and messages come out of record files that anybody may have written. They are shown
through `st.html` after escaping, in the cells of a data frame, or not at all: never as Markdown.
"""

from __future__ import annotations

import math
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlencode

import pyarrow as pa
import streamlit as st
from markupsafe import Markup, escape
from streamlit.elements.lib.column_types import ColumnConfig

from bench import catalogue
from bench.notation import plain, web_address
from bench.schema import EvaluationRecord
from bench.stats.contrasts import Answer
from bench.stats.intervals import Interval
from bench.stats.verdicts import Verdict
from bench.table import Group, Leaderboard, Row

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

Drawn = TypeVar("Drawn")

MOST_ON_A_PHONE = 50
TALLEST_TABLE = 16  # rows shown before a table scrolls
# A chart is read, not played with: no toolbar, no zoom that a phone's scroll could trigger.
CHART = {"displayModeBar": False, "scrollZoom": False}
LONGEST_NAME = 44  # characters of a name in a list; its page has it whole
MODEL_PAGE = str(Path(__file__).with_name("model.py"))  # wherever the board is installed
DEMO = Markup("<strong>Demo data</strong>: a toy that trains in seconds, not a benchmark. ")
# Figure or table -> what a screen reader says of it, and the small print below: whose intervals it has.
CAPTIONS = {
    "every attack": (
        "Differences of every method under every attack, with intervals over seeds",
        "Percentage points, with minus without. Student's t over seeds; for the worst case also the "
        "percentile interval of seeds and images both drawn again.",
    ),
    "method": (
        "{} minus {} under every attack, with intervals over seeds",
        "Marks and lines: mean over seeds with Student's t interval, 95 %. Ticks: the seeds. The "
        "colour is the verdict on the worst case; the other lines have none and only describe.",
    ),
    "pairs": (
        "Differences of every pair, AWP minus vanilla",
        "Intervals: Tango's for paired proportions, 95 %. p: exact McNemar, two-sided.",
    ),
    "two models": (
        "{} minus {} under every attack",
        "Percentage points. Intervals: Tango's for paired proportions, 95 %; p: exact McNemar, "
        "two-sided, of this pair alone. The rank ranges of the leaderboard correct for all pairs.",
    ),
    "gap": (
        "",
        "Robust generalisation gap: the same PGD-20 on training and on test images, at the trained "
        "weights, in eval mode, unaugmented. Robust loss {:.2f} and {:.2f} nats.",
    ),
    "gaps": (
        "Robust accuracy on training and test images, and the gap, of every model",
        "Robust generalisation gap: the same PGD-20 on training and on test images, at the trained "
        "weights, in eval mode, unaugmented. Intervals: Newcombe's for two independent proportions, "
        "95 %.",
    ),
    "training": (
        "Robust accuracy and {2}loss over training, {3} and {4}",
        "{0}PGD during training on {1}, at the trained weights, in eval mode, unaugmented: a weaker "
        "attack than the columns of the tables. Nothing is chosen on test images.",
    ),
    "attacks": (
        "Accuracy, clean and under every column, with 95 % intervals",
        "Share of all images standing, with Wilson's 95 % interval. Every column starts from all "
        "images that are classified correctly; its attacks run one after another.",
    ),
    "stated": (
        "What others state of this model beside what was measured here",
        "The word of their sources, never measured here and never ranked. Compared where threat and "
        "images are the same: robust is what stood under every attack of this record, its audit too. "
        "A share means the counts that round to it.",
    ),
    "after each attack": ("Images standing after each attack", ""),
    "security curve": (
        "Share of images standing at every radius, at most",
        "An upper bound at every radius: an image falls at the smallest distance at which it was seen "
        "misclassified, and a better attack may find nearer points. Band: Wilson, 95 %.",
    ),
    "classes": (
        "Clean and worst-case accuracy of each class, with 95 % intervals",
        "About {:,} images a class, so the intervals are wide.",
    ),
    "confusion": (
        "Labels against answers under attack, as counts of images",
        "Answers under {}: that of the verified adversarial image where one was found, else that of "
        "the clean image.",
    ),
    "gallery": (
        "",
        "The perturbation is scaled to its own largest value; grey is no change. All of these lie in "
        "the ball {}. Image numbers count from 0 in {}.",
    ),
    "history": ("All records of this model, newest first", ""),
    "trade-off": (
        "",
        "A point a method, the mean over its seeds; an arrow leads from the twin without AWP. Bars "
        "where there is room: 95 %, over seeds, of one network over images. Select a point of ours to "
        "open its model. {}{}",
    ),
    "published": (
        "Published rows under {0}: {1}",
        "Of {2:,} neighbouring pairs with an interval, those of {3:,} overlap. Intervals are Wilson's, "
        "95 %, computed here where the number of images is known. Sources give no outcome for each "
        "image, so no paired test can separate these rows.",
    ),
}


# ---------------------------------------------------------------- foreign text and links


def shown(text: object, limit: int = 200) -> Markup:
    """Foreign text as harmless HTML: one line, no control characters, escaped."""
    return escape(plain(text, limit))


def code(text: object) -> Markup:
    """Foreign text as harmless HTML in the type of code."""
    return Markup("<code>{}</code>").format(plain(text, 400))


def command(text: str, remark: str = "") -> None:
    """What is to be copied: a click takes all of it. st.code would load 1.5 MB to colour it."""
    form = '<pre class="board-command" tabindex="0" title="A click selects it">{}</pre>{}'
    said = Markup('<p class="board-p board-small">{}</p>').format(remark) if remark else ""
    st.html(Markup(form).format(text, said))


def link(url: str, text: str | None = None) -> Markup:
    """A link where it plainly leads to a web address, else the text as it is."""
    address = web_address(url)
    text = plain(url, 500) if text is None else text
    if address is None:
        return escape(text)
    form = '<a href="{}" rel="nofollow noopener noreferrer" target="_blank">{}</a>'
    return Markup(form).format(address, text)


def class_names(record: EvaluationRecord) -> list[str]:
    """The names of a record's classes; `class 7` where its data set is not known."""
    info = catalogue.DATASETS.get(record.dataset)
    known = info.classes if info is not None else ()
    numbered = (f"class {k}" for k in range(len(known), record.card.class_count))
    return [plain(name, 30) for name in (*known, *numbered)]


def model_address(group: Group, row: Row) -> dict[str, str]:
    """What the address of the model page says to show a row of a table."""
    return {"name": row.card.name, "measurement": measurement_label(group)}


def measurement_label(group: Group) -> str:
    """`digits linf:0.15 standard n=1000`: how an address names a table."""
    return f"{group.dataset} {group.threat} {group.protocol_label} n={group.n}{group.apart}"


def image_labels(groups: Sequence[Group]) -> dict[tuple[str, ...], str]:
    """Group key -> how an address names its images: count and split; the hash where they agree."""
    labels = [f"{group.n:,} ({plain(group.split, 60)})" for group in groups]
    return {
        group.key: label if labels.count(label) == 1 else f"{label} {group.examples_sha256[:8]}"
        for group, label in zip(groups, labels, strict=True)
    }


def table_address(group: Group) -> dict[str, str]:
    """What an address says to show a table: the values of its filters."""
    return {
        "dataset": group.dataset,
        "threat": str(group.threat),
        "protocol": group.protocol_label,
        "images": image_labels([group])[group.key],
    }


def link_to_table(group: Group, text: str, page: str = "./") -> Markup:
    """A page, the leaderboard or another, with the filters that show this group."""
    asked = urlencode(table_address(group))
    return Markup('<a href="{}?{}" target="_self">{}</a>').format(page, asked, text)


def link_to_model(group: Group, row: Row) -> Markup:
    """The name of a row's model, leading to its page with this measurement."""
    asked = urlencode(model_address(group, row))
    return Markup('<a href="model?{}" target="_self">{}</a>').format(asked, row.card.name)


# ---------------------------------------------------------------- the model page and links to it


def link_to_name(
    name: str, text: str | None = None, *, elsewhere: bool = False, measurement: str = ""
) -> Markup:
    """The page of a model; of a name that one of ours has too, `elsewhere` asks for the published."""
    asked = {"name": name}
    asked |= {"measurement": measurement} if measurement else {}
    asked |= {"elsewhere": name} if elsewhere else {}
    said = plain(name, LONGEST_NAME) if text is None else text
    form = '<a href="model?{}" target="_self" title="{}">{}</a>'
    return Markup(form).format(urlencode(asked), plain(name, 200), said)


def link_to_compare(group: Group, names: Sequence[str], text: str) -> Markup:
    """The page that compares models of a table, in this order."""
    asked = [("measurement", measurement_label(group)), *(("row", name) for name in names)]
    return Markup('<a href="compare?{}" target="_self">{}</a>').format(urlencode(asked), text)


def lines(
    headings: Sequence[str], rows: Iterable[Sequence[object]], *, labels: bool = False
) -> None:
    """A table that is read, not sorted: cells are escaped unless they are Markup.

    A phone shows the cells of a line one below the other; labels: each after its heading.
    """
    head = each('<th scope="col">{}</th>', headings)
    cell = '<td data-label="{}">{}</td>'
    body = each("<tr>{}</tr>", (each(cell, zip(headings, row, strict=True)) for row in rows))
    form = '<div class="board-lines{}"><table><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>'
    st.html(Markup(form).format(" labelled" if labels else "", head, body))


def badges(names: Mapping[str, str]) -> None:
    """Short words on how far numbers can be relied on: name -> what it means."""
    spans = each('<span title="{}">{}</span>', ((meaning, name) for name, meaning in names.items()))
    more = '<a href="how-it-is-measured#checks" target="_self">what this means</a>'
    st.html(Markup(f'<p class="board-badges">{{}}{more}</p>').format(spans))


# ---------------------------------------------------------------- words


def title(name: str) -> None:
    """A model's name as the heading of a page; st.title would read it as Markdown."""
    st.html(Markup('<h1 class="board-title">{}</h1>').format(plain(name)))


def paragraph(text: str | Markup, kind: str = "") -> None:
    """A paragraph of text width; anything that is not Markup is escaped."""
    st.html(Markup('<p class="board-p {}">{}</p>').format(kind, text))


def small(text: str | Markup) -> None:
    """A paragraph in small print."""
    paragraph(text, "board-small")


def caption(of: str, *values: object) -> None:
    """The small print below a figure or a table."""
    small(CAPTIONS[of][1].format(*values))


def each(form: str, items: Iterable[object]) -> Markup:
    """Items one after another in an HTML form; a tuple fills several places of it."""
    filled = (item if isinstance(item, tuple) else (item,) for item in items)
    return Markup("").join(Markup(form).format(*values) for values in filled)


def facts(entries: Iterable[tuple[str, Markup]]) -> None:
    """A list of names and values."""
    lines = each("<dt>{}</dt><dd>{}</dd>", entries)
    st.html(Markup('<dl class="board-facts">{}</dl>').format(lines))


def bullets(items: Iterable[str | Markup]) -> None:
    """A list of points."""
    st.html(Markup('<ul class="board-list">{}</ul>').format(each("<li>{}</li>", items)))


def numbers(entries: Mapping[str, tuple[str, str]]) -> None:
    """Large numbers: name -> (number, what to know about it)."""
    form = "<div><span>{}</span><b>{}</b><span>{}</span></div>"
    cells = each(form, ((name, *said) for name, said in entries.items()))
    st.html(Markup('<div class="board-numbers">{}</div>').format(cells))


def verdict_class(verdict: Verdict) -> str:
    """The class names that give a verdict its colour: that of its marks in the charts."""
    way = {1: "better", -1: "worse"}.get(verdict.sign, "open")
    return way if verdict.headline or not verdict.sign else f"{way} indication"


def around_zero(interval: Interval, reach: float, kind: str) -> Markup:
    """An interval as a line with zero in its middle; reach: how far the line goes to either side.

    kind: better, worse or open, as `verdict_class` says it. Empty where there is no interval.
    """
    if not reach or math.isinf(reach) or math.isinf(interval.low):
        return Markup()
    at, low, high = (
        round(50 + 50 * max(-1.0, min(1.0, end / reach)), 1)
        for end in (interval.estimate, interval.low, interval.high)
    )
    form = '<span class="board-line {}" style="--at:{}%;--low:{}%;--high:{}%"><i></i><b></b></span>'
    return Markup(form).format(kind, at, low, high)


def answers(given: Iterable[Answer]) -> None:
    """What methods did, a sentence each, with the colour of its verdict."""
    form = Markup('<p class="board-verdict {}">{}: {}: <strong>{}.</strong></p>')
    for one in given:
        kind = verdict_class(one.verdict)
        st.html(form.format(kind, one.what, one.difference, one.verdict.words))


# ---------------------------------------------------------------- what fails alone


def alone(what: str, draw: Callable[..., Drawn], *given: object) -> Drawn | None:
    """Draws a part of a page; where it raises, one sentence stands in its place and None is returned.

    Records are anybody's: one that a part cannot draw may not take the rest of the page with it.
    """
    try:
        return draw(*given)
    except Exception:
        traceback.print_exc(file=sys.stderr)
        paragraph(f"{what} could not be shown. The reason is in the server's log.", "board-failed")
        return None


def drawable(rows: Sequence[Drawn], draw: Callable[[Drawn], object]) -> list[Drawn]:
    """The rows that can be drawn; what is wrong with another is the operator's to read."""
    found = []
    for row in rows:
        try:
            draw(row)
        except Exception:
            traceback.print_exc(file=sys.stderr)
        else:
            found.append(row)
    return found


# ---------------------------------------------------------------- tables and charts

Line = tuple[str, str | Markup, str, str]  # rank, name, number, what to know about it


def rows(entries: Sequence[Line], more: str) -> None:
    """A table for a narrow screen; more: where the lines are that are too many for it."""
    form = "<li><span>{}</span><span>{}</span><b>{}</b><small>{}</small></li>"
    lines = each(form, entries[:MOST_ON_A_PHONE])
    st.html(Markup('<ul class="board-rows">{}</ul>').format(lines))
    if len(entries) > MOST_ON_A_PHONE:
        small(f"and {len(entries) - MOST_ON_A_PHONE} more: {more}")


def table_height(count: int) -> int:
    """Pixels that show a whole table up to the tallest."""
    return 38 + 35 * min(count, TALLEST_TABLE)


def table(
    data: pa.Table, of: str, *values: object, columns: Mapping[str, ColumnConfig] | None = None
) -> None:
    """A data frame with its caption."""
    alt, height = CAPTIONS[of][0].format(*values), table_height(len(data))
    st.dataframe(data, column_config=columns, hide_index=True, height=height, alt=alt)
    if CAPTIONS[of][1]:
        caption(of, *values)


def chart(figure: Figure, of: str, *values: object, width: int | None = None) -> None:
    """A chart of the width of the page, or narrower, with its caption."""
    alt = CAPTIONS[of][0].format(*values)
    st.plotly_chart(figure, config=CHART, alt=alt, width=width or "stretch")
    caption(of, *values)


# ---------------------------------------------------------------- what is missing


def no_records(board: Leaderboard) -> None:
    """What to do where there is nothing to show yet."""
    st.info("There are no records here yet.", icon=None)
    paragraph("A record is what one measurement leaves behind. To make some:")
    st.code(
        "make demo        # a few minutes: trains and measures small networks on 8x8 digits\n"
        "make train-all   # the matched pairs, with and without weight perturbation\n"
        "make evaluate    # measures every checkpoint that has no record yet",
        language="bash",
        wrap_lines=True,
    )
    small("The demo writes to var/demo: streamlit run app.py -- --results var/demo/results")
    notes(board)


def notes(board: Leaderboard) -> None:
    """What is not in the tables, and why: nothing is dropped silently."""
    if not board.notes:
        return
    st.subheader("Not in the tables", anchor=False)
    paragraph("Records that failed, were withdrawn, or cannot be read.")
    bullets(shown(note, 500) for note in board.notes[:50])
    if len(board.notes) > 50:
        small(f"and {len(board.notes) - 50} more; python -m bench table lists them all.")
