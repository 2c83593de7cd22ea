"""Every check: what its flag means, the remedy, its limit, whether it unranks.

Nothing here needs a network: labels, answers and outcomes are enough. What a record's flags amount to
is read here for every table, page and file alike. A flag is a reason to doubt a high number; a broken
image stays broken. Sources: AutoAttack's flags (Croce & Hein 2020, arXiv 2003.01690) and Carlini et al.
2019, arXiv 1902.06705. n images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from bench.schema import ColumnOutcome, EvaluationRecord, Flag, Protocol, Scalar
from bench.stats.intervals import wilson

if TYPE_CHECKING:
    from bench.records.entry import Entry

# Of the checks that raise flags; it grows when one is added or changed. A flag that a later look
# appends to a record says the version among its values.
CHECKS_VERSION = 2

NEARLY_ALL = 0.95  # share of the images
NEARLY_ALL_OTHERS = 0.9  # share of the images that carry another label
# Below so many images the share of the commonest label is itself mostly chance: of 20 images of ten
# classes one class has 4 or 5, and a fair network that is right on 8 would be accused.
ENOUGH_IMAGES = 30
_LARGEST = 10**9  # of any count: a record holds 10,000,000 images at most

# ---------------------------------------------------------------- limits


def slack(n: float) -> float:
    """Images by which a weaker attack may be ahead: AutoAttack's 0.2 %, and never a single image."""
    return max(1.0, 0.002 * n)


def probe_slack(n: float) -> float:
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
    tells = n >= ENOUGH_IMAGES and wilson(n, n).low > majority / n
    return tells and wilson(clean, n).low <= majority / n


def too_alike(n: int, majority: int) -> bool:
    """Whether not even n right answers of n would tell a classifier from a constant answer.

    So it is where all images carry one label. A few images of several labels are not called alike.
    """
    return majority == n or (n >= ENOUGH_IMAGES and wilson(n, n).low <= majority / n)


def constant(given: int, n: int, others: int, of_others: int) -> bool:
    """Whether one class is given to nearly all images, though they carry other labels.

    given of n images get the class, among them others of the of_others images that carry another
    label: clearly more than half of these (95 %), which fewer than four never are.
    """
    if not of_others or wilson(others, of_others).low <= 0.5:  # a good one has the class that often
        return False
    # A tie is judged as wrong: all logits equal, the images of that very class get another one.
    return given >= NEARLY_ALL * n or others >= NEARLY_ALL_OTHERS * of_others


def _ahead(allowed: Callable[[float], float]) -> Callable[[float, float, float], bool]:
    """Whether the weaker of two attacks breaks more than the stronger and what is allowed of n."""
    return lambda weak, strong, n: weak - strong > allowed(n)


# ---------------------------------------------------------------- the checks


@dataclass(frozen=True)
class Check:
    """What a reader needs to know of a flag, and from which values on it is raised."""

    meaning: str  # in plain language
    remedy: str  # what the author of the model can do
    unrankable: bool = True  # whether a row for which it is raised is shown without a rank
    masking: bool = False  # whether attacks that follow gradients may have seen too little
    # Names of values -> whether they are beyond the limit; n or `of` counts the images. The first whose
    # values are all there decides. Without any, the flag was raised by more than its values say.
    limits: Mapping[tuple[str, ...], Callable[..., bool]] = field(default_factory=dict)


KEEPS_UNRANKED = "It keeps the row unranked. "
_MASKED = "Look for quantisation, saturation, randomness or a detached tensor in the forward pass"

