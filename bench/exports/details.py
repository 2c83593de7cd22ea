"""What is said of a row when it is opened: card, numbers, reasons for doubt, provenance."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bench.notation import percent, percent_interval, plain, web_address
from bench.records.card_text import (
    kept_text,
    marked,
    method_text,
    perturbation_text,
    threat_text,
    trained_on,
)
from bench.records.entry import cost_of, passes_a_standing_image
from bench.records.reproduce import reproduce
from bench.reliability import figures
from bench.reliability.flags import FLAGS, KEEPS_UNRANKED, reading
from bench.schema import AttackOutcome, EvaluationRecord
from bench.schema.challenge import Challenge
from bench.stats.audit import sentence
from bench.table import WORST_CASE, Group, Row


def row_id(row: Row) -> str:
    """The fragment of the address that leads to a row's details."""
    return f"{row.card.name}-{row.record.id}"


def details(group: Group, row: Row) -> dict[str, Any]:
    """Card, numbers, attacks, flags with reasons, provenance and command, as plain unescaped text."""
    n, record = group.n, row.record.whole
    best = f"{percent(row.best_known_rate.estimate, n)} % under {row.best_known_basis}"
    return {
        "id": row_id(row),
        "name": row.card.name,
        "summary": f"worst case {percent(row.rates[WORST_CASE].estimate, n)} %, "
        f"rank {row.rank_text}",
        **{
            about: [(label, text) for label, text, kind in entries
                    if kind != "link" or not web_address(text)]  # it has a line of its own
            for about, entries in facts(record).items()
        },
        "address": web_address(row.card.link),
        "numbers": [
            (label, percent(row.rates[m].estimate, n), percent_interval(row.rates[m], n))
            for m, label in (*group.labels.items(), (WORST_CASE, "worst case"))
        ],
        "best_known": best if row.best_known_basis else "",
        "challenges": [challenged(each) for each in row.challenges],
        "audits": [sentence(each, n) for each in record.audits],
        "stated": [figures.sentence(each) for each in figures.stated(record)],
        "contradictions": list(figures.contradictions(record)),
        "attacks": _attacks(group, record),
        "flags": flags(record),
        "command": reproduce(record, row.path),
    }  # fmt: skip


def challenged(challenge: Challenge) -> str:
    """`2026-11-28, Eve: 12 images newly broken, 3 broken before`: what was handed in, as plain text."""
    counts = challenge.counts
    told = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    return f"{plain(challenge.created[:10])}, {plain(challenge.by, 100)}: {told}"


Fact = tuple[str, str, str]  # label, plain text, kind: "", "code" for hashes, "link" for an address


def facts(record: EvaluationRecord) -> dict[str, list[Fact]]:
    """How the model was made ("card") and what the number rests on ("provenance"), for every page.

    What is not known is left out. The text is not escaped.
    """
    card, protocol = record.card, record.protocol
    said: dict[str, list[tuple[str, object, str]]] = {
        "card": [
            ("method", method_text(card), ""),
            ("architecture", card.arch or "unregistered model", ""),
            ("arguments", ", ".join(f"{k} = {v}" for k, v in card.arch_args.items()), ""),
            ("parameters", f"{card.n_parameters:,}", ""),
            ("trained on", trained_on(card), ""),
            ("extra data", marked(card, plain(card.extra_data, 300), "extra_data"), ""),
            ("trained against", threat_text(card), ""),
            ("weight perturbation", perturbation_text(card), ""),
            ("epoch kept", kept_text(card), ""),
            ("seed", card.seed, ""),
            ("twin", marked(card, card.pair or "", "pair"), ""),
            ("authors", marked(card, plain(card.authors, 300), "authors"), ""),
            ("link", card.link, "link"),
            ("licence", marked(card, plain(card.licence), "licence"), ""),
            ("file of weights", card.file_sha256, "code"),
            ("training code", card.commit, ""),
        ],
        "provenance": [
            ("record", record.id, "code"),
            ("weights", card.weights_sha256, "code"),
            ("images and labels", record.examples_sha256, "code"),
            ("split", record.split, ""),
            ("protocol", f"{protocol.name}, version {protocol.version}, id {protocol.protocol_id}", ""),
            ("evidence", record.evidence_sha256 or "none", "code"),
            ("attack seed", record.seed, ""),
            ("engine", f"{record.engine}, {record.engine_version}", ""),
            ("precision", record.precision, ""),
            ("measured", record.created, ""),
            ("cost", cost_of(record), ""),
            *((plain(k, 40), v, "") for k, v in sorted(record.environment.items())[:20]),
        ],
    }  # fmt: skip
    return {
        about: [(label, plain(value, 400), kind) for label, value, kind in entries
                if value not in ("", None)]
        for about, entries in said.items()
    }  # fmt: skip


def _attacks(group: Group, record: EvaluationRecord) -> list[tuple[str, ...]]:
    """A line an attack, under the headings of the page."""
    lines: list[tuple[str, ...]] = []
    for label, outcomes in attacked(group, record):
        for outcome in outcomes:
            standing = outcome.attacked - outcome.broken
            passes = outcome.forward_passes + outcome.backward_passes
            each = passes_a_standing_image(passes, standing)
            lines.append(
                (
                    plain(label, 60),
                    outcome.spec.name,
                    f"{outcome.attacked:,}",
                    f"{outcome.broken:,}",
                    percent(standing / group.n, group.n),
                    f"{outcome.largest_perturbation:.5f}",
                    f"{passes:,}",
                    "none" if each is None else f"{each:,.0f}",
                )
            )
    return lines


def attacked(
    group: Group, record: EvaluationRecord
) -> Iterator[tuple[str, tuple[AttackOutcome, ...]]]:
    """Label and outcomes of every column, in the order of the table, each followed by its audit."""
    for column in group.columns:  # a record's own are in the order of their names
        found = record.columns[column.name]
        yield group.labels[column.name], found.outcomes
        if found.audit is not None:
            yield f"{group.labels[column.name]}, audit", found.audit.outcomes


def flags(record: EvaluationRecord) -> list[dict[str, str]]:
    """Reasons for doubt with what to do, then the recorded ones that are none any more; plain text."""
    found = reading(record)
    said = [
        (flag, (KEEPS_UNRANKED if flag.name in found.unranking else "")
         + (FLAGS[flag.name].remedy if flag.name in FLAGS else ""))
        for flag in found.flags
    ]  # fmt: skip
    said += [(flag, f"No reason for doubt. {why}") for flag, why in found.set_aside]
    return [
        {
            "name": flag.name,
            "message": plain(flag.message, 500),
            "seen": plain(", ".join(f"{k} = {v}" for k, v in flag.values.items()), 300),
            "remedy": remedy,
        }
        for flag, remedy in said
    ]
