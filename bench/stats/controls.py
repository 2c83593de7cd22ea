"""Stronger controls: AWP beside a vanilla model that got its compute, or as many tried settings.

A control's card names the AWP model in `control_of` and says in its recipe what it is. Seeds pair
them; the seed is the unit, as for twins.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from bench.schema.frozen import canonical_json
from bench.stats.contrasts import Method, Pair
from bench.table import Group, Row

MEANINGS = {
    "equal-compute": "vanilla training with the passes that AWP took",
    "best-vanilla": "vanilla training with as many settings tried as AWP's, on validation images",
}


@dataclass(frozen=True, eq=False)
class Control:
    """AWP minus one kind of control, over the seeds that both have."""

    recipe: str
    method: Method  # its pairs hold the control where a twin would stand

    @property
    def meaning(self) -> str:
        return MEANINGS.get(self.recipe, self.recipe)


def controls(group: Group) -> tuple[Control, ...]:
    """Every control of a group whose AWP model has a rank there, by recipe, then method."""
    by_name: dict[str, Row] = {}
    for row in group.rows:
        known = by_name.get(row.card.name)
        if known is None or _age(row) > _age(known):
            by_name[row.card.name] = row
    gathered: dict[tuple[str, ...], dict[int, Pair]] = defaultdict(dict)
    for row in by_name.values():
        card, awp = row.card, by_name.get(row.card.control_of or "")
        if awp is None or awp.card.awp is None or card.train is None or card.awp is not None:
            continue
        if card.selected_on == awp.card.selected_on and not (row.unranked or awp.unranked):
            pair = Pair(awp, row, differs=(f"recipe {card.train.recipe}",), recorded=True)
            gathered[_key(pair)][card.train.seed] = pair
    return tuple(
        Control(key[0], Method(group, _by_seed(seeds))) for key, seeds in sorted(gathered.items())
    )


def _by_seed(seeds: dict[int, Pair]) -> tuple[Pair, ...]:
    return tuple(seeds[seed] for seed in sorted(seeds))


def _age(row: Row) -> tuple[str, str]:
    return (row.record.created, row.record.id)


def _key(pair: Pair) -> tuple[str, ...]:
    """What all pairs of one control have in common: everything but the seed."""
    awp, control = pair.awp.card, pair.vanilla.card
    assert control.train is not None
    settings = [
        card.train and card.train.model_dump(mode="json", exclude={"seed", "extra", "start"})
        for card in (awp, control)
    ]
    return (control.train.recipe, str(awp.selected_on), awp.method, canonical_json(settings))
