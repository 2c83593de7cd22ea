"""From which counts on a flag is raised: the same limits when a model is measured and a record is read.

A flag holds the values that raised it, so that what is read later is judged by today's limits. Nothing
here needs a network: labels, answers and outcomes are enough. n images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from bench.schema import ColumnOutcome, Scalar
from bench.stats.intervals import wilson

NEARLY_ALL = 0.95  # share of the images
NEARLY_ALL_OTHERS = 0.9  # share of the images that carry another label
# Below so many images the share of the commonest label is itself mostly chance: of 20 images of ten
# classes one class has 4 or 5, and a fair network that is right on 8 would be accused.
ENOUGH_IMAGES = 30
_LARGEST = 10**9  # of any count: a record holds 10,000,000 images at most


@dataclass(frozen=True)
class Finding:
    """What one check saw; `name` is that of the flag it may raise."""

    name: str
    raised: bool
    values: dict[str, Scalar] = field(default_factory=dict)


def finding(name: str, values: dict[str, Scalar]) -> Finding:
    """The finding of a flag that has a limit."""
    return Finding(name, exceeds(name, values), values)


# ---------------------------------------------------------------- limits


def slack(n: int | float) -> float:
    """Images by which a weaker attack may be ahead: AutoAttack's 0.2 %, and never a single image."""
    return max(1.0, 0.002 * n)


def probe_slack(n: int | float) -> float:
    """The same for a few short attacks on a few images."""
    return max(2.0, 0.05 * n)


def at_chance(clean: int, n: int, k: int) -> bool:
    """Whether clean of n right answers may come from guessing one of k classes (95 %)."""
    return wilson(clean, n).low <= 1 / k


def no_better_than_constant(clean: int, n: int, majority: int) -> bool:
    """Whether clean of n right answers are not clearly more than a constant answer has (95 %).

    majority images carry the commonest label. False where the images cannot tell: fewer than
    ENOUGH_IMAGES, or so alike that not even a perfect answer would be clearly better.
    """
    if n < ENOUGH_IMAGES or _alike(n, majority):
        return False
    return wilson(clean, n).low <= majority / n


def too_alike(n: int, majority: int) -> bool:
    """Whether not even n right answers of n would tell a classifier from a constant answer.

    So it is where all images carry one label. A few images of several labels are not called alike.
    """
    return majority == n or (n >= ENOUGH_IMAGES and _alike(n, majority))


def _alike(n: int, majority: int) -> bool:
    return wilson(n, n).low <= majority / n


def constant(given: int, n: int, others: int, of_others: int) -> bool:
    """Whether one class is given to nearly all images, though they carry other labels.

    given of n images get the class, among them others of the of_others images that carry another
    label: clearly more than half of these (95 %), which fewer than four never are.
    """
    if not of_others or wilson(others, of_others).low <= 0.5:  # a good one has the class that often
        return False
    # A tie is judged as wrong: all logits equal, the images of that very class get another one.
    return given >= NEARLY_ALL * n or others >= NEARLY_ALL_OTHERS * of_others


def _ahead(weak: float, strong: float, n: float) -> bool:
    return weak - strong > slack(n)


def _ahead_in_a_probe(weak: float, strong: float, n: float) -> bool:
    return weak - strong > probe_slack(n)


@dataclass(frozen=True)
class _Limit:
    """A flag is raised where `beyond` says so of these of its values; n or `of` counts the images."""

    names: tuple[str, ...]
    beyond: Callable[..., bool]


_PROBED = _Limit(("half_eps", "eps", "double_eps", "of"), lambda half, one, double, n: max(
    half - one, one - double) > probe_slack(n))  # fmt: skip

