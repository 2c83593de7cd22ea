"""bench compare: two models, by their records or attacked until it is clear, or two protocols."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import table
from bench.cli import two_protocols
from bench.cli.arguments import answer
from bench.notation import aligned, p_value_text, percent, points_interval
from bench.records import proven, store
from bench.records.cards import read_card
from bench.records.index import CACHE
from bench.records.selection import CLEAN, WORST_CASE
from bench.reliability.flags import unranking
from bench.schema import EvaluationRecord, InvalidInput, ModelCard, ThreatModel
from bench.stats.intervals import Interval
from bench.stats.paired import (
    common_measures,
    compare_records,
    remarks,
    why_not,
    why_not_protocols,
)


def run(a: argparse.Namespace) -> None:
    """Prints the answer, from the records there are or from attacks of both."""
    if not 0 < a.level < 1:
        raise InvalidInput(f"--level must lie between 0 and 1, such as 0.05, got {a.level:g}")
    if a.threat is not None:
        a.threat = str(ThreatModel.asked(a.threat))
    if a.protocols is not None:
        if a.b is not None or a.protocol is not None or a.until_sure:
            raise InvalidInput(
                "--protocols compares two protocols on the one network A, by its records: leave out "
                "B, --protocol and --until-sure"
            )
        pairs = _under_both(a)
    elif a.b is None:
        raise InvalidInput("compare takes a second model B, or --protocols P Q for A alone")
    elif a.until_sure:
        from bench.cli import until_sure  # torch, which records do without

        until_sure.run(a)
        return
    else:
        first, second = _records(a.a, a), _records(a.b, a)
        pairs = _of_one_network(a, first[0], second[0])
        if not pairs:
            pairs = _comparable(a, first, second)
            documents = [_document(*pair, a.level) for pair in pairs]
            _name_strangers(a, pairs, documents)
            answer(documents, "\n\n".join(map(_text, documents)), as_json=a.json)
            return
    documents = [two_protocols.document(*pair, a.level) for pair in pairs]
    _name_strangers(a, pairs, documents)
    answer(documents, "\n\n".join(map(two_protocols.text, documents)), as_json=a.json)


def _of_one_network(
    a: argparse.Namespace, first: EvaluationRecord, second: EvaluationRecord
) -> list[tuple[EvaluationRecord, EvaluationRecord]]:
    """Two record files of the same weights under two protocols; else nothing."""
    files = a.a.endswith(".json") and a.b.endswith(".json")
    alike = first.card.weights_sha256 == second.card.weights_sha256
    if not files or not alike or first.protocol.protocol_id == second.protocol.protocol_id:
        return []
    return [(first, second)]


def _under_both(a: argparse.Namespace) -> list[tuple[EvaluationRecord, EvaluationRecord]]:
    """Records of A under the one protocol and under the other, on the same images and threat."""
    names = tuple(a.protocols)
    if names[0] == names[1]:
        raise InvalidInput(f"--protocols takes two protocols, got {names[0]} twice")
    found, of_file = _records(a.a, a), ""
    if a.a.endswith(".json"):  # it stands for its network, images and threat
        of_file = ", of these images and threat,"
        (own,) = found
        of_them = [r for r in _of_weights(own.card.weights_sha256, a) if r.id != own.id]
        question = own.examples_sha256, own.threat
        found = [own, *(r for r in of_them if (r.examples_sha256, r.threat) == question)]
    under = {name: [r for r in found if r.protocol.name == name] for name in names}
    for name in names:
        if not under[name]:
            raise InvalidInput(
                f"no record of the network {found[0].card.name}{of_file} under {name} in {a.results}; "
                f"measure it with python -m bench evaluate --protocol {name}"
            )
    pairs = [(x, y) for x in under[names[0]] for y in under[names[1]]]
    fitting = [pair for pair in pairs if not why_not_protocols(*pair)]
    if not fitting:
        reasons = dict.fromkeys(why_not_protocols(*pair) for pair in pairs)
        raise InvalidInput(
            f"{names[0]} and {names[1]} cannot be compared on {a.a}: {'; '.join([*reasons][:5])}"
        )
    return fitting


def _of_weights(sha256: str, a: argparse.Namespace) -> list[EvaluationRecord]:
    """The records that speak for a network; of one id under two names the known one comes last."""
    groups = table.build(a.results, cache=CACHE).groups
    members = [member for group in groups for member in group.members]
    members.sort(key=lambda member: member.known)  # the last is compared
    return [m.record.whole for m in members if m.record.weights_sha256 == sha256]


def _name_strangers(
    a: argparse.Namespace,
    pairs: Sequence[tuple[EvaluationRecord, EvaluationRecord]],
    documents: Sequence[dict[str, Any]],
) -> None:
    """A remark for each record that nothing vouches for, where the list of the folder knows others."""
    known = proven.read(a.results)[0]
    if not known:
        return
    members = (m for g in table.build(a.results, cache=CACHE).groups for m in g.members)
    vouched = {(m.record.id, m.record.name) for m in members if m.known}
    for file in filter(None, (a.a, a.b)):
        if file.endswith(".json"):  # its own bytes, wherever it lies
            own = store.read(Path(file))
            is_known = store.sha256_of(Path(file)) in known
            (vouched.add if is_known else vouched.discard)((own.id, own.card.name))
    for pair, document in zip(pairs, documents, strict=True):
        for record in pair:
            if (record.id, record.card.name) not in vouched:
                who = f"{record.card.name} (record {record.id})"
                document["remarks"].append(f"{who} is {table.STRANGE}: bench verify proves it")


def _records(named: str, a: argparse.Namespace) -> list[EvaluationRecord]:
    """The record of a file, or those that speak for a checkpoint; of the threat and protocol given."""
    if named.endswith(".json"):
        path = Path(named)
        if path.with_suffix(".withdrawn.json").exists():
            raise InvalidInput(f"{path} was withdrawn; compare another record")
        found = [store.read(path)]
    else:
        card = _card(named, a.zoo)
        found = _of_weights(card.weights_sha256, a)
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