FLAGS: dict[str, Check] = {
    # ------------------------------------------------ seen on a few clean images
    "train-mode": Check(
        "The model, or a part of it, is in train mode.",
        "Call model.eval() before measuring.",
        unrankable=False,  # where the mode changes an answer, other flags are raised too
        limits={("modules",): lambda modules: modules > 0},
    ),
    "non-finite-logits": Check(
        "Some logits are NaN or infinite; such images count as broken.",
        "Find the division, logarithm or overflow that makes them; check the range of the input.",
        limits={("images",): lambda images: images > 0},
    ),
    "randomised": Check(
        "Two passes over the same images differ: attacks need expectations over the randomness, "
        "and one pass does not judge.",
        "Switch the randomness off, or measure it with --protocol autoattack-rand, which averages "
        "gradients over 20 passes and judges by the majority of 20.",
        masking=True,
    ),
    "batch-dependent": Check(
        "An image alone gets other logits than the same image in a batch.",
        "Use running statistics in BatchNorm (model.eval()); let no image see its neighbours.",
    ),
    "probabilities": Check(
        "The outputs are probabilities: a softmax hides the gradient from attacks.",
        "Return logits: leave the last softmax out.",
        masking=True,
    ),
    "zero-gradients": Check(
        "The gradient vanishes on more than 10 % of the images: gradient attacks see nothing "
        "there, and a high number may be masking.",
        f"{_MASKED}; divide very large logits by a constant.",
        masking=True,
        limits={("share", "share_margin"): lambda share, by_margin: max(share, by_margin) > 0.1},
    ),
    "gradients-in-forward": Check(
        "The forward pass computes gradients of its own: a defence that optimises at test time "
        "needs attacks made for it.",
        "Measure the network without its test-time optimisation, or attack it adaptively.",
        masking=True,
        limits={("calls",): lambda calls: calls > 0},
    ),
    "state-changes": Check(
        "A forward pass changes the model's weights or buffers: the answer depends on what came "
        "before.",
        "Freeze running statistics (model.eval()) and leave test-time adaptation out.",
        limits={("tensors",): lambda tensors: tensors > 0},
    ),
    "normalisation": Check(
        "The model is right much more often under another input normalisation: the one inside it "
        "looks doubled or missing.",
        "Put mean and std into the model exactly once (--mean, --std at import).",
    ),
    "check-failed": Check(
        "A check of the model could not be made, because the model raised in it: what it would have "
        "shown is not known.",
        "Make the model answer any images in [0, 1], in any number, with gradients and without.",
        masking=True,
    ),
    "few-classes": Check(
        "The DLR losses of AutoAttack need 3 or 4 classes; the margin replaces them.",
        "Nothing is wrong; compare with numbers of the same column id only.",
        unrankable=False,
        limits={("classes",): lambda classes: classes < 4},
    ),
    # ------------------------------------------------ seen in the counts, or by a few short attacks
    "chance-level": Check(
        "Clean accuracy is not clearly above chance: a constant answer cannot be broken.",
        "Check weights, class order, normalisation and data set.",
        limits={
            ("clean", "majority", "n"): lambda c, m, n: no_better_than_constant(c, n, m),
            ("clean", "classes", "n"): lambda clean, k, n: at_chance(clean, n, k),
        },
    ),
    "constant-answer": Check(
        "Nearly all clean images get one and the same class: a constant answer cannot be broken.",
        "Check that the model is trained, its weights, class order, normalisation and data set.",
        limits={("given", "others", "of_others", "n"): lambda g, o, m, n: constant(g, n, o, m)},
    ),
    "one-label": Check(
        "All images, or nearly all, carry one label: not even a perfect answer would be told from a "
        "constant one, so nothing is shown of a classifier.",
        "Measure on images of several labels; files that are sorted by label need a wider split.",
        limits={("majority", "n"): lambda majority, n: too_alike(n, majority)},
    ),
    "one-step-stronger": Check(
        "One gradient step breaks more than many: a sign of masked gradients.",
        f"{_MASKED}.",
        masking=True,
        limits={
            ("fgsm", "pgd20", "n"): _ahead(slack),
            ("fgsm", "pgd20-last", "n"): _ahead(slack),
            ("fgsm", "pgd100", "n"): _ahead(slack),
            ("one_step", "steps_20", "of"): _ahead(probe_slack),
        },
    ),
    "more-steps-weaker": Check(
        "An attack with more steps breaks less: a sign of masked gradients.",
        f"{_MASKED}.",
        masking=True,
        limits={
            ("pgd20", "pgd100", "n"): _ahead(slack),
            ("pgd20-last", "pgd100", "n"): _ahead(slack),
            ("steps_5", "steps_20", "of"): _ahead(probe_slack),
        },
    ),
    "square-breaks-more": Check(
        "The black-box Square attack breaks images that every white-box attack had left: a sign "
        "of masked gradients.",
        f"{_MASKED}.",
        masking=True,
        limits={
            ("square", "n"): lambda square, n: square > slack(n),
            ("square", "of"): lambda square, n: square > probe_slack(n),
        },
    ),
    "not-monotone": Check(
        "A larger perturbation breaks fewer images: the attack, not the model, gave way.",
        f"{_MASKED}.",
        masking=True,
        limits={
            ("half_eps", "eps", "double_eps", "of"): lambda half, one, double, n: (
                max(half - one, one - double) > probe_slack(n)
            )
        },
    ),
    "unbounded-fails": Check(
        "Accuracy stays above chance when any image is allowed: an attack that works reaches "
        "chance or zero.",
        f"{_MASKED}.",
        masking=True,
    ),
    "noise-stronger": Check(
        "Random noise of size eps breaks more than the attack.",
        f"{_MASKED}; make sure that the model is trained.",
        masking=True,
        limits={("noise", "attack", "of"): _ahead(probe_slack)},
    ),
    "transfer-stronger": Check(
        "Examples made on another model break more than a white-box attack on this one.",
        f"{_MASKED}.",
        masking=True,
        limits={("transfer", "attack", "of"): _ahead(probe_slack)},
    ),
    "restarts-matter": Check(
        "Further random starts break many more images: one start underestimates the attack.",
        "Trust the columns with restarts or several attacks; a rough loss surface is often masked.",
        unrankable=False,
        limits={("more", "of"): lambda more, n: more > max(probe_slack(n), 0.1 * n)},
    ),
    # ------------------------------------------------ seen on equivalent networks
    "scale-sensitive": Check(
        "A cross-entropy attack breaks more images of an equivalent network, such as one with scaled "
        "logits, than another seed explains.",
        "Trust the cw and autoattack columns; divide very large logits by a constant.",
        unrankable=False,
    ),
    "equivalent-breaks-more": Check(
        "An equivalent network, such as one with scaled logits, is broken on more images under all "
        "columns together: the number of this one is too high.",
        "Divide very large logits by a constant, or report the equivalent network's number.",
    ),
}


