"""bench compare: which of two models is better, by their records or attacked until it is clear."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import table
from bench.cli.arguments import answer
from bench.notation import aligned, p_value_text, percent, points_interval
from bench.records import store
from bench.records.cards import read_card
from bench.records.index import CACHE
from bench.records.selection import CLEAN, WORST_CASE
from bench.reliability.flags import unranking
from bench.schema import EvaluationRecord, InvalidInput, ModelCard, ThreatModel
from bench.stats.intervals import Interval
from bench.stats.paired import common_measures, compare_records, remarks, why_not


def run(a: argparse.Namespace) -> None:
    """Prints the answer, from the records there are or from attacks of both."""
    if not 0 < a.level < 1:
        raise InvalidInput(f"--level must lie between 0 and 1, such as 0.05, got {a.level:g}")
    if a.threat is not None:
        a.threat = str(ThreatModel.asked(a.threat))
    if a.until_sure:
        from bench.cli import until_sure  # torch, which records do without

        until_sure.run(a)
        return
    found = _comparable(a, _records(a.a, a), _records(a.b, a))
    documents = [_document(first, second, a.level) for first, second in found]
    answer(documents, "\n\n".join(map(_text, documents)), as_json=a.json)


def _records(named: str, a: argparse.Namespace) -> list[EvaluationRecord]:
    """The record of a file, or those that speak for a checkpoint; of the threat and protocol given."""
    if named.endswith(".json"):
        path = Path(named)
        if path.with_suffix(".withdrawn.json").exists():
            raise InvalidInput(f"{path} was withdrawn; compare another record")
        found = [store.read(path)]
    else:
        card = _card(named, a.zoo)
        groups = table.build(a.results, cache=CACHE).groups
        members = [member for group in groups for member in group.members]
        members.sort(
            key=lambda member: member.known
        )  # of one id under two names the last is compared
        models = [m.record for m in members if m.record.weights_sha256 == card.weights_sha256]
        found = [model.whole for model in models]
        named = card.name
    kept = [
        r
        for r in found
        if a.threat in (None, str(r.threat)) and a.protocol in (None, r.protocol.name)
    ]
    if not kept:
        wanted = " ".join(filter(None, (a.threat, a.protocol)))
        raise InvalidInput(
            f"no record of {named}{wanted and f' for {wanted}'} under {a.results}; measure it with "
            "python -m bench evaluate, or compare with --until-sure"
        )
    return kept


def _card(named: str, root: Path) -> ModelCard:
    if ":" not in named:
        return read_card(Path(named))
    from bench.sources import opening, zoo  # torch: of what is here, none is loaded

    return opening.read_card(zoo.source(named, root))


def _comparable(
    a: argparse.Namespace, first: Sequence[EvaluationRecord], second: Sequence[EvaluationRecord]
) -> list[tuple[EvaluationRecord, EvaluationRecord]]:
    """The pairs of records with a worst case in common, else with any column, each id once."""
    pairs = {(x.id, y.id): (x, y) for x in first for y in second if x.id != y.id}
    whole = [pair for pair in pairs.values() if WORST_CASE in common_measures(*pair)]
    partly = [pair for pair in pairs.values() if set(common_measures(*pair)) - {CLEAN}]
    if not pairs:
        raise InvalidInput(f"{a.a} and {a.b} have the same record: nothing to compare")
    if not (whole or partly):
        reasons = list(dict.fromkeys(why_not(*pair) for pair in pairs.values()))
        raise InvalidInput(
            f"{a.a} and {a.b} cannot be compared: {'; '.join(reasons[:5])}. "
            "Measure both on the same images, threat and protocol"
        )
    return whole or partly


def _document(a: EvaluationRecord, b: EvaluationRecord, level: float) -> dict[str, Any]:
    doubts = ((r.card.name, ", ".join(unranking(r))) for r in (a, b))
    said = [*remarks(a, b), *(f"{name} is not ranked: {why}" for name, why in doubts if why)]
    measures = {}
    for measure in common_measures(a, b):
        found = compare_records(a, b, measure, confidence=1 - level)
        measures[measure] = {
            "a": (found.both + found.only_a) / found.n,
            "b": (found.both + found.only_b) / found.n,
            "only_a": found.only_a,
            "only_b": found.only_b,
            "p_value": found.p_value,
            "difference": ends(found.difference),
            "separated": better(found.only_a, found.only_b, found.p_value <= level),
        }
    return {
        "a": a.card.name, "b": b.card.name, "records": [a.id, b.id], "dataset": a.dataset,
        "split": a.split, "threat": str(a.threat), "protocols": [a.protocol.name, b.protocol.name],
        "n": a.n, "level": level, "measures": measures, "remarks": said,
    }  # fmt: skip


def better(only_a: int, only_b: int, separated: bool) -> str | None:
    """Who stands on more images, as far as that is told: a, b or None (not separated)."""
    if not separated:
        return None
    return "a" if only_a > only_b else "b"


def ends(interval: Interval) -> dict[str, float]:
    return {"estimate": interval.estimate, "low": interval.low, "high": interval.high}


def _text(d: dict[str, Any]) -> str:
    sure = f"{100 * (1 - d['level']):g} %"
    lines = [["", "A", "B", f"A minus B [{sure}]", "A alone", "B alone", "p", ""]]
    for measure, m in d["measures"].items():
        verdict = {None: "not separated", "a": "A is better", "b": "B is better"}[m["separated"]]
        lines.append(
            [
                measure.replace("_", " "),
                *(percent(m[which], d["n"]) for which in "ab"),
                points_interval(Interval(**m["difference"]), unit=""),
                *(str(m[which]) for which in ("only_a", "only_b")),
                p_value_text(m["p_value"]),
                verdict,
            ]
        )
    protocol = " and ".join(dict.fromkeys(d["protocols"]))
    return "\n".join(
        [
            f"A = {d['a']} (record {d['records'][0]}), B = {d['b']} (record {d['records'][1]})",
            f"{d['dataset']} {d['threat']} {protocol}, n = {d['n']:,}, {d['split']}; percent of all n",
            *aligned(lines),
            "p: exact McNemar on the same images; interval: Tango. Each line is a test by itself.",
            *(f"note: {remark}" for remark in d["remarks"]),
        ]
    )
