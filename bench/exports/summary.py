"""What a leaderboard says first: whether AWP helped, and the five methods that withstand most."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bench.exports.markdown import escape, table
from bench.notation import percent, percent_interval, points_interval
from bench.stats.comparisons import RULE, Comparison, answer_in_a_sentence, comparisons
from bench.stats.contrasts import Answer, Pair
from bench.stats.method_rows import MethodRow, method_table
from bench.table import CLEAN, WORST_CASE, Group

FIRST = 5  # methods of a table


def blocks(
    groups: Sequence[Group],
    answered: Callable[[Group], tuple[Answer, ...]],
    paired: Callable[[Group], tuple[Pair, ...]],
) -> list[str]:
    """Blocks of Markdown: the answer, a line a comparison, and the first rows of every table.

    answered, paired: contrasts and pairs of a group, which the tables below are made of too.
    """
    if not groups:
        return []
    found = comparisons(groups, answered, paired)
    said = [f"**{escape(answer_in_a_sentence(found))}**", _verdicts(found), escape(RULE)]
    first = [f"The first {FIRST} methods of every table, mean over seeds, in percent:"]
    for group in groups:
        ranked = method_table(group, answered(group), paired(group)).rows
        rows = [row for row in ranked if row.rank is not None][:FIRST]
        first += (
            []
            if not rows
            else [f"### {escape(group.heading)}: the first {len(rows)}", _methods(group, rows)]
        )
    return [*(said if found else []), *first]


def _verdicts(found: Sequence[Comparison]) -> str:
    header = ["comparison", "difference, points [95 %]", "verdict", "n", "seeds"]
    rows = (
        [
            one.label,
            points_interval(one.method.differences[WORST_CASE], unit=""),
            one.verdict.standing,
            f"{one.group.n:,}{', gradients alone' if one.group.gradients_alone else ''}",
            str(one.method.seeds),
        ]
        for one in found
    )
    return table(header, rows)


def _methods(group: Group, rows: Sequence[MethodRow]) -> str:
    header = ["method", "rank range", "seeds", "clean", "robust [95 %]", "minus twin, points"]
    lines = (
        [
            row.name,
            row.range_text,
            str(row.seeds),
            percent(row.rate(CLEAN).estimate, group.n),
            f"{percent(row.rate().estimate, group.n)} [{percent_interval(row.rate(), group.n)}]",
            "" if row.difference is None else points_interval(row.difference, unit=""),
        ]
        for row in rows
    )
    return table(header, lines)
