"""Where a model and its numbers come from: the card, the hashes, the command, the history."""

from __future__ import annotations

import shlex

import pyarrow as pa
import streamlit as st
from markupsafe import Markup

from bench.board import article
from bench.board.article import code, link, paragraph, shown, small
from bench.exports.papers import bibtex_of_model
from bench.notation import harmless, percent, plain
from bench.records.card_text import kept_text, marked, method_text, perturbation_text, threat_text
from bench.records.entry import Entry
from bench.records.reproduce import reproduce
from bench.schema import EvaluationRecord, ModelCard
from bench.table import Group, Leaderboard, Row


def show(group: Group, row: Row, record: EvaluationRecord) -> None:
    """How the model was made, what its number rests on, how to check both, and what to cite."""
    show_card(record.card)
    st.header("Provenance", anchor=False)
    paragraph("The same question asked anew:")
    st.code(reproduce(record, row.path), language="bash", wrap_lines=True)
    protocol = record.protocol
    article.facts(
        {
            "record": code(record.id),
            "weights": code(record.card.weights_sha256),
            "images and labels": code(record.examples_sha256),
            "protocol": f"{protocol.name}, version {protocol.version}, id {protocol.protocol_id}",
            "evidence": code(record.evidence_sha256) if record.evidence_sha256 else "none",
            "attack seed": str(record.seed),
            "engine": shown(f"{record.engine}, {record.engine_version}"),
            "precision": record.precision,
            "measured": shown(record.created),
            "took": f"{record.seconds:,.0f} s",
            **{plain(k, 40): shown(v) for k, v in sorted(record.environment.items())[:20]},
        }
    )
    st.header("Evidence", anchor=False)
    if record.evidence_sha256 is None:
        paragraph("This record names no evidence: its broken images cannot be proved again.")
    else:
        there = row.path.with_suffix(".evidence.npz").exists()
        where = "beside the record" if there else "not beside the record; look for it by its sha256"
        paragraph(
            "Every broken image is kept, and proved again with forward passes only. An image that "
            "stood cannot be proved to stand: verify attacks a sample of those again and says what "
            "that shows."
        )
        command = shlex.join(["python", "-m", "bench", "verify", str(row.path)])
        st.code(command, language="bash", wrap_lines=True)
        small(Markup("Evidence {}: {}.").format(where, code(record.evidence_sha256)))
    st.header("Cite", anchor=False)
    st.code(bibtex_of_model(group, row), language="latex", wrap_lines=True)


def show_card(card: ModelCard) -> None:
    """How the model was made."""
    st.header("Card", anchor=False)
    normalisation = "none recorded"
    if card.mean is not None and card.std is not None:
        mean, std = (", ".join(f"{v:.6g}" for v in each[:10]) for each in (card.mean, card.std))
        normalisation = f"mean {mean}; std {std}"
    article.facts(
        {
            "method": method_text(card),
            "architecture": shown(card.arch or "unregistered model"),
            "arguments": shown(", ".join(f"{k} = {v}" for k, v in card.arch_args.items())),
            "parameters": f"{card.n_parameters:,}",
            "trained on": shown(card.dataset),
            "extra data": shown(marked(card, plain(card.extra_data), "extra_data"), 300),
            "trained against": threat_text(card),
            "weight perturbation": perturbation_text(card),
            "epoch kept": kept_text(card),
            "seed": "" if card.seed is None else str(card.seed),
            "twin": marked(card, card.pair or "", "pair"),
            "normalisation": normalisation,
            "authors": shown(marked(card, plain(card.authors, 500), "authors"), 600),
            "link": link(card.link),
            "licence": shown(marked(card, plain(card.licence), "licence"), 300),
            "training code": shown(card.commit),
        }
    )
    if card.train is not None:
        with st.expander("Training settings"):
            st.code(card.train.model_dump_json(indent=1), language="json")


def show_history(board: Leaderboard, name: str) -> None:
    """Every record of this name: in a table, superseded, withdrawn, failed."""
    collection = board.collection
    in_table = {member.record.id for group in board.groups for member in group.members}
    mine = [r for r in (*collection.records, *collection.failed) if r.name == name]
    mine.sort(key=lambda record: (record.created, record.id), reverse=True)

    def state(record: Entry) -> str:
        if record.id in collection.withdrawn:
            return f"withdrawn: {plain(collection.withdrawn[record.id], 300)}"
        if record.failure is not None:
            return f"failed: {plain(record.failure, 300)}"
        return "in the table" if record.id in in_table else "another record speaks for the model"

    st.header("History", anchor=False)
    article.table(
        pa.table(
            {
                "measured": [harmless(plain(record.created, 20)) for record in mine],
                "state": [state(record) for record in mine],
                "data set": [record.dataset for record in mine],
                "threat": [str(record.threat) for record in mine],
                "protocol": [record.protocol.name for record in mine],
                "n": [record.n for record in mine],
                "worst case, %": [
                    percent(record.worst_case, record.n) if record.failure is None else ""
                    for record in mine
                ],
                "engine": [plain(f"{r.engine} {r.engine_version}", 60) for r in mine],
                "precision": [record.precision for record in mine],
                "seed": [record.seed for record in mine],
                "record": [record.id for record in mine],
            }
        ),
        "history",
    )
