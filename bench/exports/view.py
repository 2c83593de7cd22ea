"""What is exported: some of the groups, and the published numbers that may stand beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from bench.published import BesideOurs, Key, Published, PublishedRow, beside
from bench.schema import InvalidInput, ThreatModel
from bench.table import Group, Leaderboard


@dataclass(frozen=True, eq=False)
class View:
    """A leaderboard, perhaps a part of it, and published rows by data set and threat."""

    board: Leaderboard
    published: BesideOurs = field(default_factory=dict)

    @property
    def groups(self) -> Sequence[Group]:
        return self.board.groups

    def beside(self, group: Group) -> Sequence[PublishedRow]:
        """The published rows of a group's data set and threat."""
        return self.published.get((group.dataset, group.threat), ())

    @property
    def alone(self) -> BesideOurs:
        """Published rows of data sets and threats of which nothing is measured here."""
        ours = {(group.dataset, group.threat) for group in self.groups}
        return {key: rows for key, rows in self.published.items() if key not in ours}


def select(
    board: Leaderboard,
    *,
    published: Published | None = None,
    dataset: str | None = None,
    threat: str | None = None,
) -> View:
    """The groups of one data set and threat, where given, with the published rows beside them.

    Notes about published lines that were skipped join the notes of the board. Raises InvalidInput
    that names what there is where nothing is left.
    """
    ball = None if threat is None else ThreatModel.parse(threat)
    ours = [(group.dataset, group.threat) for group in board.groups]
    others = published.rows if published else ()
    asked = [(row.dataset, ball) for row in others] if ball else []
    rows = beside(others, [*ours, *asked])

    def wanted(key: Key) -> bool:
        return (dataset is None or key[0] == dataset) and (ball is None or key[1] == ball)

    groups = tuple(group for group in board.groups if wanted((group.dataset, group.threat)))
    kept = {key: found for key, found in rows.items() if wanted(key)}
    if (dataset or threat) and not groups and not kept:
        keys = [*ours, *beside(others)]
        known = ", ".join(dict.fromkeys(f"{name} {near}" for name, near in keys)) or "nothing"
        raise InvalidInput(
            f"no rows of {' '.join(filter(None, (dataset, threat)))}. There is: {known}"
        )
    notes = (*board.notes, *(published.notes if published else ()))
    return View(replace(board, groups=groups, notes=notes), kept)
