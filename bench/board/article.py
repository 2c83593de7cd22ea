"""What every page is made of: paragraphs, lists of facts, notes; foreign text made harmless.

Names, links and messages come out of record files that anybody may have written. They are shown
through `st.html` after escaping, in the cells of a data frame, or not at all: never as Markdown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import urlencode

import streamlit as st
from markupsafe import Markup, escape

from bench.notation import plain, web_address
from bench.stats.contrasts import Answer
from bench.stats.verdicts import Verdict
from bench.table import Group, Leaderboard, Row

MOST_ON_A_PHONE = 50
DEMO = Markup("<strong>Demo data</strong>: a toy that trains in seconds, not a benchmark. ")
_STYLE = """<style>
.block-container, [data-testid="stMainBlockContainer"] {
  padding-top: 4.5rem; padding-bottom: 4rem; max-width: 78rem;
}
.board-p { max-width: 46rem; margin: 0; line-height: 1.55; }
.board-small { font-size: 0.875rem; opacity: 0.8; }
.board-p code, .board-facts code, .board-list code {
  font-size: 0.85em; overflow-wrap: anywhere; background: rgba(128, 128, 128, 0.14);
  padding: 0.1em 0.15em; border-radius: 0.25em; box-decoration-break: clone;
}
h1.board-title { font-size: 2.2rem; font-weight: 700; overflow-wrap: anywhere; padding: 0;
  line-height: 1.2; }
dl.board-facts, ul.board-rows { margin: 0 !important; padding: 0 !important; }
.board-facts dt, .board-facts dd, .board-rows li { margin-left: 0 !important; }
.board-p a, .board-facts a, .board-rows a { color: inherit; text-underline-offset: 0.15em; }
.board-facts { display: grid; grid-template-columns: minmax(8rem, max-content) 1fr;
  gap: 0.35rem 1.25rem; max-width: 60rem; }
.board-facts dt { opacity: 0.7; }
.board-facts dd { margin: 0; overflow-wrap: anywhere; }
.board-list { max-width: 46rem; margin: 0; padding-left: 1.2rem; line-height: 1.5; }
.board-list li { margin: 0.2rem 0; overflow-wrap: anywhere; }
.board-verdict { border-left: 4px solid rgba(128, 128, 128, 0.5); padding: 0.1rem 0 0.1rem 0.8rem;
  max-width: 46rem; margin: 0.2rem 0; line-height: 1.5; overflow-wrap: anywhere; }