# Flag -> its forms; the first whose values are all there decides. A flag that is not here was raised by
# more than its values say, and stands as it is recorded.
_LIMITS: dict[str, tuple[_Limit, ...]] = {
    "train-mode": (_Limit(("modules",), lambda modules: modules > 0),),
    "non-finite-logits": (_Limit(("images",), lambda images: images > 0),),
    "zero-gradients": (
        _Limit(("share", "share_margin"), lambda share, by_margin: max(share, by_margin) > 0.1),
    ),
    "gradients-in-forward": (_Limit(("calls",), lambda calls: calls > 0),),
    "state-changes": (_Limit(("tensors",), lambda tensors: tensors > 0),),
    "few-classes": (_Limit(("classes",), lambda classes: classes < 4),),
    "chance-level": (
        _Limit(("clean", "majority", "n"), lambda c, m, n: no_better_than_constant(c, n, m)),
        _Limit(("clean", "classes", "n"), lambda clean, k, n: at_chance(clean, n, k)),
    ),
    "constant-answer": (
        _Limit(("given", "others", "of_others", "n"), lambda g, o, m, n: constant(g, n, o, m)),
    ),
    "one-label": (_Limit(("majority", "n"), lambda majority, n: too_alike(n, majority)),),
    "one-step-stronger": (
        _Limit(("fgsm", "pgd20", "n"), _ahead),
        _Limit(("fgsm", "pgd20-last", "n"), _ahead),
        _Limit(("fgsm", "pgd100", "n"), _ahead),
        _Limit(("one_step", "steps_20", "of"), _ahead_in_a_probe),
    ),
    "more-steps-weaker": (
        _Limit(("pgd20", "pgd100", "n"), _ahead),
        _Limit(("pgd20-last", "pgd100", "n"), _ahead),
        _Limit(("steps_5", "steps_20", "of"), _ahead_in_a_probe),
    ),
    "square-breaks-more": (
        _Limit(("square", "n"), lambda square, n: square > slack(n)),
        _Limit(("square", "of"), lambda square, n: square > probe_slack(n)),
    ),
    "not-monotone": (_PROBED,),
    "noise-stronger": (_Limit(("noise", "attack", "of"), _ahead_in_a_probe),),
    "transfer-stronger": (_Limit(("transfer", "attack", "of"), _ahead_in_a_probe),),
    "restarts-matter": (
        _Limit(("more", "of"), lambda more, n: more > max(probe_slack(n), 0.1 * n)),
    ),
}


def exceeds(name: str, values: Mapping[str, Scalar]) -> bool:
    """Whether the values of a flag are beyond today's limit; True where they do not suffice to say.

    Records come from anywhere: values that no count can have do not talk a flag away either.
    """
    for limit in _LIMITS.get(name, ()):
        if all(key in values for key in limit.names):
            numbers = [values[key] for key in limit.names]
            return not _plausible(limit.names, numbers) or limit.beyond(*numbers)
    return True


def _plausible(names: Iterable[str], numbers: Iterable[Scalar]) -> bool:
    """Whether these are numbers of one measurement: none negative, no count above that of images."""
    found: dict[str, float] = {}
    for name, value in zip(names, numbers, strict=True):
        if isinstance(value, bool | str) or not 0 <= value <= _LARGEST:
            return False
        found[name] = value
    images = found.get("n", found.get("of"))
    if images is None:
        return True
    counts = [value for name, value in found.items() if name != "classes"]
    whole = all(value == int(value) and value <= images for value in counts)
    return whole and images >= 1 and found.get("classes", 1) >= 1


# ---------------------------------------------------------------- checks of an evaluation


def answer_findings(labels: np.ndarray, predictions: np.ndarray) -> list[Finding]:
    """What the clean answers say of a classifier; labels and predictions are (n,) ints.

    A constant answer cannot be broken, so its robust accuracy is the share of its label, however many
    classes the network could name.
    """
    n, majority = len(labels), _commonest(labels)[1]
    likeness: dict[str, Scalar] = {"majority": majority, "n": n}
    clean = int((labels == predictions).sum())
    answer, given = _commonest(predictions)
    others = labels != answer
    values: dict[str, Scalar] = {
        "class": answer, "given": given, "others": int((predictions[others] == answer).sum()),
        "of_others": int(others.sum()), "n": n,
    }  # fmt: skip
    return [
        finding("one-label", likeness),
        finding("constant-answer", values),
        finding("chance-level", {"clean": clean, **likeness}),
    ]


def _commonest(values: np.ndarray) -> tuple[int, int]:
    """The value met most often and how often; the least of several."""
    found, counts = np.unique(values, return_counts=True)
    at = int(counts.argmax())
    return int(found[at]), int(counts[at])


def outcome_findings(
    columns: Mapping[str, ColumnOutcome], clean: int, n: int, k: int
) -> list[Finding]:
    """Every check of the counts; clean of n images were right, k classes."""
    return [
        finding("chance-level", {"clean": clean, "n": n, "classes": k}),
        *column_findings(columns, n),
    ]


def column_findings(columns: Mapping[str, ColumnOutcome], n: int) -> list[Finding]:
    """Every check of what the attacks of an evaluation broke."""
    found = []
    broken = {name: sum(o.broken for o in c.outcomes) for name, c in columns.items()}
    for name, weak, strong in (
        ("one-step-stronger", "fgsm", "pgd20"),
        ("one-step-stronger", "fgsm", "pgd20-last"),
        ("one-step-stronger", "fgsm", "pgd100"),
        ("more-steps-weaker", "pgd20", "pgd100"),
        ("more-steps-weaker", "pgd20-last", "pgd100"),
    ):
        if weak in broken and strong in broken:
            found.append(finding(name, {weak: broken[weak], strong: broken[strong], "n": n}))
    for name, column in columns.items():
        if any(o.spec.name == "square" for o in column.outcomes[1:]):
            square = sum(o.broken for o in column.outcomes if o.spec.name == "square")
            values: dict[str, Scalar] = {"column": name, "square": square, "n": n}
            found.append(finding("square-breaks-more", values))
    return found
