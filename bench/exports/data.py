"""The leaderboard for programs: CSV and Parquet with one line a row, and JSON with everything."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from bench.notation import harmless, plain
from bench.published import LIKELY, MARK, NOT_STATED, BesideOurs, PublishedRow
from bench.records.card_text import marked
from bench.records.store import pretty_json
from bench.reliability.figures import Stated, compared, contradictions, short, stated
from bench.stats.audit import bound_of
from bench.stats.contrasts import Answer, answers, pairs
from bench.stats.intervals import Interval
from bench.table import CLEAN, WORST_CASE, Group, Row

# True is yes, None is empty, every float is a percentage; Parquet keeps them as they are.
Cell = bool | int | float | str | None
Line = dict[str, Cell]


def csv_text(groups: Sequence[Group], published: BesideOurs | None = None) -> str:
    """Rates in percent with two decimals, n in a column of its own; no rank: unranked.

    A column of attacks is headed by its name, and by name@id where groups mean different attacks by
    one name: unequal ids never share a table column, so published numbers have columns of their own.
    """
    lines = _lines(groups, published or {})
    file = io.StringIO()
    if lines:
        writer = csv.DictWriter(file, _headings_of(lines), restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: _cell(value) for key, value in line.items()} for line in lines)
    return file.getvalue()


def parquet_bytes(groups: Sequence[Group], published: BesideOurs | None = None) -> bytes:
    """The lines of the CSV file with types and full precision; `*_standing` are counts of n images."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    lines = _lines(groups, published or {}, counts=True)
    columns = {key: [line.get(key) for line in lines] for key in _headings_of(lines)}
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


def _cell(value: Cell) -> str | int:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.2f}"
    return "" if value is None else value


def _headings_of(lines: Sequence[Line]) -> list[str]:
    """Every heading once, in the order in which the lines have them."""
    return list(dict.fromkeys(key for line in lines for key in line))


def _lines(groups: Sequence[Group], published: BesideOurs, *, counts: bool = False) -> list[Line]:
    headings = _column_headings(groups)
    lines = [_line(group, row, headings, counts) for group in groups for row in group.rows]
    if published:
        lines = [{**line, "status": "measured here"} for line in lines]
    return lines + [_published_line(row) for rows in published.values() for row in rows]


def _column_headings(groups: Sequence[Group]) -> dict[tuple[str, str], str]:
    """(column name, column id) -> heading."""
    wanted = dict.fromkeys((c.name, c.column_id) for group in groups for c in group.columns)
    names = [name for name, _ in wanted]
    taken = {key for group in groups for key in _facts(group, group.rows[0])}
    return {
        (name, column_id): name
        if names.count(name) == 1 and name not in taken
        else f"{name}@{column_id}"
        for name, column_id in wanted
    }


def _line(group: Group, row: Row, headings: dict[tuple[str, str], str], counts: bool) -> Line:
    rates: Line = dict.fromkeys(headings.values())
    standing: Line = dict.fromkeys(f"{heading}_standing" for heading in (CLEAN, *rates))
    standing[f"{CLEAN}_standing"] = int(row.standing[CLEAN].sum())
    for column in group.columns:
        heading = headings[column.name, column.column_id]
        rates[heading] = 100 * row.rates[column.name].estimate
        standing[f"{heading}_standing"] = int(row.standing[column.name].sum())
    standing["best_known_standing"] = int(row.best_known.sum())
    line: Line = {}
    for key, value in _facts(group, row).items():
        line[key] = value
        if key == CLEAN:
            line |= rates
    return line | standing if counts else line


def _facts(group: Group, row: Row) -> Line:
    """Everything in a line but the rates of the protocol's columns."""
    record, worst, texts = row.record, row.rates[WORST_CASE], row.texts
    return {
        "dataset": group.dataset,
        "demo": group.demo,
        "split": harmless(plain(group.split)),
        "threat": str(group.threat),
        "protocol": group.protocol.name,
        "n": group.n,
        "rank": row.rank,
        "rank_best": None if row.rank_range is None else row.rank_range[0],
        "rank_worst": None if row.rank_range is None else row.rank_range[1],
        "model": row.card.name,
        CLEAN: 100 * row.rates[CLEAN].estimate,
        WORST_CASE: 100 * worst.estimate,
        "worst_case_low": 100 * worst.low,
        "worst_case_high": 100 * worst.high,
        "worst_case_standing": int(row.standing[WORST_CASE].sum()),
        "attack_seeds": 1 if row.seed_range is None else len(row.seed_range.seeds),
        "lowest_standing_over_seeds": None if row.seed_range is None else row.seed_range.lowest,
        "highest_standing_over_seeds": None if row.seed_range is None else row.seed_range.highest,
        **_audit(group, row),
        **_stated(group, row),
        **_challenged(group, row),
        "best_known": 100 * row.best_known_rate.estimate,
        **{key.lower().replace(" ", "_"): texts[key] for key in texts if key != "n"},
        "authors": marked(row.card, harmless(plain(row.card.authors)), "authors"),
        "record": record.id,
        "weights_sha256": row.card.weights_sha256,
        "examples_sha256": group.examples_sha256,
        "protocol_id": group.protocol.protocol_id,
    }