.board-verdict.better { border-color: #3d8bcb; }
.board-verdict.worse { border-color: #dd8520; }
.board-verdict.indication { border-left-style: dashed; }
.board-numbers { display: flex; flex-wrap: wrap; gap: 0.75rem 2.5rem; margin: 0.25rem 0; }
.board-numbers div { line-height: 1.3; }
.board-numbers b { display: block; font-size: 1.6rem; font-weight: 600; }
.board-numbers span { font-size: 0.85rem; opacity: 0.75; }
.board-rows { list-style: none; }
.board-rows li { display: grid; grid-template-columns: 2rem 1fr max-content; gap: 0 0.5rem;
  padding: 0.5rem 0; border-bottom: 1px solid rgba(128, 128, 128, 0.25); }
.board-rows li:has(> span:empty) { grid-template-columns: 0 1fr max-content; column-gap: 0; }
.board-rows a, .board-rows span { overflow-wrap: anywhere; }
.board-rows b { font-weight: 600; text-align: right; }
.board-rows small { grid-column: 2 / 4; opacity: 0.75; }
/* A wide table needs a wide screen; a phone gets the same rows as a list. */
[class*="st-key-narrow"], div:has(> [class*="st-key-narrow"]) { display: none; }
@media (max-width: 640px) {
  [class*="st-key-wide"], div:has(> [class*="st-key-wide"]) { display: none; }
  [class*="st-key-narrow"], div:has(> [class*="st-key-narrow"]) { display: flex; }
  .board-facts { grid-template-columns: 1fr; gap: 0; }
  .board-facts dd { margin-bottom: 0.6rem; }
}
.board-scroll { overflow-x: auto; }
.board-study table { border-collapse: collapse; font-size: 0.875rem; }
.board-study :is(th, td) { text-align: left; padding: 0.25rem 0.8rem 0.25rem 0;
  border-bottom: 1px solid rgba(128, 128, 128, 0.25); white-space: nowrap; }
.board-study :is(th, td):first-child { white-space: normal; min-width: 9rem; max-width: 26rem;
  overflow-wrap: break-word; }
.board-study .board-scroll { margin-bottom: 1rem; }
/* An interval around zero: a line between its bounds, a point at the estimate. */
.board-line { position: relative; display: inline-block; width: 6rem; height: 0.9rem;
  margin-right: 0.6rem; vertical-align: middle;
  background: linear-gradient(rgba(128, 128, 128, 0.6) 0 0) center / 1px 100% no-repeat; }
.board-line i { position: absolute; left: var(--low); right: calc(100% - var(--high));
  top: calc(50% - 1px); height: 2px; background: currentColor; }
.board-line b { position: absolute; left: calc(var(--at) - 3px); top: calc(50% - 3px); width: 6px;
  height: 6px; border-radius: 50%; background: currentColor; }
.board-line.better { color: #3d8bcb; }
.board-line.worse { color: #dd8520; }
.board-line.indication b { width: 4px; height: 4px; background: none; border: 1px solid; }
.board-line.open { opacity: 0.45; }
</style>"""


def style() -> None:
    """The few rules that the pages add to Streamlit's own."""
    st.html(_STYLE)


def shown(text: object, limit: int = 200) -> Markup:
    """Foreign text as harmless HTML: one line, no control characters, escaped."""
    return escape(plain(text, limit))


def code(text: object, limit: int = 400) -> Markup:
    return Markup("<code>{}</code>").format(plain(text, limit))


def link(url: str) -> Markup:
    """A link where it plainly leads to a web address, else the text as it is."""
    address = web_address(url)
    if address is None:
        return shown(url, 500)
    return Markup(
        '<a href="{0}" rel="nofollow noopener noreferrer" target="_blank">{0}</a>'
    ).format(address)


def measurement_label(group: Group) -> str:
    """`digits linf:0.15 standard n=1000`: how an address names a table."""
    return f"{group.dataset} {group.threat} {group.protocol_label} n={group.n}"


def image_labels(groups: Sequence[Group]) -> dict[tuple[str, ...], str]:
    """Group key -> how an address names its images: count and split; the hash where they agree."""
    labels = [f"{group.n:,} ({plain(group.split, 60)})" for group in groups]
    return {
        group.key: label if labels.count(label) == 1 else f"{label} {group.examples_sha256[:8]}"
        for group, label in zip(groups, labels, strict=True)
    }


def link_to_table(group: Group, text: str, page: str = "./") -> Markup:
    """A page, the leaderboard or another, with the filters that show this group."""
    filters = {
        "dataset": group.dataset,
        "threat": str(group.threat),
        "protocol": group.protocol_label,
        "images": image_labels([group])[group.key],
    }
    return Markup('<a href="{}?{}" target="_self">{}</a>').format(page, urlencode(filters), text)


def link_to_model(group: Group, row: Row) -> Markup:
    """The name of a row's model, leading to its page with this measurement."""
    address = urlencode({"name": row.card.name, "measurement": measurement_label(group)})
    return Markup('<a href="model?{}" target="_self">{}</a>').format(address, row.card.name)


def title(name: str) -> None:
    """A model's name as the heading of a page; st.title would read it as Markdown."""
    st.html(Markup('<h1 class="board-title">{}</h1>').format(plain(name)))


def paragraph(text: str | Markup, kind: str = "") -> None:
    """A paragraph of text width; anything that is not Markup is escaped."""
    st.html(Markup('<p class="board-p {}">{}</p>').format(kind, text))


def small(text: str | Markup) -> None:
    """A paragraph in small print."""
    paragraph(text, "board-small")


def facts(entries: Mapping[str, str | Markup]) -> None:
    """A list of names and values; empty values are left out."""
    rows = (Markup("<dt>{}</dt><dd>{}</dd>").format(k, v) for k, v in entries.items() if v)
    st.html(Markup('<dl class="board-facts">{}</dl>').format(Markup("").join(rows)))


def bullets(items: Iterable[str | Markup]) -> None:
    lines = Markup("").join(Markup("<li>{}</li>").format(item) for item in items)
    st.html(Markup('<ul class="board-list">{}</ul>').format(lines))


def numbers(entries: Mapping[str, tuple[str, str]]) -> None:
    """Large numbers: name -> (number, what to know about it)."""
    cells = (
        Markup("<div><span>{}</span><b>{}</b><span>{}</span></div>").format(name, number, remark)
        for name, (number, remark) in entries.items()
    )
    st.html(Markup('<div class="board-numbers">{}</div>').format(Markup("").join(cells)))


def verdict_class(verdict: Verdict) -> str:
    """The class names that give a verdict its colour: that of its marks in the charts."""
    way = {1: "better", -1: "worse"}.get(verdict.sign, "open")
    return way if verdict.headline or not verdict.sign else f"{way} indication"


def answer(given: Answer) -> None:
    """What a method did, as its sentence, with the colour of the verdict."""
    form = '<p class="board-verdict {}">{}: {}: <strong>{}.</strong></p>'
    kind, words = verdict_class(given.verdict), given.verdict.words
    st.html(Markup(form).format(kind, given.what, given.difference, words))


def rows(entries: Sequence[tuple[str, str | Markup, str, str]], more: str) -> None:
    """A table for a narrow screen: (rank, name, number, what to know about it) a line."""
    lines = Markup("").join(
        Markup("<li><span>{}</span><span>{}</span><b>{}</b><small>{}</small></li>").format(*entry)
        for entry in entries[:MOST_ON_A_PHONE]
    )
    st.html(Markup('<ul class="board-rows">{}</ul>').format(lines))
    if len(entries) > MOST_ON_A_PHONE:
        small(f"and {len(entries) - MOST_ON_A_PHONE} more: {more}")


def no_records(board: Leaderboard) -> None:
    """What to do where there is nothing to show yet."""
    st.info("There are no records here yet.", icon=None)
    paragraph("A record is what one measurement leaves behind. To make some:")
    st.code(
        "make demo        # a few minutes: trains and measures small networks on 8x8 digits\n"
        "make train-all   # the matched pairs, with and without weight perturbation\n"
        "make evaluate    # measures every checkpoint that has no record yet",
        language="bash",
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
