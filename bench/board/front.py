"""What stands around the table on the landing page: the answer, why to trust it, what to do next."""

from __future__ import annotations

from urllib.parse import urlencode

import streamlit as st
from markupsafe import Markup

from bench.board import article, records
from bench.board.article import small
from bench.board.dots import dots
from bench.board.forest import forest, line_of
from bench.board.points import Point, of_methods
from bench.notation import plain
from bench.stats.comparisons import RULE, answer_in_a_sentence, front
from bench.table import Group, Leaderboard

_LEAST_POINTS, _MOST_POINTS = 3, 60  # of the scatter; two say no more than their rows
_ANSWER = "answer"  # what is made once a state of the folder
_PAPER = "https://arxiv.org/abs/2004.05884"
_TILES = (
    (
        "Every break is stored",
        "A network is called broken on an image only where the adversarial image is kept and was "
        "judged again by the untouched network.",
        "how-it-is-measured",
        "How it is measured",
    ),
    (
        "Rank ranges, not decimals",
        "Rows that the paired tests do not separate share a range. A difference comes with its "
        "interval, over seeds.",
        "did-awp-help",
        "Every comparison",
    ),
    (
        "Check a number yourself",
        "One command proves the stored images again, with forward passes alone; minutes, no GPU.",
        "model",
        "Every model has its command",
    ),
)


def show_answer() -> None:
    """The answer in a sentence, and the comparisons that it rests on."""
    st.html(records.once(_ANSWER, _answer))


def answer_is_known() -> bool:
    """Whether the answer is at hand for this state of the folder."""
    return records.made(_ANSWER)


def _answer() -> Markup:
    found = records.comparisons()
    said = Markup('<p class="board-p board-lead">{}</p>').format(answer_in_a_sentence(found))
    if not found:
        return said
    form = '{}{}<details class="board-rule"><summary>How these were chosen</summary>{}</details>'
    return Markup(form).format(said, forest([line_of(one) for one in front(found)]), RULE)


def show_trust() -> None:
    """Three reasons, and the command that checks them."""
    tiles = article.each('<div><b>{}</b><p>{}</p><a href="{}" target="_self">{}</a></div>', _TILES)
    st.html(Markup('<div class="board-tiles">{}</div>').format(tiles))
    article.command(
        "python -m bench verify RECORD", "RECORD: a folder of results/ with its evidence"
    )


def show_scatter(group: Group) -> None:
    """Clean against robust accuracy, a point a method, twins joined."""
    rows = [row for row in records.methods(group).rows if row.rank is not None]
    if len(rows) < _LEAST_POINTS:
        return
    rows = rows[:_MOST_POINTS]
    st.header("Clean against robust", anchor=False)

    def page_of(point: Point) -> str:
        return f"model?{urlencode(article.model_address(group, rows[point.place].rows[0]))}"

    st.html(records.once_of(group, "dots", lambda: dots(*of_methods(rows), page_of)))
    page = article.link_to_table(group, "Other costs", "trade-offs")
    small(Markup("An arrow leads from a vanilla twin to its network with AWP. {}.").format(page))


def show_footer(board: Leaderboard) -> None:
    """How to hand in a network, how to cite, and of when the numbers are."""
    st.header("Bring your own network", anchor=False)
    article.bullets(
        (
            Markup("Examine it: {}").format(
                article.code("python -m bench doctor CHECKPOINT --claimed 0.84")
            ),
            Markup("Measure it: {}").format(
                article.code("make submit CHECKPOINT=net.pt ARCH=small_cnn DATASET=mnist NAME=mine")
            ),
            "Send the record with its evidence: it is proven again before it has a rank.",
        )
    )
    held = board.collection.records
    newest = max((entry.created for entry in held), default="")[:10]
    count = (
        f"{len(held):,} record{'' if len(held) == 1 else 's'}, the newest of {plain(newest)}. "
        if newest
        else ""
    )
    source = records.source()
    where = article.link(source, "Source and records") + ". " if source else ""
    limits = Markup('<a href="how-it-is-measured" target="_self">What the numbers do not say</a>.')
    method = article.link(_PAPER, "Wu, Xia, Wang 2020")
    form = "{}{}{} Weight perturbation is the method of {}."
    small(Markup(form).format(count, where, limits, method))
    with st.expander("Cite this board"):
        article.command(citation(newest, source))


def citation(newest: str, source: str | None) -> str:
    """This board in BibTeX; a number has its own entry on the page of its model."""
    lines = [
        "@misc{robustness-benchmark,",
        "  title = {Robustness benchmark of adversarially trained classifiers with and without",
        "           adversarial weight perturbation},",
        f"  note = {{Records up to {plain(newest)}}},",
    ]
    if source:
        lines.append(f"  howpublished = {{\\url{{{source}}}}},")
    return "\n".join([*lines, "}"])
