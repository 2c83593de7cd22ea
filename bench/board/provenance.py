"""Where a number comes from, and how to load, check and cite it: the folded end of a model's page."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence

import pyarrow as pa
import streamlit as st
from markupsafe import Markup, escape

from bench.board import article
from bench.board.article import code, link, paragraph, small
from bench.exports.details import Fact, facts
from bench.exports.papers import bibtex_of_model
from bench.notation import harmless, percent, plain
from bench.records.entry import Entry
from bench.records.reproduce import import_first, in_python, reproduce, weights_note
from bench.schema import EvaluationRecord
from bench.table import Group, Leaderboard, Row


def show_loading(record: EvaluationRecord, row: Row) -> None:
    """The line of Python, and the command, that load the network and ask the same question."""
    st.header("Load it in one line", anchor=False)
    if note := weights_note(record, row.path):
        small(note)
    st.code(in_python(record, row.path), language="python", wrap_lines=True)
    with st.expander("The same as a command"):
        commands = (import_first(record, row.path), reproduce(record, row.path))
        st.code("\n".join(filter(None, commands)), language="bash", wrap_lines=True)


def show_card(record: EvaluationRecord) -> None:
    """How the model was made."""
    card = record.card
    drawn = _drawn(facts(record)["card"])
    if card.mean is not None and card.std is not None:
        mean, std = (", ".join(f"{v:.6g}" for v in each[:10]) for each in (card.mean, card.std))
        drawn.append(("normalisation", escape(f"mean {mean}; std {std}")))
    with st.expander("Card"):
        article.facts(drawn)
        if card.train is not None:
            small("Training settings:")
            st.code(card.train.model_dump_json(indent=1), language="json")


def show_provenance(record: EvaluationRecord, row: Row) -> None:
    """What the number rests on, and how to check it."""
    with st.expander("Provenance"):
        if record.evidence_sha256 is None:
            paragraph("This record names no evidence: its broken images cannot be proved again.")
        else:
            there = row.path.with_suffix(".evidence.npz").exists()
            where = "beside the record" if there else "elsewhere, under its sha256"
            paragraph(f"Every broken image is kept, {where}. To prove them again:")
            words = ["python", "-m", "bench", "verify", str(row.path)]
            words += ["--weights", "FILE"] if record.card.file_sha256 is not None else []
            st.code(shlex.join(words), language="bash", wrap_lines=True)
        article.facts(_drawn(facts(record)["provenance"]))


def _drawn(said: Sequence[Fact]) -> list[tuple[str, Markup]]:
    """Labels, and texts as their kind is shown on a page."""
    how: dict[str, Callable[[str], Markup]] = {"": escape, "code": code, "link": link}
    return [(label, how[kind](text)) for label, text, kind in said]


def show_citation(group: Group, row: Row) -> None:
    """The model as an entry of a bibliography."""
    with st.expander("Cite"):
        st.code(bibtex_of_model(group, row), language="latex", wrap_lines=True)


def show_history(board: Leaderboard, name: str) -> None:
    """Every record of this name: in a table, superseded, withdrawn, failed."""
    collection = board.collection
    in_table = {member.record.id for group in board.groups for member in group.members}
    mine = [r for r in (*collection.records, *collection.failed) if r.name == name]
    mine.sort(key=lambda record: (record.created, record.id), reverse=True)

    def state(record: Entry) -> str:
        if record.place in collection.withdrawn:
            return f"withdrawn: {plain(collection.withdrawn[record.place], 300)}"
        if record.failure is not None:
            return f"failed: {plain(record.failure, 300)}"
        return "in the table" if record.id in in_table else "another record speaks for the model"

    lines = [
        {
            "measured": harmless(plain(r.created, 20)),
            "state": state(r),
            "data set": r.dataset,
            "threat": str(r.threat),
            "protocol": r.protocol.name,
            "n": r.n,
            "worst case, %": percent(r.worst_case, r.n) if r.failure is None else "",
            "engine": plain(f"{r.engine} {r.engine_version}", 60),
            "precision": r.precision,
            "seed": r.seed,
            "record": r.id,
        }
        for r in mine
    ]
    with st.expander("History", expanded=not any(record.id in in_table for record in mine)):
        article.table(pa.Table.from_pylist(lines), "history")
