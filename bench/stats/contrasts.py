"""Did AWP help: paired differences of a model minus its vanilla twin, and of a method over seeds.

Two checkpoints are compared on the same images (exact McNemar, Tango's interval). A method is
compared over seeds: the seed is the unit, never the pooled images.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bench.notation import plain, short_label
from bench.schema import TrainConfig
from bench.schema.frozen import canonical_json
from bench.stats.intervals import Interval, PairedComparison, compare_paired
from bench.stats.seeds import seed_interval
from bench.stats.verdicts import Compared, Effect, seeds_text
from bench.table import CLEAN, WORST_CASE, Group, Row

_KEPT = {
    "last": "last epoch, which includes robust overfitting",
    "validation": "epoch chosen on validation images",
    None: "epoch unknown",
}


@dataclass(frozen=True, eq=False)
class Pair:
    """A weight-perturbed model and its vanilla twin, measured on the same images."""

    awp: Row
    vanilla: Row
    differs: tuple[str, ...]  # training settings besides AWP in which the two differ
    recorded: bool  # whether both cards hold their training settings

    @cached_property
    def comparisons(self) -> dict[str, PairedComparison]:
        """Measure -> AWP minus vanilla."""
        return {
            measure: compare_paired(bits, self.vanilla.standing[measure])
            for measure, bits in self.awp.standing.items()
        }

    @property
    def _unranked(self) -> str:
        return self.awp.unranked or self.vanilla.unranked

    @property
    def matched(self) -> bool:
        """Whether only the weight perturbation differs, as far as the cards say, and both rank."""
        return self.recorded and not self.differs and not self._unranked

    @property
    def remark(self) -> str:
        """Why this pair is not averaged over seeds; empty where it is."""
        if self._unranked:
            return self._unranked
        if not self.recorded:
            declared = "pair" in self.awp.card.declared
            return f"training settings not recorded{', twin self-declared' if declared else ''}"
        return f"also differs in {', '.join(self.differs)}" if self.differs else ""


@dataclass(frozen=True, eq=False)
class Method:
    """Matched pairs of one training method that differ in their seed alone."""

    group: Group
    pairs: tuple[Pair, ...]  # one a seed, in the order of the seeds

    @property
    def name(self) -> str:
        return self.pairs[0].awp.card.method

    @property
    def baseline(self) -> str:
        return self.pairs[0].vanilla.card.method

    @property
    def settings(self) -> str:
        """`small_cnn, 200 training images, gamma 0.02, ..., last epoch, which includes ...`."""
        return ", ".join([*self.facts.values(), _KEPT[self.pairs[0].awp.card.selected_on]])

    @property
    def facts(self) -> dict[str, str]:
        """What tells methods of one name apart -> how it is said."""
        card, train = self.pairs[0].awp.card, self.pairs[0].awp.card.train
        awp = card.awp
        assert awp is not None and train is not None  # a pair is matched only where both are known
        images = "all" if train.n_train is None else f"{train.n_train:,}"
        facts = {
            "arch": plain(card.arch or "unknown architecture", 60),
            "images": f"{images} training images",
            "epochs": f"{train.epochs} epochs",
            "gamma": f"gamma {awp.gamma:g}",
        }
        if awp.warm_up:
            facts["warm-up"] = f"warm-up {awp.warm_up} epochs"
        if awp.steps > 1:
            facts["steps"] = f"{awp.steps} steps"
        return facts

    @property
    def seeds(self) -> int:
        return len(self.pairs)

    @cached_property
    def differences(self) -> dict[str, Interval]:
        """Measure -> mean of the per-seed paired differences, with Student's t interval."""
        return {
            measure: seed_interval([p.comparisons[measure].difference.estimate for p in self.pairs])
            for measure in self.group.measures
        }

    def bootstrap(self, measure: str = WORST_CASE) -> Interval:
        """The same mean, with the percentile interval of seeds and images both drawn again."""
        return self.effect(measure).crossed

    def effect(self, measure: str = WORST_CASE) -> Effect:
        """The paired differences of all seeds; the seeds x images are drawn once a measure."""
        if measure not in self._effects:
            bits = [(p.awp.standing[measure], p.vanilla.standing[measure]) for p in self.pairs]
            differences = np.array([a.astype(np.int8) - b for a, b in bits])
            self._effects[measure] = Effect.of_bits(differences)
        return self._effects[measure]

    @cached_property
    def _effects(self) -> dict[str, Effect]:
        """What was drawn before: ten seeds take a third of a second."""
        return {}

    @property
    def compared(self) -> frozenset[Compared]:
        """The records compared: which contrast this is, in any file."""
        kept = {"validation": "best", "last": "last", None: ""}[self.pairs[0].awp.card.selected_on]
        return frozenset((kept, pair.awp.record.id, pair.vanilla.record.id) for pair in self.pairs)

    @property
    def seeds_label(self) -> str:
        """`6 seeds`; `3 seeds (fewer than 6)`."""
        return seeds_text(self.seeds)


