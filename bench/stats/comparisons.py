"""Which comparisons of methods there are over all tables, in an order that no result can change.

One question (`_question`) has one comparison. What is asked of the records here is what was known
before an attack ran: who declared it, how many seeds and images there are, what the methods are called.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

from bench import catalogue
from bench.notation import plain
from bench.stats import contrasts
from bench.stats.contrasts import Answer, Method, Pair
from bench.stats.verdicts import (
    BETTER,
    DESCRIPTIVE,
    INDICATION,
    NO_VERDICT,
    NOTHING,
    ONE_SEED,
    TOO_FEW,
    WORSE,
    Verdict,
)
from bench.table import Group

FIRST = 6  # on the landing page
RULE = (
    "Contrasts that a study declared as primary come first; then AWP beside its vanilla twin, then "
    "beside stronger baselines, then random perturbations. Within these more seeds come first, then "
    "more test images, then the name. One stands for each data set, threat, architecture, number of "
    "training images and pair of methods: the epoch chosen on validation images before the last, more "
    "seeds and images, full attacks before gradients alone. No result plays a part."
)
_EPOCHS = {
    ("validation",): "best epochs",
    ("last",): "last epochs",
    ("validation", "last"): "best epochs where chosen, else last",
}
# Recipe of a stronger control -> what the baseline got, as a label says it.
_BASELINE = {"best-vanilla": "tuned as much", "equal-compute": "with its compute"}


@dataclass(frozen=True, eq=False)
class Comparison:
    """A method against its twin or a stronger control in one table; judged when asked for."""

    method: Method
    primary: bool  # whether a study declared it as primary
    label: str  # `TRADES-AWP − TRADES, digits`
    answered: Callable[[Group], Iterable[Answer]]

    @property
    def group(self) -> Group:
        return self.method.group

    @property
    def random(self) -> bool:
        return self.method.random

    @cached_property
    def answer(self) -> Answer:
        """The method with its verdict within the family of its table."""
        mine = self.method.compared, self.method.control
        found = self.answered(self.group)
        return next(a for a in found if (a.method.compared, a.control) == mine)

    @property
    def verdict(self) -> Verdict:
        return self.answer.verdict


def comparisons(
    groups: Iterable[Group],
    answered: Callable[[Group], Iterable[Answer]] = contrasts.answers,
    paired: Callable[[Group], Sequence[Pair]] = contrasts.pairs,
) -> tuple[Comparison, ...]:
    """Every comparison of the tables, by RULE.

    answered, paired: contrasts and pairs of a group, where they are kept. Nothing is judged here.
    """
    asked = [group for group in groups if contrasts.comparable(group)]
    one_each: dict[tuple[str, ...], Method] = {}
    for method in sorted(_methods(asked, paired), key=_evidence):
        one_each.setdefault(_question(method), method)
    ordered = sorted(one_each.values(), key=lambda m: (_place(m), *_size(m), _name(m)))
    return tuple(
        Comparison(method, _primary(method), label, answered)
        for method, label in zip(ordered, _labels(ordered), strict=True)
    )


def front(found: Sequence[Comparison]) -> tuple[Comparison, ...]:
    """The six of the landing page; random perturbations are not what it asks about."""
    return tuple(one for one in found if not one.random)[:FIRST]


def _methods(
    groups: Iterable[Group], paired: Callable[[Group], Sequence[Pair]]
) -> Iterator[Method]:
    for group in groups:
        yield from contrasts.methods(group, paired(group))
        yield from contrasts.controls(group)


# ---------------------------------------------------------------- the order


def _question(method: Method) -> tuple[str, ...]:
    """What a comparison is of: of several of one question the one with most evidence is shown."""
    group, facts = method.group, method.facts
    where = (group.dataset, str(group.threat), facts["arch"], facts.get("images", ""))
    return (*where, method.name, method.baseline, method.control or "")


def _evidence(method: Method) -> tuple[object, ...]:
    """What speaks for a question first."""
    kept = ("validation", "last", None).index(method.kept)
    partly = method.group.gradients_alone
    total = (method.settings, *method.group.key, *sorted(map(str, method.compared)))
    return (not _primary(method), kept, *_size(method), partly, *total)


def _size(method: Method) -> tuple[int, int]:
    """More seeds before more test images."""
    return (-method.seeds, -method.group.n)


def _place(method: Method) -> tuple[bool, bool, bool]:
    return (not _primary(method), method.random, method.control is not None)


def _name(method: Method) -> tuple[object, ...]:
    return (
        method.name,
        method.baseline,
        method.group.dataset,
        method.training_images,
        *_question(method),
    )


def _primary(method: Method) -> bool:
    """What a study left to describe has a verdict without a family."""
    found = method.group.declared
    return any(d.verdict.family and d.compared <= method.compared for d in found)


# ---------------------------------------------------------------- labels


def _labels(methods: Sequence[Method]) -> list[str]:
    """A label each, with what tells those of one name apart."""
    labels = [_label(method) for method in methods]
    for said in (
        lambda m: m.facts.get("images", "training images unknown"),
        lambda m: str(m.group.threat),
        lambda m: m.facts["arch"],
    ):
        same = defaultdict(set)
        for label, method in zip(labels, methods, strict=True):
            same[label].add(said(method))
        labels = [
            f"{label}, {said(method)}" if len(same[label]) > 1 else label
            for label, method in zip(labels, methods, strict=True)
        ]
    return labels


def _label(method: Method) -> str:
    """`AT-AWP − AT tuned as much, digits, last epoch`; the epoch where it is not the chosen one."""
    kept = {"validation": "", "last": ", last epoch", None: ", epoch unknown"}[method.kept]
    return f"{method.name} − {baseline(method)}, {plain(method.group.dataset, 60)}{kept}"


def baseline(method: Method) -> str:
    """What a method is compared with: `AT`, `AT tuned as much`."""
    control = method.control
    got = f" {_BASELINE.get(control, f'({plain(control, 60)})')}" if control else ""
    return f"{method.baseline}{got}"


# ---------------------------------------------------------------- the answer

# Standings in the order in which a sentence names them, where they need other words: `... in 2 of 6`.
_SAID = {
    BETTER: BETTER,
    WORSE: WORSE,
    **{standing: standing for standing in INDICATION.values()},
    NOTHING: NOTHING,
    TOO_FEW: "too little measured to tell",
    ONE_SEED: "one seed alone, which shows nothing,",
    NO_VERDICT: NO_VERDICT,
    DESCRIPTIVE: "numbers without a verdict",
}
_SMALL = 10**6  # parameters: fewer make a small network


def answer_in_a_sentence(found: Sequence[Comparison]) -> str:
    """Whether AWP helps: the verdicts of the six in front, those against stronger baselines, and where.

    found: all comparisons of the board, by RULE.
    """
    twins = [one for one in front(found) if not one.method.control]
    stronger: dict[str, list[Comparison]] = defaultdict(list)
    for one in found:
        if one.method.control and not one.random:
            stronger[one.method.control].append(one)
    said = [counted(_standings(twins), "comparison")] if twins else []
    for control in sorted(stronger, key=lambda c: ([*_BASELINE, c].index(c), c)):
        got = _BASELINE.get(control, f"of {plain(control, 60)}")
        said.append(f"against a baseline {got}: {counted(_standings(stronger[control]))}")
    if not said:
        return "Not measured yet: no network here has a vanilla twin trained with the same seed."
    return f"{_scope([*twins, *chain(*stronger.values())])}: {'; '.join(said)}."


def _standings(of: Sequence[Comparison]) -> list[str]:
    return [one.verdict.standing for one in of]


def counted(standings: Sequence[str], noun: str = "") -> str:
    """`better in 2 of 6 comparisons, nothing shown in 4`; every one is counted."""
    counts = Counter(standings)
    nouns = f" {noun}{'' if len(standings) == 1 else 's'}" if noun else ""
    if len(counts) == 1:
        every = {1: "the only", 2: "both"}.get(len(standings), f"all {len(standings)}")
        every += " one" if len(standings) == 1 and not noun else ""
        return f"{_SAID[standings[0]]} in {every}{nouns}"
    first, *others = (f"{words} in {counts[s]}" for s, words in _SAID.items() if counts[s])
    return ", ".join([f"{first} of {len(standings)}{nouns}", *others])


def _scope(of: Sequence[Comparison]) -> str:
    """`On small networks (digits, Fashion-MNIST; 3 to 6 seeds; best epochs)`."""
    largest = max(pair.awp.card.n_parameters for one in of for pair in one.method.pairs)
    size = (
        "small networks" if largest < _SMALL else f"networks of up to {largest / 1e6:.1f} million"
    )
    size += "" if largest < _SMALL else " parameters"
    images = dict.fromkeys(plain(catalogue.spelled(one.group.dataset), 40) for one in of)
    seeds = sorted({one.method.seeds for one in of})
    span = f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f"{seeds[0]}"
    kept = {one.method.kept for one in of}
    epochs = "".join(f"; {said}" for known, said in _EPOCHS.items() if kept == set(known))
    return f"On {size} ({', '.join(images)}; {span} seed{'' if seeds[-1] == 1 else 's'}{epochs})"
