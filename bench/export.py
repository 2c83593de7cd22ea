"""Ranked rows as CSV and JSON, for other programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from bench.intervals import Interval
from bench.notation import harmless, plain
from bench.pairs import Method, methods, pairs
from bench.results import pretty_json
from bench.table import CLEAN, WORST_CASE, Group, Row


def csv_text(groups: Sequence[Group]) -> str:
    """One line a row; rates in percent with two decimals, n in a column of its own; no rank: unranked.

    A column of attacks is headed by its name, and by name@id where groups mean different attacks by
    one name: unequal ids never share a table column.
    """
    headings = _csv_headings(groups)
    file = io.StringIO()
    writer: Any = None
    for group in groups:
        for row in group.rows:
            line = _csv_line(group, row, headings)
            if writer is None:
                writer = csv.DictWriter(file, list(line), restval="", lineterminator="\n")
                writer.writeheader()
            writer.writerow(line)
    return file.getvalue()


def _csv_headings(groups: Sequence[Group]) -> dict[tuple[str, str], str]:
    """(column name, column id) -> heading."""
    wanted = dict.fromkeys((c.name, c.column_id) for group in groups for c in group.columns)
    names = [name for name, _ in wanted]
    taken = set(_csv_facts(groups[0], groups[0].rows[0])) if groups else set()
    return {
        (name, column_id): name
        if names.count(name) == 1 and name not in taken
        else f"{name}@{column_id}"
        for name, column_id in wanted
    }


def _csv_line(group: Group, row: Row, headings: dict[tuple[str, str], str]) -> dict[str, str | int]:
    rates = dict.fromkeys(headings.values(), "")
    for column in group.columns:
        rates[headings[column.name, column.column_id]] = _two(row.rates[column.name].estimate)
    line: dict[str, str | int] = {}
    for key, value in _csv_facts(group, row).items():
        line[key] = value
        if key == CLEAN:
            line |= rates
    return line


def _csv_facts(group: Group, row: Row) -> dict[str, str | int]:
    """Everything in a line but the rates of the protocol's columns."""
    record, worst, texts = row.record, row.rates[WORST_CASE], row.texts
    return {
        "dataset": group.dataset,
        "demo": "yes" if group.demo else "no",
        "split": harmless(plain(group.split)),
        "threat": str(group.threat),
        "protocol": group.protocol.name,
        "n": group.n,
        "rank": "" if row.rank is None else row.rank,
        "rank_best": "" if row.rank_range is None else row.rank_range[0],
        "rank_worst": "" if row.rank_range is None else row.rank_range[1],
        "model": row.card.name,
        CLEAN: _two(row.rates[CLEAN].estimate),
        WORST_CASE: _two(worst.estimate),
        "worst_case_low": _two(worst.low),
        "worst_case_high": _two(worst.high),
        "worst_case_standing": int(row.standing[WORST_CASE].sum()),
        "attack_seeds": 1 if row.seed_range is None else len(row.seed_range.seeds),
        "lowest_standing_over_seeds": "" if row.seed_range is None else row.seed_range.lowest,
        "highest_standing_over_seeds": "" if row.seed_range is None else row.seed_range.highest,
        "best_known": _two(row.best_known_rate.estimate),
        **{key.lower().replace(" ", "_"): texts[key] for key in texts if key != "n"},
        "authors": harmless(plain(row.card.authors)),
        "record": record.id,
        "weights_sha256": row.card.weights_sha256,
        "examples_sha256": group.examples_sha256,
        "protocol_id": group.protocol.protocol_id,
    }


def _two(rate: float) -> str:
    return f"{100 * rate:.2f}"


def json_text(groups: Sequence[Group]) -> str:
    """Groups, rows and paired differences as one JSON document; rates in [0, 1]."""
    return pretty_json([_group_json(group) for group in groups])


def _group_json(group: Group) -> dict[str, Any]:
    found = pairs(group)
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
        "methods": [_method_json(method) for method in methods(group, found)],
    }


def _method_json(method: Method) -> dict[str, Any]:
    return {
        "method": method.name,
        "baseline": method.baseline,
        "settings": method.settings,
        "seeds": method.seeds,
        "verdict": method.verdict(),
        "sentence": method.sentence(),
        "differences": {measure: _ends(d) for measure, d in method.differences.items()},
        "bootstrap": {measure: _ends(method.bootstrap(measure)) for measure in method.differences},
    }


def _ends(interval: Interval) -> dict[str, float | None]:
    """An interval without ends (one seed) has null ends: JSON has no infinity."""
    low, high = (None if abs(end) == float("inf") else end for end in (interval.low, interval.high))
    return {"estimate": interval.estimate, "low": low, "high": high}