def measure_phrase(group: Group, measure: str) -> str:
    """What a difference is in, with the attacks behind it by name."""
    if measure == CLEAN:
        return "clean accuracy"
    labels = [group.labels[column.name] for column in group.columns]
    if measure != WORST_CASE:
        return f"standing under {group.labels[measure]}"
    attacks = ", ".join(short_label(label) for label in labels)
    return f"worst case of {group.protocol_label} ({attacks})"


def pairs(group: Group) -> tuple[Pair, ...]:
    """Every perturbed row whose card names a twin of the same group; by method, then seed."""
    twins: dict[str, Row] = {}
    for row in group.rows:
        known = twins.get(row.card.name)
        # Two sets of weights under one name: the newer record is the one the name now means.
        if known is None or _age(row) > _age(known):
            twins[row.card.name] = row
    found = []
    for row in group.rows:
        twin = twins.get(row.card.pair or "")
        if row.card.awp is not None and twin is not None and twin is not row:
            recorded = row.card.train is not None and twin.card.train is not None
            found.append(Pair(row, twin, _differences(row, twin), recorded))
    return tuple(sorted(found, key=lambda pair: (_method_order([pair]), pair.awp.card.seed or 0)))


def methods(group: Group, found: Sequence[Pair] | None = None) -> tuple[Method, ...]:
    """Matched pairs gathered by everything that decides a run besides its seed."""
    by_method: dict[str, dict[int, Pair]] = defaultdict(dict)
    for pair in pairs(group) if found is None else found:
        train = pair.awp.card.train
        if not pair.matched or train is None:
            continue
        seeds = by_method[_method_key(pair)]
        known = seeds.get(train.seed)
        if known is None or _age(pair.awp) > _age(known.awp):
            seeds[train.seed] = pair
    return tuple(
        Method(group, tuple(seeds[s] for s in sorted(seeds)))
        for seeds in sorted(by_method.values(), key=lambda seeds: _method_order(seeds.values()))
    )


def _age(row: Row) -> tuple[str, str]:
    return (row.record.created, row.record.id)


def _differences(awp: Row, vanilla: Row) -> tuple[str, ...]:
    """Names of what differs besides the weight perturbation itself."""
    a, b = awp.card, vanilla.card
    differing = [
        name
        for name in ("objective", "arch", "arch_args", "selected_on")
        if getattr(a, name) != getattr(b, name)
    ]
    if b.awp is not None:
        differing.append("awp (the twin is perturbed itself)")
    if a.train is not None and b.train is not None:
        differing += [
            name
            for name in TrainConfig.model_fields
            if name not in (*differing, "awp") and getattr(a.train, name) != getattr(b.train, name)
        ]
    return tuple(differing)


def _method_key(pair: Pair) -> str:
    """The same text for two pairs exactly if only the seed differs."""
    card = pair.awp.card
    train = card.train and {
        **card.train.model_dump(mode="json", exclude={"seed", "awp", "extra", "start"}),
        **_files_of_any_seed(card.train),
    }
    awp = card.awp and card.awp.model_dump(mode="json")
    return canonical_json([card.objective, awp, card.arch, card.arch_args, train, card.selected_on])


def _files_of_any_seed(train: TrainConfig) -> dict[str, object]:
    """Extra images and starting point; those that a run of the same seed made, without that seed.

    Their names say it, `digits-natural-s0-last-pseudo.npz`, and their hashes follow from it. A file
    that all seeds share keeps its hash.
    """
    files: dict[str, object] = {}
    for field, name in (("extra", "file"), ("start", "name")):
        value = getattr(train, field)
        entry = value and value.model_dump(mode="json")
        own = f"-s{train.seed}-"
        if entry and own in entry[name]:
            entry = {k: v for k, v in entry.items() if not k.endswith("sha256")}
            entry[name] = entry[name].replace(own, "-s*-")
        files[field] = entry
    return files


def _method_order(members: Iterable[Pair]) -> tuple[object, ...]:
    """AWP before its random control, best by validation (the headline) before last."""
    first = next(iter(members))
    card = first.awp.card
    random = card.awp is not None and card.awp.direction == "random"
    gamma = card.awp.gamma if card.awp is not None else 0.0
    images = math.inf if card.train is None or card.train.n_train is None else card.train.n_train
    return (random, card.selected_on == "last", card.method, images, gamma, _method_key(first))
