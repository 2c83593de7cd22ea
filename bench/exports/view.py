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
    protocol: str | None = None,
    n: int | None = None,
) -> View:
    """The groups of one data set, threat, protocol and number of images, where given.

    The published rows of their data sets and threats are beside them; a protocol or n leaves out none.

    Notes about published lines that were skipped join the notes of the board. Raises InvalidInput
    that names what there is where nothing is left.
    """
    ball = None if threat is None else ThreatModel.asked(threat)
    ours = [(group.dataset, group.threat) for group in board.groups]
    others = published.rows if published else ()
    asked = [(row.dataset, ball) for row in others] if ball else []
    rows = beside(others, [*ours, *asked])

    def wanted(key: Key) -> bool:
        return (dataset is None or key[0] == dataset) and (ball is None or key[1] == ball)

    groups = tuple(
        group
        for group in board.groups
        if wanted((group.dataset, group.threat))
        and protocol in (None, group.protocol.name)
        and n in (None, group.n)
    )
    kept = {key: found for key, found in rows.items() if wanted(key)}
    measured = protocol is not None or n is not None
    if (dataset or threat or measured) and not groups and (measured or not kept):
        said = (dataset, threat, protocol, None if n is None else f"n = {n}")
        there = [f"{g.dataset} {g.threat} {g.protocol.name} n = {g.n}" for g in board.groups]
        there += [f"{name} {near}" for name, near in beside(others)]
        known = ", ".join(dict.fromkeys(there)) or "nothing"
        raise InvalidInput(f"no rows of {' '.join(filter(None, said))}. There is: {known}")
    notes = (*board.notes, *(published.notes if published else ()))
    return View(replace(board, groups=groups, notes=notes), kept)
