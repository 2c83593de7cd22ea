"""Did AWP help in a table: every method and stronger control with its verdict, one family a table.

The family of a contrast is its table: every method beside its twin and every stronger control, of the
best and of the last epoch, on the worst case. A contrast that a study declared as primary, or left to
describe beside its primary ones, carries what that study says instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from bench.notation import points, points_interval
from bench.stats.contrasts import Method, Pair, measure_phrase, methods
from bench.stats.controls import Control, controls
from bench.stats.intervals import Interval
from bench.stats.study_files import StudyFile
from bench.stats.verdicts import RULE, Compared, Verdict, judge
from bench.table import WORST_CASE, Group


@dataclass(frozen=True, eq=False)
class Answer:
    """A method, or AWP against a stronger control, with what may be said of it."""

    method: Method
    verdict: Verdict
    control: Control | None = None  # None: against the vanilla twin

    @property
    def what(self) -> str:
        """What is compared, under which attacks, on how many images and seeds."""
        method, group = self.method, self.method.group
        against = f"Against {self.control.recipe}, {self.control.meaning}: " if self.control else ""
        return (
            f"{against}{method.name} minus {method.baseline} ({method.settings}), "
            f"{measure_phrase(group, WORST_CASE)}, n = {group.n:,}, {method.seeds_label}"
        )

    @property
    def difference(self) -> str:
        """The mean with both intervals."""
        said = points_interval(self.method.differences[WORST_CASE])
        if self.method.seeds == 1:
            return said
        return f"{said}, seeds x images drawn again {ends(self.method.bootstrap())}"

    @property
    def sentence(self) -> str:
        """One line that can be quoted: the difference, its intervals, the attack, the verdict."""
        return f"{self.what}: {self.difference}: {self.verdict.words}."


def answers(group: Group, found: Sequence[Pair] | None = None) -> tuple[Answer, ...]:
    """Methods, then stronger controls, each with its verdict.

    found: the pairs of the group where they are known.
    """
    asked: list[tuple[Method, Control | None]] = [(m, None) for m in methods(group, found)]
    asked += [(control.method, control) for control in controls(group)]
    carried = [_declared(group, method) for method, _ in asked]
    own = [m.effect() for (m, _), known in zip(asked, carried, strict=True) if known is None]
    rest = iter(judge(own, of_table(group)))
    return tuple(
        Answer(method, known or next(rest), control)
        for (method, control), known in zip(asked, carried, strict=True)
    )


def told(found: Sequence[Answer]) -> list[str]:
    """How the verdicts came about, and a sentence an answer."""
    return [*filter(None, [rule(found)]), *(answer.sentence for answer in found)]


def of_table(group: Group) -> str:
    """`of digits, linf:0.15, gradient, n = 1,000`: whose contrasts a family is."""
    return f"of {group.dataset}, {group.threat}, {group.protocol_label}, n = {group.n:,}"


def rule(found: Iterable[Answer]) -> str:
    """How the verdicts of a table came about, its families by name; empty without any."""
    families = list(dict.fromkeys(a.verdict.family for a in found if a.verdict.family))
    if not families:
        return ""
    named = "; ".join(families)
    return (
        f"{RULE} Here: {named}. All methods beside their twins and all stronger controls of a table "
        "are one family, best and last epoch, unless a study declared primary contrasts."
    )


def of_studies(
    groups: Iterable[Group],
    studies: Iterable[StudyFile],
    answered: Callable[[Group], Iterable[Answer]] = answers,
) -> Mapping[Compared, Verdict]:
    """Two records that are compared -> the verdict of the contrast that they belong to.

    Of the tables that show a record of the studies; the others are not ranked for it.
    """
    treated = {record for study in studies for f in study.findings for record, _ in f.records}
    return {
        compared: answer.verdict
        for group in groups
        if any(member.record.id in treated for member in group.members)
        for answer in answered(group)
        for compared in answer.method.compared
    }


def _declared(group: Group, method: Method) -> Verdict | None:
    """What a study declared of this contrast, if all that it compared stands in the table."""
    here = method.compared
    said = [d.verdict for d in group.declared if d.compared <= here]
    # A primary contrast of any study is one; where two declare the same, the more cautious is carried.
    return min(said, key=lambda v: (not v.family, v.rejected, v.family), default=None)


def ends(interval: Interval) -> str:
    """`[+0.9, +3.7]`, in points."""
    return f"[{points(interval.low)}, {points(interval.high)}]"
