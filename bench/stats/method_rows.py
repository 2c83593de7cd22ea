"""One row a method: runs that differ in their seed alone, and the places that the tests leave open.

The epoch chosen on validation images speaks for a run, else the last one. Two methods of several seeds
are compared by seed: Student's paired t over the seeds that both have, Welch's t where they share fewer
than two. A network alone is compared on the images with every network of the other (exact McNemar): the
largest p, and 1 where they do not all point the same way. Holm's procedure runs over all pairs of the
table. Where records of the folder are proven or were measured here, every other network stands alone,
without a rank.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bench.notation import plain
from bench.records.card_text import method_text
from bench.schema import ModelCard
from bench.stats.contrasts import Answer, Pair, apart, known_first, run_key, training_facts
from bench.stats.intervals import Interval, seed_interval, seed_p_value
from bench.stats.ranks import (
    LEVEL,
    Ranks,
    compared_pairs,
    discordant,
    mcnemar_p_values,
    range_text,
    ranges_left_open,
)
from bench.table import WORST_CASE, Group, Row

# What stands behind a method's name, said once a row: shown as badges.
REPRODUCED, MEASURED, UNVERIFIED = "reproduced", "measured", "unverified"
SELF_DECLARED, EXTERNAL, AUDITED = "self-declared", "external", "audited"
BADGES = {
    REPRODUCED: "measured here, and every broken image was proven again from the kept evidence",
    MEASURED: "measured here; of these networks hashes are kept, not the adversarial images",
    UNVERIFIED: "a record that somebody handed in: neither measured here nor proven again",
    SELF_DECLARED: "how it was trained is the word of who submitted it",
    EXTERNAL: "trained by others: there are no training settings of this project",
    AUDITED: "AutoAttack tried a sample of the images that stood",
}
_OF_THE_DATA = ("image_size", "in_channels", "num_classes")  # arguments that all networks share
_RECIPES = {"best-vanilla": "tuned", "equal-compute": "equal compute", "paper": "as published"}


@dataclass(frozen=True, eq=False)
class MethodRow:
    """A method, or a network alone, in one table."""

    group: Group
    name: str  # short, and no other row of the table has it
    rows: tuple[Row, ...]  # of the epoch that speaks, one a seed
    others: tuple[Row, ...]  # other epochs kept of the same runs
    rank: (
        int | None
    )  # 1-based, rows of one rate share it; None: a flag keeps one of its networks out
    rank_range: tuple[int, int] | None = None  # the places that the tests leave open
    against: Answer | Pair | None = None  # its vanilla twin

    @property
    def seeds(self) -> int:
        return len(self.rows)

    @property
    def alone(self) -> bool:
        """Whether it is one network, so that only the images can be drawn again."""
        return self.seeds == 1

    @property
    def card(self) -> ModelCard:
        """Of its first seed."""
        return self.rows[0].card

    @property
    def range_text(self) -> str:
        return range_text(self.rank_range)

    @property
    def unranked(self) -> str:
        """Why there is no rank, with the number of seeds; empty where there is one."""
        flagged = [row for row in self.rows if row.unranked]
        if not flagged:
            return ""
        of = "" if self.alone else f" ({len(flagged)} of {self.seeds} seeds)"
        return f"{flagged[0].unranked}{of}"

    def rate(self, measure: str = WORST_CASE) -> Interval:
        """The mean over seeds with Student's t interval; of a network alone Wilson's, over images."""
        if self.alone:
            return self.rows[0].rates[measure]
        found = seed_interval(self.each(measure))
        return Interval(found.estimate, max(0.0, found.low), min(1.0, found.high))

    def each(self, measure: str = WORST_CASE) -> tuple[float, ...]:
        """The rate of every seed."""
        return tuple(row.rates[measure].estimate for row in self.rows)

    @cached_property
    def difference(self) -> Interval | None:
        """To its twin, worst case, as rates: over seeds, or over images for two networks alone."""
        if isinstance(self.against, Answer):
            return self.against.method.differences[WORST_CASE]
        return self.against.comparisons[WORST_CASE].difference if self.against else None

    @property
    def badges(self) -> tuple[str, ...]:
        """Names of BADGES: how far these numbers can be relied on."""
        known = REPRODUCED if all(row.proven for row in self.rows) else MEASURED
        found = [known if all(row.known for row in self.rows) else UNVERIFIED]
        if any(row.card.declared for row in self.rows):
            found.append(SELF_DECLARED)
        if all(row.card.train is None for row in self.rows):
            found.append(EXTERNAL)
        if any(row.record.audits for row in self.rows):
            found.append(AUDITED)
        return tuple(found)


@dataclass(frozen=True, eq=False)
class MethodTable:
    """The methods of one group in the order of their rates; those without a rank come last."""

    group: Group
    rows: tuple[MethodRow, ...]
    ranks: Ranks | None  # None: fewer than two rows have a rank

    @property
    def note(self) -> str:
        """How the ranges came about, with what the tests separated; empty with fewer than two rows."""
        if self.ranks is None:
            return ""
        said = f"{self.ranks.separated:,} of {self.ranks.pairs:,} pairs separated"
        return (
            f"Rank range: the places that the tests leave open (Holm at {100 * LEVEL:g} % over all "
            f"pairs; {said}). Not separated is not equal."
        )


def method_table(group: Group, answers: Iterable[Answer], pairs: Iterable[Pair]) -> MethodTable:
    """The methods of a group; answers and pairs are those of bench.stats.contrasts for it."""
    gathered = sorted(_gathered(group), key=lambda found: found[0][0].strange)
    cards = [rows[0].card for rows, _ in gathered if not rows[0].strange]
    # What nothing vouches for has its own name, and changes that of no other.
    own = (plain(rows[0].card.name, 80) for rows, _ in gathered[len(cards) :])
    names = _numbered([*short_names(cards), *own])
    twins = _twins(answers, pairs)
    ranked: list[MethodRow] = []
    unranked: list[MethodRow] = []
    for (rows, others), name in zip(gathered, names, strict=True):
        against = twins.get(frozenset(id(row) for row in rows))
        method = MethodRow(group, name, rows, others, None, None, against)
        (unranked if method.unranked else ranked).append(method)

    def place(method: MethodRow) -> tuple[float, str]:
        return -method.rate().estimate, method.name

    ranked.sort(key=place)
    ranks = _ranks(ranked)
    scores = [method.rate().estimate for method in ranked]
    placed = (
        MethodRow(group, m.name, m.rows, m.others, scores.index(score) + 1, places, m.against)
        for m, score, places in zip(ranked, scores, ranks.ranges, strict=True)
    )
    ordered = (*placed, *sorted(unranked, key=place))
    return MethodTable(group, ordered, ranks if len(ranked) > 1 else None)


def _gathered(group: Group) -> list[tuple[tuple[Row, ...], tuple[Row, ...]]]:
    """The rows that speak, and those of other epochs, of every method and of every network alone."""
    lone = apart(group)
    runs: dict[str, dict[int, dict[str | None, Row]]] = defaultdict(lambda: defaultdict(dict))
    alone = []
    for row in sorted(group.rows, key=known_first, reverse=True):
        train = row.card.train
        if train is None or row in lone:
            alone.append(row)
            continue
        kept = runs[run_key(row.card)][train.seed]
        if row.card.selected_on in kept:  # another record of the same run, less sure than the first
            alone.append(row)
        else:
            kept[row.card.selected_on] = row
    found: list[tuple[tuple[Row, ...], tuple[Row, ...]]] = []
    for seeds in runs.values():
        speaks = next(
            (k for k in ("validation", "last", None) if all(k in kept for kept in seeds.values())),
            None,
        )
        chosen = [
            (kept[speaks] if speaks in kept else next(iter(kept.values())), kept)
            for _, kept in sorted(seeds.items())
        ]
        others = (row for first, kept in chosen for row in kept.values() if row is not first)
        found.append((tuple(first for first, _ in chosen), tuple(others)))
    return [*found, *(((row,), ()) for row in alone)]


def _twins(answers: Iterable[Answer], pairs: Iterable[Pair]) -> dict[frozenset[int], Answer | Pair]:
    """The perturbed networks of a comparison with vanilla twins -> that comparison."""
    found: dict[frozenset[int], Answer | Pair] = {frozenset({id(pair.awp)}): pair for pair in pairs}
    for answer in answers:
        if answer.control is None:
            found[frozenset(id(pair.awp) for pair in answer.method.pairs)] = answer
    return found


# ---------------------------------------------------------------- which rows the tests separate


def _ranks(methods: Sequence[MethodRow]) -> Ranks:
    first, second = compared_pairs(len(methods))
    p_values, ways = np.ones(len(first)), np.zeros(len(first), dtype=int)
    lone = np.array([method.alone for method in methods], dtype=bool)
    both = lone[first] & lone[second] if len(first) else np.zeros(0, dtype=bool)
    if both.any():
        places = np.flatnonzero(lone)
        at = np.zeros(len(methods), dtype=int)
        at[places] = np.arange(len(places))
        bits = np.array([methods[place].rows[0].standing[WORST_CASE] for place in places.tolist()])
        only_a, only_b = discordant(bits, at[first[both]], at[second[both]])
        p_values[both], ways[both] = mcnemar_p_values(only_a, only_b), np.sign(only_a - only_b)
    for place in np.flatnonzero(~both):
        p_values[place], ways[place] = _tested(methods[first[place]], methods[second[place]])
    return ranges_left_open(len(methods), first, second, p_values, ways)


def _tested(a: MethodRow, b: MethodRow) -> tuple[float, int]:
    """p of no difference between two rows, one of several seeds, and which is better: 1 the first."""
    if a.alone or b.alone:
        bits = np.array([row.standing[WORST_CASE] for row in (*a.rows, *b.rows)])
        first, second = np.divmod(np.arange(a.seeds * b.seeds), b.seeds)
        only_a, only_b = discordant(bits, first, a.seeds + second)
        ways = set(np.sign(only_a - only_b).tolist())
        return (
            (float(mcnemar_p_values(only_a, only_b).max()), *ways) if len(ways) == 1 else (1.0, 0)
        )
    rates = [
        {
            row.card.train.seed: row.rates[WORST_CASE].estimate
            for row in method.rows
            if row.card.train
        }
        for method in (a, b)
    ]
    common = rates[0].keys() & rates[1].keys()
    if len(common) > 1:
        differences = [rates[0][seed] - rates[1][seed] for seed in sorted(common)]
        return seed_p_value(differences), int(np.sign(sum(differences)))
    return _welch(a.each(), b.each())


def _welch(a: Sequence[float], b: Sequence[float]) -> tuple[float, int]:
    from scipy.stats import ttest_ind  # loading scipy takes half a second: not before it is needed

    if min(np.var(a), np.var(b)) == 0:
        return 1.0, 0  # seeds that agree to the last image say nothing of the spread
    p = float(ttest_ind(a, b, equal_var=False).pvalue)
    return (p if math.isfinite(p) else 1.0), int(np.sign(np.mean(a) - np.mean(b)))


# ---------------------------------------------------------------- names


def _settings(card: ModelCard) -> dict[str, str]:
    """What decides a run besides its method -> how it is said; what tells most often comes first."""
    facts, train = training_facts(card), card.train
    if train is None:
        return facts
    return {
        "recipe": _RECIPES.get(train.recipe, ""),
        "images": facts.pop("images").replace("training images", "images"),
        "arch": facts.pop("arch"),
        "arguments": ", ".join(
            f"{k} {v}" for k, v in sorted(card.arch_args.items()) if k not in _OF_THE_DATA
        ),
        "precision": "" if train.precision == "float32" else train.precision,
        "averaging": "" if train.averaging == "none" else train.averaging.upper(),
        **facts,
        "weight decay": f"weight decay {train.weight_decay:g}",
    }


def settings_text(card: ModelCard) -> str:
    """Everything that a short name leaves out."""
    return ", ".join(filter(None, _settings(card).values()))


def short_names(cards: Sequence[ModelCard]) -> list[str]:
    """A name a method, made of its method and of what tells it from the others of its table.

    `AT-AWP`, `AT-AWP, 500 images`, `AT, tuned`; a network without training settings keeps its own name.
    """
    names = [plain(card.name, 80) if card.train is None else method_text(card) for card in cards]
    settings = [{} if card.train is None else _settings(card) for card in cards]
    trained = [place for place, found in enumerate(settings) if found]
    for setting in dict.fromkeys(name for found in settings for name in found):
        said = [found.get(setting, "") for found in settings]
        for places in [trained] if setting == "images" else _alike(names):
            if len({said[place] for place in places}) > 1:
                for place in places:
                    names[place] += f", {said[place]}" if said[place] else ""
    for places in _alike(names):  # nothing that is known tells them apart
        for place in places:
            names[place] = f"{names[place]} ({plain(cards[place].name, 80)})"
    return _numbered(names)  # records of others may share even that


def _numbered(names: Iterable[str]) -> list[str]:
    """The names, all but the first of equal ones with a number."""
    counts: Counter[str] = Counter()
    found = []
    for name in names:
        counts[name] += 1
        found.append(f"{name} #{counts[name]}" if counts[name] > 1 else name)
    return found


def _alike(names: Sequence[str]) -> list[list[int]]:
    places = defaultdict(list)
    for place, name in enumerate(names):
        places[name].append(place)
    return [found for found in places.values() if len(found) > 1]
