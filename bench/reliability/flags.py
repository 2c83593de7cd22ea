"""Every flag that a measurement can raise: what it means, what to do, and whether it unranks a row.

What a record's flags amount to is read here, for every table, page and file alike.

A flag is a reason to doubt a high number; a broken image stays broken. Sources: AutoAttack's flags
(Croce & Hein 2020, arXiv 2003.01690) and Carlini et al. 2019, arXiv 1902.06705.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.reliability.limits import Finding, answer_findings, column_findings, exceeds
from bench.schema import EvaluationRecord, Flag, Protocol

if TYPE_CHECKING:
    from bench.records.entry import Entry

# Of the checks that raise flags; it grows when one is added or changed. A flag that a later look
# appends to a record says the version among its values.
CHECKS_VERSION = 1


@dataclass(frozen=True)
class FlagInfo:
    """What a reader needs to know of a flag."""

    meaning: str  # in plain language
    remedy: str  # what the author of the model can do
    unrankable: bool  # whether a row for which it is raised is shown without a rank


KEEPS_UNRANKED = "It keeps the row unranked. "
_MASKED = "Look for quantisation, saturation, randomness or a detached tensor in the forward pass"

FLAGS: dict[str, FlagInfo] = {
    # ------------------------------------------------ seen on a few clean images
    "train-mode": FlagInfo(
        "The model, or a part of it, is in train mode.",
        "Call model.eval() before measuring.",
        unrankable=False,  # where the mode changes an answer, other flags are raised too
    ),
    "non-finite-logits": FlagInfo(
        "Some logits are NaN or infinite; such images count as broken.",
        "Find the division, logarithm or overflow that makes them; check the range of the input.",
        unrankable=True,
    ),
    "randomised": FlagInfo(
        "Two passes over the same images differ: attacks need expectations over the randomness, "
        "and one pass does not judge.",
        "Switch the randomness off, or use a protocol whose judge looks several times.",
        unrankable=True,
    ),
    "batch-dependent": FlagInfo(
        "An image alone gets other logits than the same image in a batch.",
        "Use running statistics in BatchNorm (model.eval()); let no image see its neighbours.",
        unrankable=True,
    ),
    "probabilities": FlagInfo(
        "The outputs are probabilities: a softmax hides the gradient from attacks.",
        "Return logits: leave the last softmax out.",
        unrankable=True,
    ),
    "zero-gradients": FlagInfo(
        "The gradient vanishes on more than 10 % of the images: gradient attacks see nothing "
        "there, and a high number may be masking.",
        f"{_MASKED}; divide very large logits by a constant.",
        unrankable=True,
    ),
    "gradients-in-forward": FlagInfo(
        "The forward pass computes gradients of its own: a defence that optimises at test time "
        "needs attacks made for it.",
        "Measure the network without its test-time optimisation, or attack it adaptively.",
        unrankable=True,
    ),
    "state-changes": FlagInfo(
        "A forward pass changes the model's weights or buffers: the answer depends on what came "
        "before.",
        "Freeze running statistics (model.eval()) and leave test-time adaptation out.",
        unrankable=True,
    ),
    "normalisation": FlagInfo(
        "The model is right much more often under another input normalisation: the one inside it "
        "looks doubled or missing.",
        "Put mean and std into the model exactly once (--mean, --std at import).",
        unrankable=True,
    ),
    "few-classes": FlagInfo(
        "The DLR losses of AutoAttack need 3 or 4 classes; the margin replaces them.",
        "Nothing is wrong; compare with numbers of the same column id only.",
        unrankable=False,
    ),
    # ------------------------------------------------ seen in the counts, or by a few short attacks
    "chance-level": FlagInfo(
        "Clean accuracy is not clearly above chance: a constant answer cannot be broken.",
        "Check weights, class order, normalisation and data set.",
        unrankable=True,
    ),
    "constant-answer": FlagInfo(
        "Nearly all clean images get one and the same class: a constant answer cannot be broken.",
        "Check that the model is trained, its weights, class order, normalisation and data set.",
        unrankable=True,
    ),
    "one-label": FlagInfo(
        "All images, or nearly all, carry one label: not even a perfect answer would be told from a "
        "constant one, so nothing is shown of a classifier.",
        "Measure on images of several labels; files that are sorted by label need a wider split.",
        unrankable=True,
    ),
    "one-step-stronger": FlagInfo(
        "One gradient step breaks more than many: a sign of masked gradients.",
        f"{_MASKED}.",
        unrankable=True,
    ),
    "more-steps-weaker": FlagInfo(
        "An attack with more steps breaks less: a sign of masked gradients.",
        f"{_MASKED}.",
        unrankable=True,
    ),
    "square-breaks-more": FlagInfo(
        "The black-box Square attack breaks images that every white-box attack had left: a sign "
        "of masked gradients.",
        f"{_MASKED}.",
        unrankable=True,
    ),
    "not-monotone": FlagInfo(
        "A larger perturbation breaks fewer images: the attack, not the model, gave way.",
        f"{_MASKED}.",
        unrankable=True,
    ),
    "unbounded-fails": FlagInfo(
        "Accuracy stays above chance when any image is allowed: an attack that works reaches "
        "chance or zero.",
        f"{_MASKED}.",
        unrankable=True,
    ),
    "noise-stronger": FlagInfo(
        "Random noise of size eps breaks more than the attack.",
        f"{_MASKED}; make sure that the model is trained.",
        unrankable=True,
    ),
    "transfer-stronger": FlagInfo(
        "Examples made on another model break more than a white-box attack on this one.",
        f"{_MASKED}.",
        unrankable=True,
    ),
    "restarts-matter": FlagInfo(
        "Further random starts break many more images: one start underestimates the attack.",
        "Trust the columns with restarts or several attacks; a rough loss surface is often masked.",
        unrankable=False,
    ),
    # ------------------------------------------------ seen on equivalent networks
    "scale-sensitive": FlagInfo(
        "A cross-entropy attack breaks more images of an equivalent network, such as one with scaled "
        "logits, than another seed explains.",
        "Trust the cw and autoattack columns; divide very large logits by a constant.",
        unrankable=False,
    ),
    "equivalent-breaks-more": FlagInfo(
        "An equivalent network, such as one with scaled logits, is broken on more images under all "
        "columns together: the number of this one is too high.",
        "Divide very large logits by a constant, or report the equivalent network's number.",
        unrankable=True,
    ),
}


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
    if not (record.flags or counted):
        return Reading((), (), ())
    flags: list[Flag] = []
    set_aside = []
    for flag in record.flags:
        why = _settled(flag, record.protocol)
        if why:
            set_aside.append((flag, why))
        else:
            flags.append(flag)
    flags += [flag for flag in counted if flag.name not in [other.name for other in flags]]
    names = dict.fromkeys(flag.name for flag in flags)
    doubted = tuple(name for name in names if name in FLAGS and FLAGS[name].unrankable)
    return Reading(tuple(flags), tuple(set_aside), doubted)


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


def raised(findings: Iterable[Finding]) -> list[Flag]:
    """The flags of findings, each name once (the first)."""
    first: dict[str, Flag] = {}
    for found in findings:
        if found.raised and found.name not in first:
            meaning = FLAGS[found.name].meaning
            first[found.name] = Flag(name=found.name, message=meaning, values=found.values)
    return list(first.values())