def exceeds(name: str, values: Mapping[str, Scalar]) -> bool:
    """Whether the values of a flag are beyond today's limit; True where they do not suffice to say.

    Records come from anywhere: values that no count can have do not talk a flag away either.
    """
    limits = FLAGS[name].limits if name in FLAGS else {}
    for names, beyond in limits.items():
        if values.keys() >= set(names):
            numbers = {key: values[key] for key in names}
            return not _plausible(numbers) or beyond(*numbers.values())
    return True


def _plausible(values: Mapping[str, Scalar]) -> bool:
    """Whether these are numbers of one measurement: none negative, no count above that of images."""
    found = {
        name: value
        for name, value in values.items()
        if not isinstance(value, bool | str) and 0 <= value <= _LARGEST
    }
    images = found.get("n", found.get("of"))
    if len(found) < len(values) or images is None:
        return len(found) == len(values)
    counts = [value for name, value in found.items() if name != "classes"]
    whole = all(value == int(value) and value <= images for value in counts)
    return whole and images >= 1 and found.get("classes", 1) >= 1


# ---------------------------------------------------------------- what a check saw


@dataclass(frozen=True)
class Finding:
    """What one check saw; `name` is that of the flag it may raise."""

    name: str
    raised: bool
    values: dict[str, Scalar] = field(default_factory=dict)


def masked(flags: Iterable[Flag]) -> list[str]:
    """Names of the flags after which attacks that follow gradients are not enough."""
    return [flag.name for flag in flags if flag.name in FLAGS and FLAGS[flag.name].masking]