def _audit(group: Group, row: Row) -> Line:
    """Of a table with an audited column: how many were drawn, broken, and may be broken besides."""
    if not group.audited:
        return {}
    found = [bound_of(audited) for audited in row.record.audits]
    return {
        "audited": sum(bound.drawn for bound in found),
        "audit_hits": sum(bound.hits for bound in found),
        "audit_at_most_more": sum(bound.others for bound in found) if found else None,
    }


def _stated(group: Group, row: Row) -> Line:
    """Of a table with models of which others state something: what, and what the record denies."""
    if not compared(group):
        return {}
    return {
        "stated": short(stated(row.record)),
        "contradictions": " ".join(contradictions(row.record)),
    }


def _challenged(group: Group, row: Row) -> Line:
    """Of a table with a row that others broke more of: who did, and how many images of it."""
    if not group.challenge_lines:
        return {}
    return {
        "challenged_by": harmless(row.challengers),
        "newly_broken_by_others": sum(each.counts["newly broken"] for each in row.challenges),
    }


def _published_line(row: PublishedRow) -> Line:
    """A published row: the facts that ours have too, and numbers under headings of their own."""
    interval = row.interval
    return {
        "dataset": row.dataset,
        "demo": False,
        "threat": str(row.threat),
        "n": row.n,
        "model": harmless(plain(row.name)),
        "method": harmless(plain(row.method)),
        "awp": "unknown" if row.awp_text == NOT_STATED else row.awp_text,
        "arch": harmless(plain(row.architecture)),
        "authors": harmless(plain(row.authors)),
        "status": MARK,
        "published_clean": None if row.clean is None else float(row.clean),
        "published_attack": harmless(plain(row.attack)),
        "published_robust": float(row.robust),
        "published_robust_low": None if interval is None else 100 * interval.low,
        "published_robust_high": None if interval is None else 100 * interval.high,
        "published_best_known": None if row.best_known is None else float(row.best_known),
        "published_checkpoint": harmless(plain(row.checkpoint)),
        "published_extra_data": row.extra_data,
        "published_source": harmless(plain(row.source)),
        "published_remark": harmless(plain(row.remark, 500)),
    }


# ---------------------------------------------------------------- JSON


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
    value["awp_in_words"] = LIKELY if row.awp_likely else row.awp_text
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
        "audits": list(group.audit_lines),
        "rows": [
            {
                "rank": row.rank,  # null where a flag, or that nobody vouches for it, keeps it out
                "rank_range": row.rank_range,
                "seed_range": row.seed_range and asdict(row.seed_range),
                "model": row.card.name,
                "record": row.record.id,
                "weights_sha256": row.card.weights_sha256,
                "rates": {measure: _ends(rate) for measure, rate in row.rates.items()},
                "best_known": row.best_known_rate.estimate,
                **_figures_json(row),
                **_challenges_json(row),
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


def _figures_json(row: Row) -> dict[str, Any]:
    found = stated(row.record)
    return {"stated": [_stated_json(each) for each in found]} if found else {}


def _challenges_json(row: Row) -> dict[str, Any]:
    """What others handed in that was proven, oldest first; it moves best known alone."""
    if not row.challenges:
        return {}
    said = ("id", "by", "link", "created", "file_sha256", "evidence_sha256", "uint8_survivors")
    return {
        "challenges": [
            {name: getattr(each, name) for name in said} | {"images": each.counts}
            for each in row.challenges
        ]
    }


def _stated_json(found: Stated) -> dict[str, Any]:
    """A figure of others as the card has it, and what was measured in its place; null: not compared."""
    figure = found.figure.model_dump(mode="json")
    held = {"measured": found.measured, "contradiction": found.contradiction or None}
    return {**figure, "threat": found.figure.threat and str(found.figure.threat), **held}


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
