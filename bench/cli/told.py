"""What a command that measured says of a model last: ten lines, and where to look further."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from bench import table
from bench.measure.sweep import Outcome
from bench.notation import percent, percent_interval, points_interval
from bench.records.entry import cost_of
from bench.records.index import CACHE
from bench.records.selection import CLEAN, WORST_CASE
from bench.records.store import summary
from bench.reliability.figures import contradictions, short, stated
from bench.reliability.flags import reading
from bench.schema import EvaluationRecord
from bench.sources import zoo
from bench.sources.checkpoint import WEIGHTS
from bench.sources.python_file import OwnModel
from bench.stats.contrasts import pairs
from bench.table import Group, Row

MOST = 3  # models that are told in full; of more, a line each


def told(outcome: Outcome, board: table.Leaderboard) -> str:
    """Accuracy, rank range, difference to the twin, cost, flags, and what to call next."""
    record = outcome.record
    place = _place(record, board)
    said: dict[str, str] = {}
    if place is not None:
        group, row = place
        for measure, label in ((CLEAN, "clean"), (WORST_CASE, "worst case")):
            rate = row.rates[measure]
            interval = percent_interval(rate, record.n)
            said[label] = f"{percent(rate.estimate, record.n)} % [{interval}]"
        if row.audit_text:
            said["audit"] = row.audit_text
        if agreeing := short([each for each in stated(record) if not each.contradiction]):
            said["stated"] = f"{agreeing} of {record.n:,} images: agrees"
        if denied := contradictions(record):
            said["contradicts"] = "; ".join(denied)
    said |= {k: v for k, v in zip(("rank", "twin"), placed(record, board), strict=True) if v}
    said["cost"] = cost_of(record)
    said["flags"] = ", ".join(names_of_flags(record)) or "none"
    said["record"] = str(outcome.path)
    said["check it"] = _check(outcome)
    said["see it"] = "make leaderboard"
    return "\n".join([headline(outcome), *(f"  {k:11}  {v}" for k, v in said.items())])


def placed(record: EvaluationRecord, board: table.Leaderboard) -> tuple[str, str]:
    """A record's rank range on its table, or why it has none, and its difference to the twin."""
    place = _place(record, board)
    if place is None:
        return "not in the table: another record speaks for these weights", ""
    group, row = place
    ranked = sum(each.rank is not None for each in group.rows)
    return row.unranked or f"{row.range_text} of {ranked} on this table", _twin(group, row)


def _place(record: EvaluationRecord, board: table.Leaderboard) -> tuple[Group, Row] | None:
    asked = (record.id, record.card.name)
    rows = ((group, row) for group in board.groups for row in group.rows)
    return next(((g, row) for g, row in rows if (row.record.id, row.card.name) == asked), None)


def _check(outcome: Outcome) -> str:
    """The command that proves the record again as it is typed, with where images and weights lie."""
    command, job = ["python", "-m", "bench", "verify", str(outcome.path)], outcome.job
    if job is not None:
        if isinstance(job.source, OwnModel):
            return "weights of a model of your own are not kept: measure it again, with --again"
        if ":" in job.dataset:
            command += ["--dataset", job.dataset]
        if isinstance(job.source, Path) and not (outcome.path.parent / WEIGHTS).exists():
            command += ["--weights", str(job.source)]
        if isinstance(job.source, zoo.Entry) and job.source.root != zoo.ROOT:
            command += ["--zoo", str(job.source.root)]
    return shlex.join(command)


def headline(outcome: Outcome) -> str:
    """Model, question and the share that stands under every column, in one line."""
    r = outcome.record
    state = "" if outcome.measured else " (recorded before)"
    return f"{r.card.name}, {r.dataset} {r.threat} {r.protocol.name}{state}: {summary(r)}"


def in_short(outcome: Outcome) -> str:
    """The headline, flags, what others state otherwise, and the record's path."""
    flags = ", ".join(names_of_flags(outcome.record))
    said = [f"flags: {flags}"] if flags else []
    said += [f"contradicts: {each}" for each in contradictions(outcome.record)]
    return "\n  ".join([headline(outcome), *said, str(outcome.path)])


def names_of_flags(record: EvaluationRecord) -> list[str]:
    """Names of the reasons for doubt, as every table reads them."""
    return [flag.name for flag in reading(record).flags]


def _twin(group: Group, row: Row) -> str:
    """The difference to the model trained alike without AWP, or why there is none."""
    name = row.card.pair
    if not name:
        return "none named"
    found = next((pair for pair in pairs(group) if pair.awp is row), None)
    if found is None:
        return f"{name} is not measured on these images by this protocol"
    difference = found.comparisons[WORST_CASE].difference
    remark = f" ({found.remark})" if found.remark else ""
    return f"{points_interval(difference)} against {name}, worst case, the same images{remark}"


def of(outcomes: Sequence[Outcome], results: Path) -> str:
    """What is told of each: in full where they are few and none failed."""
    if len(outcomes) > MOST or any(o.record.failure is not None for o in outcomes):
        return "\n".join(map(in_short, outcomes))
    board = table.build(results, cache=CACHE)
    return "\n\n".join(told(outcome, board) for outcome in outcomes)