def finding(name: str, values: dict[str, Scalar]) -> Finding:
    """The finding of a check that has a limit."""
    return Finding(name, exceeds(name, values), values)


def raised(findings: Iterable[Finding]) -> list[Flag]:
    """The flags of findings, each name once (the first)."""
    first: dict[str, Finding] = {}
    for found in findings:
        if found.raised:
            first.setdefault(found.name, found)
    return [
        Flag(name=name, message=FLAGS[name].meaning, values=found.values)
        for name, found in first.items()
    ]


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
    """The class (none below 0) met most often and how often; the least of several."""
    counts = np.bincount(values)
    return int(counts.argmax()), int(counts.max())


def column_findings(columns: Mapping[str, ColumnOutcome], n: int) -> list[Finding]:
    """Every check of what the attacks of an evaluation broke."""
    broken = {name: sum(o.broken for o in c.outcomes) for name, c in columns.items()}
    found = [
        finding(name, {weak: broken[weak], strong: broken[strong], "n": n})
        for name in ("one-step-stronger", "more-steps-weaker")
        for weak, strong, of in FLAGS[name].limits
        if of == "n" and weak in broken and strong in broken
    ]
    for name, column in columns.items():
        if any(o.spec.name == "square" for o in column.outcomes[1:]):
            square = sum(o.broken for o in column.outcomes if o.spec.name == "square")
            values: dict[str, Scalar] = {"column": name, "square": square, "n": n}
            found.append(finding("square-breaks-more", values))
    return found


# ---------------------------------------------------------------- what a record's flags amount to

HOW_READ = (
    "What a record's flags amount to is read by the limits of today: its answers and counts are judged "
    "whatever it says of them, and a recorded flag whose values are within the limit, or whose remedy "
    "the protocol is, stands on the page of the model as history and keeps nothing unranked."
)


@dataclass(frozen=True)
class Reading:
    """What the flags of a record amount to by the rules of today."""

    flags: tuple[Flag, ...]  # those recorded that still hold, then what its own counts say besides
    set_aside: tuple[tuple[Flag, str], ...]  # recorded ones that do not hold, each with the reason
    unranking: tuple[str, ...]  # names of those that keep the row without a rank


def reading(record: EvaluationRecord | Entry) -> Reading:
    """Reads the flags of a record anew; what a row shows and whether it ranks both follow from it.

    A record is never edited, and anybody may write one: its counts are judged whatever it says of them.
    """
    counted = counted_flags(record) if isinstance(record, EvaluationRecord) else record.counted
    reasons = [(flag, _settled(flag, record.protocol)) for flag in record.flags]
    flags = [flag for flag, why in reasons if not why]
    recorded = {flag.name for flag in flags}
    flags += [flag for flag in counted if flag.name not in recorded]
    names = dict.fromkeys(flag.name for flag in flags)
    return Reading(
        tuple(flags),
        tuple((flag, why) for flag, why in reasons if why),
        tuple(name for name in names if name in FLAGS and FLAGS[name].unrankable),
    )


def _settled(flag: Flag, protocol: Protocol) -> str:
    """Why a recorded flag is no reason for doubt; empty where it is one."""
    if flag.name == "randomised" and protocol.passes > 1:
        return f"The judge of this protocol looks {protocol.passes} times, which is the remedy."
    if not exceeds(flag.name, flag.values):
        return "An earlier check recorded it: its values are within the limit of today."
    return ""


def unranking(record: EvaluationRecord | Entry) -> tuple[str, ...]:
    """Names of the flags that keep a record's row without a rank; none: it is ranked."""
    return reading(record).unranking


def counted_flags(record: EvaluationRecord) -> tuple[Flag, ...]:
    """What the answers and counts of a record say, whatever its flags are; nothing if it failed."""
    if record.failure is not None:
        return ()
    found = answer_findings(record.label_array, record.clean_prediction_array)
    return tuple(raised([*found, *column_findings(record.columns, record.n)]))
