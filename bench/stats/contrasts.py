"""Did AWP help: paired differences over seeds, with the verdict of each contrast of a table.

Two checkpoints are compared on the same images (exact McNemar, Tango's interval). A method is compared
over seeds with its vanilla twins, and with stronger controls: the seed is the unit, never the pooled
images. The family of a contrast is its table: every method beside its twin and every control, of the
best and of the last epoch, on the worst case. A contrast that a study declared as primary, or left to
describe beside its primary ones, carries what that study says instead. Where records of the folder are
proven or were measured here, no other record takes part in a contrast.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bench.catalogue import training_images
from bench.notation import ends, plain, points_interval, short_label
from bench.records.card_text import images_text
from bench.schema import ModelCard, TrainConfig
from bench.schema.frozen import canonical_json
from bench.stats.intervals import Interval, PairedComparison, compare_paired, seed_interval
from bench.stats.study_files import StudyFile
from bench.stats.verdicts import RULE, Compared, Effect, Verdict, judge, seeds_text
from bench.table import CLEAN, STRANGE, WORST_CASE, Group, Row

_KEPT = {
    "last": "last epoch, which includes robust overfitting",
    "validation": "epoch chosen on validation images",
    None: "epoch unknown",
}
MEANINGS = {
    "equal-compute": "vanilla training with the passes that AWP took",
    "best-vanilla": "vanilla training with as many settings tried as AWP's, on validation images",
}

# ---------------------------------------------------------------- two models


@dataclass(frozen=True, eq=False)
class Pair:
    """A weight-perturbed model and its vanilla twin or control, measured on the same images."""

    awp: Row
    vanilla: Row
    differs: tuple[str, ...]  # training settings besides AWP in which the two differ
    recorded: bool  # whether both cards hold their training settings
    unknown: str = ""  # the name of one of the two that is not known, in a folder that knows others
    contested: str = ""  # the name of one of the two, where others claim it and none is known

    @cached_property
    def comparisons(self) -> dict[str, PairedComparison]:
        """Measure -> AWP minus vanilla."""
        return {
            measure: compare_paired(bits, self.vanilla.standing[measure])
            for measure, bits in self.awp.standing.items()
        }

    @property
    def matched(self) -> bool:
        """Whether only the weight perturbation differs, as far as the cards say, and both rank."""
        return not self.remark

    @property
    def remark(self) -> str:
        """Why this pair is not averaged over seeds; empty where it is."""
        if self.unknown:
            return f"{self.unknown} is {STRANGE}; bench verify proves it"
        unranked = self.awp.unranked or self.vanilla.unranked
        if unranked:
            return unranked
        if self.contested:
            return f"several records are called {self.contested}, none is proven"
        if not self.recorded:
            declared = "pair" in self.awp.card.declared
            return f"training settings not recorded{', twin self-declared' if declared else ''}"
        return f"also differs in {', '.join(self.differs)}" if self.differs else ""


def comparable(group: Group) -> bool:
    """Whether a table holds a model beside its twin or its control; ranks nothing."""
    names = {member.record.name for member in group.members}
    cards = (member.record.card for member in group.members)
    return any(card.pair in names or card.control_of in names for card in cards)


def pairs(group: Group) -> tuple[Pair, ...]:
    """Every perturbed row whose card names a twin of the same group; by method, then seed."""
    twins, claimed = by_name(group), _contested(group)
    found = []
    for row in group.rows:
        twin = twins.get(row.card.pair or "")
        if row.card.awp is not None and twin is not None and twin is not row:
            recorded = row.card.train is not None and twin.card.train is not None
            unknown = next((r.card.name for r in (row, twin) if r.strange), "")
            contested = next((r.card.name for r in (row, twin) if r.card.name in claimed), "")
            found.append(Pair(row, twin, _differences(row, twin), recorded, unknown, contested))
    return tuple(sorted(found, key=lambda pair: (_method_order(pair), pair.awp.card.seed or 0)))


def by_name(group: Group) -> dict[str, Row]:
    """Of two rows under one name the name means the proven one, else the known one, else the newer."""
    return {row.card.name: row for row in sorted(group.rows, key=known_first)}


def _contested(group: Group) -> set[str]:
    """Names that several rows have of which none is known: nobody can tell whose the name is."""
    known = {row.card.name for row in group.rows if row.known}
    counts = Counter(row.card.name for row in group.rows)
    return {name for name, count in counts.items() if count > 1} - known


def apart(group: Group) -> set[Row]:
    """Rows that enter nothing said of several: nothing vouches for them, or the name is contested.

    Where nothing is known of any record, as of a folder of others' records, all are equals.
    """
    claimed = _contested(group)
    return {row for row in group.rows if row.strange or row.card.name in claimed}


def known_first(row: Row) -> tuple[bool, bool, str, str]:
    """Highest for what a name means: proven, known, newest."""
    return (row.proven, row.known, row.record.created, row.record.id)


def _differences(awp: Row, vanilla: Row) -> tuple[str, ...]:
    """Names of what differs besides the weight perturbation itself."""
    a, b = awp.card, vanilla.card
    names = ("objective", "arch", "arch_args", "selected_on")
    differing = [name for name in names if getattr(a, name) != getattr(b, name)]
    if b.awp is not None:
        differing.append("awp (the twin is perturbed itself)")
    if a.train is not None and b.train is not None:
        differing += [
            name
            for name in TrainConfig.model_fields
            if name not in (*differing, "awp") and getattr(a.train, name) != getattr(b.train, name)
        ]
    return tuple(differing)


# ---------------------------------------------------------------- a method over seeds


@dataclass(frozen=True, eq=False)
class Method:
    """Pairs of one training method that differ in their seed alone."""

    group: Group
    pairs: tuple[Pair, ...]  # one a seed, in the order of the seeds
    control: str | None = None  # recipe of the stronger controls; None: against vanilla twins

    @property
    def name(self) -> str:
        return self.pairs[0].awp.card.method

    @property
    def baseline(self) -> str:
        return self.pairs[0].vanilla.card.method

    @property
    def kept(self) -> str | None:
        """How the epoch was chosen: `validation`, `last`, or None where the cards do not say."""
        return self.pairs[0].awp.card.selected_on

    @property
    def settings(self) -> str:
        """`small_cnn, 200 training images, gamma 0.02, ..., last epoch, which includes ...`."""
        return ", ".join([*self.facts.values(), _KEPT[self.kept]])

    @property
    def facts(self) -> dict[str, str]:
        """What tells methods of one name apart -> how it is said."""
        return training_facts(self.pairs[0].awp.card)

    @property
    def random(self) -> bool:
        """Whether the perturbation was random: not AWP, but what it is to be told from."""
        awp = self.pairs[0].awp.card.awp
        return awp is not None and awp.direction == "random"

    @property
    def seeds(self) -> int:
        return len(self.pairs)

    @property
    def training_images(self) -> float:
        """How many images the networks learnt from; infinite where it is all, or not known."""
        return _training_images(self.pairs[0].awp.card.train)

    @property
    def seeds_label(self) -> str:
        """`6 seeds`; `3 seeds (fewer than 6)`."""
        return seeds_text(self.seeds)

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
        kept = {"validation": "best", "last": "last", None: ""}[self.kept]
        return frozenset((kept, pair.awp.record.id, pair.vanilla.record.id) for pair in self.pairs)


def methods(group: Group, found: Sequence[Pair] | None = None) -> tuple[Method, ...]:
    """Matched pairs gathered by everything that decides a run besides its seed.

    found: the pairs of the group where they are known.
    """
    matched = [pair for pair in (pairs(group) if found is None else found) if pair.matched]
    gathered = _over_seeds(matched, lambda pair: (_method_key(pair),))
    ordered = sorted(gathered.values(), key=lambda seeds: _method_order(seeds[0]))
    return tuple(Method(group, seeds) for seeds in ordered)


def controls(group: Group) -> tuple[Method, ...]:
    """AWP minus each stronger control of a group, over the seeds that both have; by recipe.

    A control is a vanilla model that got AWP's compute, or as many tried settings: its card names the
    AWP model in `control_of`, and its recipe says what it is. Both have a rank there, which nothing
    has that is not known where others are.
    """
    meant, claimed, found = by_name(group), _contested(group), []
    for row in meant.values():
        card, awp = row.card, meant.get(row.card.control_of or "")
        if awp is None or awp.card.awp is None or card.train is None or card.awp is not None:
            continue
        if {card.name, awp.card.name} & claimed:
            continue
        if card.selected_on == awp.card.selected_on and not (row.unranked or awp.unranked):
            differs = (f"recipe {card.train.recipe}",)
            found.append(Pair(awp, row, differs, recorded=True))
    gathered = _over_seeds(found, _control_key)
    return tuple(Method(group, gathered[key], control=key[0]) for key in sorted(gathered))


def _over_seeds(
    found: Iterable[Pair], key: Callable[[Pair], tuple[str, ...]]
) -> dict[tuple[str, ...], tuple[Pair, ...]]:
    """The pairs of each key, one a seed: of several a proven one, else a known, else the newest."""
    gathered: dict[tuple[str, ...], dict[int, Pair]] = defaultdict(dict)
    for pair in sorted(found, key=lambda pair: known_first(pair.awp)):
        train = pair.vanilla.card.train
        assert train is not None  # or the pair is not matched
        gathered[key(pair)][train.seed] = pair
    return {k: tuple(seeds[s] for s in sorted(seeds)) for k, seeds in gathered.items()}


def _control_key(pair: Pair) -> tuple[str, ...]:
    """What all pairs of one control have in common: everything but the seed."""
    awp, control = pair.awp.card, pair.vanilla.card
    assert control.train is not None
    settings = [
        card.train and card.train.model_dump(mode="json", exclude={"seed", "extra", "start"})
        for card in (awp, control)
    ]
    return (control.train.recipe, str(awp.selected_on), awp.method, canonical_json(settings))


def _method_key(pair: Pair) -> str:
    """The same text for two pairs exactly if only the seed differs."""
    return canonical_json([run_key(pair.awp.card), pair.awp.card.selected_on])


def run_key(card: ModelCard) -> str:
    """The same text for two cards exactly if only the seed, or the epoch kept, differs."""
    train = card.train and {
        **card.train.model_dump(mode="json", exclude={"seed", "awp", "extra", "start"}),
        **_files_of_any_seed(card.train),
    }
    awp = card.awp and card.awp.model_dump(mode="json")
    return canonical_json([card.objective, awp, card.arch, card.arch_args, train])


def training_facts(card: ModelCard) -> dict[str, str]:
    """Architecture, training images, epochs and perturbation of a card, each as it is said."""
    facts = {"arch": plain(card.arch or "unknown architecture", 60)}
    if (train := card.train) is not None:
        facts |= {"images": images_text(train), "epochs": f"{train.epochs} epochs"}
    if (awp := card.awp) is None:
        return facts
    facts["gamma"] = f"gamma {awp.gamma:g}"
    if awp.warm_up:
        facts["warm-up"] = f"warm-up {awp.warm_up} epochs"
    if awp.steps > 1:
        facts["steps"] = f"{awp.steps} steps"
    if awp.norm != "tensor":
        facts["norm"] = f"{awp.norm} norm"
    if awp.threshold is not None:
        facts["threshold"] = f"examples below {awp.threshold:g} nats"
    return facts


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


def _method_order(pair: Pair) -> tuple[object, ...]:
    """AWP before its random control, best by validation (the headline) before last."""
    card = pair.awp.card
    assert card.awp is not None
    images = _training_images(card.train)
    kind = (card.awp.direction == "random", card.selected_on == "last", card.method)
    return (*kind, images, card.awp.gamma, _method_key(pair))


def _training_images(train: TrainConfig | None) -> float:
    """How many a run learnt from; infinite where it is all of a data set, or not known."""
    if train is None or not (train.n_train or train.train_indices):
        return math.inf
    return train.n_train or training_images(train)


def measure_phrase(group: Group, measure: str) -> str:
    """What a difference is in, with the attacks behind it by name."""
    if measure == CLEAN:
        return "clean accuracy"
    if measure != WORST_CASE:
        return f"standing under {group.labels[measure]}"
    attacks = ", ".join(short_label(group.labels[column.name]) for column in group.columns)
    return f"worst case of {group.protocol_label} ({attacks})"


# ---------------------------------------------------------------- with verdicts


@dataclass(frozen=True, eq=False)
class Answer:
    """A method against its twins or against a stronger control, with what may be said of it."""

    method: Method
    verdict: Verdict

    @property
    def control(self) -> str | None:
        """The recipe of the stronger control; None: against the vanilla twin."""
        return self.method.control

    @property
    def what(self) -> str:
        """What is compared, under which attacks, on how many images and seeds."""
        method, group, recipe = self.method, self.method.group, self.control
        against = f"Against {recipe}, {MEANINGS.get(recipe, recipe)}: " if recipe else ""
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
    asked = [*methods(group, found), *controls(group)]
    carried = [_declared(group, method) for method in asked]
    own = [m.effect() for m, known in zip(asked, carried, strict=True) if known is None]
    table = f"of {group.dataset}, {group.threat}, {group.protocol_label}, n = {group.n:,}"
    rest = iter(judge(own, table))
    return tuple(Answer(m, known or next(rest)) for m, known in zip(asked, carried, strict=True))


def _declared(group: Group, method: Method) -> Verdict | None:
    """What a study declared of this contrast, if all that it compared stands in the table."""
    said = [d.verdict for d in group.declared if d.compared <= method.compared]
    # A primary contrast of any study is one; where two declare the same, the more cautious is carried.
    return min(said, key=lambda v: (not v.family, v.rejected, v.family), default=None)


def told(found: Sequence[Answer]) -> list[str]:
    """How the verdicts came about, and a sentence an answer."""
    return [*filter(None, [rule(found)]), *(answer.sentence for answer in found)]


def rule(found: Iterable[Answer]) -> str:
    """How the verdicts of a table came about, its families by name; empty without any."""
    named = "; ".join(dict.fromkeys(a.verdict.family for a in found if a.verdict.family))
    if not named:
        return ""
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

    Tables without a record of the studies are not ranked for it.
    """
    treated = {record for study in studies for f in study.findings for record, _ in f.records}
    shown = [group for group in groups if any(m.record.id in treated for m in group.members)]
    return {
        compared: answer.verdict
        for group in shown
        for answer in answered(group)
        for compared in answer.method.compared
    }
