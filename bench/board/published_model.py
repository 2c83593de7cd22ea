"""The page of a model that others measured: its numbers under each attack, and who says so."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

import streamlit as st
from markupsafe import Markup

from bench.board import article
from bench.board.article import link, link_to_name, paragraph, small
from bench.notation import plain
from bench.published import MARK, PublishedRow, beside, likely_note
from bench.published.files import NORMS, address
from bench.table import Leaderboard

_ELSEWHERE = "elsewhere"  # in the address: the published model of a name that one of ours has too
_ZOO = "robustbench:"
_BOARDS = [
    ("cifar10", "linf"),
    ("cifar10", "l2"),
    ("cifar100", "linf"),
]  # whose weights are read here
_OPEN = 3  # tables that are not folded
_MOST = 6  # lines of one before the rest is folded


def asked() -> bool:
    """Whether the address asks for the published model where one of ours has its name."""
    return _ELSEWHERE in st.query_params


def forget() -> None:
    """Another model was chosen: what the address said of the last one means nothing any more."""
    st.query_params.pop(_ELSEWHERE, None)


def show(board: Leaderboard, name: str, rows: Sequence[PublishedRow], both: bool) -> None:
    """What its sources say, and our own record of it. both: whether one of ours has its name."""
    article.badges({MARK: "the word of its source: never ranked with what is measured here"})
    _show_what(rows)
    _show_ours(board, name, rows, both)
    tables = sorted(
        beside(rows).items(),
        key=lambda each: (-len(each[1]), each[0][0], each[0][1].norm != "linf"),
    )
    for place, ((dataset, threat), found) in enumerate(tables):
        if place < _OPEN:
            st.header(f"{plain(dataset, 60)}, {threat}", anchor=False)
            _show_numbers(found)
        else:
            with st.expander(f"{plain(dataset, 60)}, {threat}"):
                _lines(found)
    if any(row.interval is not None for row in rows):
        small("Intervals: Wilson's, 95 %, computed here where the number of images is known.")


def _show_what(rows: Sequence[PublishedRow]) -> None:
    """Architecture, paper, and whether weights were perturbed."""
    said = list(dict.fromkeys(plain(row.architecture, 60) for row in rows if row.architecture))
    shown = ", ".join(said[:3]) + (f" and {len(said) - 3} more" if len(said) > 3 else "")
    papers = {
        (row.title, row.authors, row.venue, row.link): None for row in rows if plain(row.title)
    }
    cited = [
        Markup("{}{}").format(
            link(address_, plain(title, 200)),
            "".join(f", {plain(text, 100)}" for text in (authors, venue) if text),
        )
        for title, authors, venue, address_ in papers
    ]
    paragraph(Markup("; ").join(filter(None, (Markup("{}").format(shown), *cited))) + ".")
    awp = sorted({row.awp_text for row in rows} - {"likely"})
    if awp:
        paragraph(f"AWP: {', '.join(awp)}.")
    if likely := list(dict.fromkeys(plain(row.awp_source, 300) for row in rows if row.awp_likely)):
        paragraph(f"{likely_note(rows)} Its code: {'; '.join(likely)}.")


def _show_ours(board: Leaderboard, name: str, rows: Sequence[PublishedRow], both: bool) -> None:
    """Our own records of it: those of the entry of RobustBench's zoo, and those of its name."""
    found = {} if not both else {name: "which has its name"}
    for group in board.groups:
        for member in group.members:
            if _ZOO in member.record.card_json:  # a card is made only where it may matter
                card = member.record.card
                if card.link.startswith(_ZOO) and card.link.split("/")[-1] == name:
                    found[card.name] = "of the same network"
    if found:
        links = Markup(", ").join(
            Markup("{} ({})").format(link_to_name(ours, f"our record of {plain(ours, 100)}"), how)
            for ours, how in found.items()
        )
        paragraph(Markup("Measured here: {}.").format(links))
        return
    entries = [row for row in rows if row.source.startswith("RobustBench/")]
    entries = [row for row in entries if (row.dataset, row.threat.norm) in _BOARDS]
    if entries:
        row = min(entries, key=lambda row: _BOARDS.index((row.dataset, row.threat.norm)))
        norm = next(theirs for theirs, ours in NORMS.items() if ours == row.threat.norm)
        checkpoint = f"{_ZOO}{row.dataset}/{norm}/{plain(name, 200)}"
        asked = ["--dataset", row.dataset, "--threat", str(row.threat)]
        command = shlex.join(["python", "-m", "bench", "evaluate", checkpoint, *asked])
        small("No record here. To measure it:")
        st.code(command, language="bash", wrap_lines=True)


def _show_numbers(rows: Sequence[PublishedRow]) -> None:
    """A line a number, in the words of its source; of many the first attack's, the others folded."""
    first = [row for row in rows if row.attack == rows[0].attack][:_MOST]
    _lines(first)
    rest = [row for row in rows if row not in first]
    if rest:
        with st.expander(f"{len(rest)} more: other attacks, epochs and sources"):
            _lines(rest)


def _lines(rows: Sequence[PublishedRow]) -> None:
    said = {
        "under": "attack",
        "robust, %": "robust",
        "95 %": "95 % (computed here)",
        "best known": "best known",
        "clean": "clean",
        "AWP": "AWP",
        "images": "n",
    }
    texts = [row.texts for row in rows]
    if len({text["AWP"] for text in texts}) == 1:
        del said["AWP"]  # said above, once
    said = {heading: key for heading, key in said.items() if any(text[key] for text in texts)}
    lines = [
        [
            *(text[key] for key in said.values()),
            ", ".join(filter(None, (text["arch"], text["checkpoint"]))),
            _source(row, text["remark"], text["source"]),
        ]
        for row, text in zip(rows, texts, strict=True)
    ]
    article.lines((*said, "network, epoch", "source"), lines, labels=True)


def _source(row: PublishedRow, remark: str, source: str) -> Markup:
    form = "{}<small>{}</small>"
    return Markup(form).format(link(address(row.source), source), remark)
