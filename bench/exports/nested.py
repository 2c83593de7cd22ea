"""Groups, rows and paired differences as one JSON document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from bench.published import MARK, BesideOurs, PublishedRow
from bench.records.store import pretty_json
from bench.stats.contrasts import Answer, answers, pairs
from bench.stats.intervals import Interval
from bench.table import Group


def json_text(groups: Sequence[Group], published: BesideOurs | None = None) -> str:
    """A list of groups, rates in [0, 1]; then one of published rows a data set and threat.

    Published percentages are strings with the digits of their source.
    """
    ours = [_group_json(group) for group in groups]
    others = [
        {
            "status": MARK,
            "dataset": dataset,
            "threat": str(threat),
            "published": [_published_json(row) for row in rows],
        }
        for (dataset, threat), rows in (published or {}).items()
    ]
    return pretty_json([*ours, *others])


def _published_json(row: PublishedRow) -> dict[str, Any]:
    interval = None if row.interval is None else _ends(row.interval)
    value = row.model_dump(mode="json")
    return {**value, "threat": str(row.threat), "n": row.n, "interval_computed_here": interval}


def _group_json(group: Group) -> dict[str, Any]:
    found = pairs(group)
    said = answers(group, found)
    return {
        "dataset": group.dataset,
        "demo": group.demo,
        "split": group.split,
        "n": group.n,
        "examples_sha256": group.examples_sha256,
        "threat": str(group.threat),
        "protocol": group.protocol.name,
        "protocol_id": group.protocol.protocol_id,
        "columns": {column.name: column.column_id for column in group.columns},
        "separation": list(group.separation_notes),
        "rows": [
            {
                "rank": row.rank,  # null where a flag keeps the row out of the ranking
                "rank_range": row.rank_range,
                "seed_range": row.seed_range and asdict(row.seed_range),
                "model": row.card.name,
                "record": row.record.id,
                "weights_sha256": row.card.weights_sha256,
                "rates": {measure: _ends(rate) for measure, rate in row.rates.items()},
                "best_known": row.best_known_rate.estimate,
                **{key: text for key, text in row.texts.items() if key != "n"},
            }
            for row in group.rows
        ],
        "awp_minus_vanilla": [
            {
                "model": pair.awp.card.name,
                "twin": pair.vanilla.card.name,
                "remark": pair.remark,
                "differences": {
                    measure: {**_ends(comparison.difference), "p_value": comparison.p_value}
                    for measure, comparison in pair.comparisons.items()
                },
            }
            for pair in found
        ],
        "methods": [_answer_json(answer) for answer in said if answer.control is None],
        "controls": [_answer_json(answer) for answer in said if answer.control],
    }


def _answer_json(answer: Answer) -> dict[str, Any]:
    method, verdict = answer.method, answer.verdict
    return {
        "method": method.name,
        "baseline": method.baseline,
        **({"control": answer.control} if answer.control else {}),
        "settings": method.settings,
        "seeds": method.seeds,
        "verdict": verdict.standing,
        "verdict_in_full": verdict.words,
        "family": verdict.family or None,  # null: its study declared others as primary
        "p_value": verdict.effect.p_value,
        "rejected_by_holm": verdict.rejected,
        "sentence": answer.sentence,
        "differences": {measure: _ends(d) for measure, d in method.differences.items()},
        "bootstrap": {measure: _ends(method.bootstrap(measure)) for measure in method.differences},
    }


def _ends(interval: Interval) -> dict[str, float | None]:
    """An interval without ends (one seed) has null ends: JSON has no infinity."""
    low, high = (None if abs(end) == float("inf") else end for end in (interval.low, interval.high))
    return {"estimate": interval.estimate, "low": low, "high": high}
