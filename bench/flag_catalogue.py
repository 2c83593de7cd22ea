"""Every flag that a measurement can raise: what it means, what to do, and whether it unranks a row.

A flag is a reason to doubt a high number; a broken image stays broken. Sources: AutoAttack's flags
(Croce & Hein 2020, arXiv 2003.01690) and Carlini et al. 2019, arXiv 1902.06705.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.schema import EvaluationRecord

if TYPE_CHECKING:
    from bench.entry import Entry

# Of the checks that raise flags; it grows when one is added or changed. A flag that a later look
# appends to a record says the version among its values.
CHECKS_VERSION = 1


@dataclass(frozen=True)
class FlagInfo:
    """What a reader needs to know of a flag."""

    meaning: str  # in plain language
    remedy: str  # what the author of the model can do
    unrankable: bool  # whether a row whose record carries it is shown without a rank


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


def unranking(record: EvaluationRecord | Entry) -> tuple[str, ...]:
    """Names of the flags that keep a record's row without a rank; none: it is ranked."""
    # A judge that looks several times is the remedy for randomness.
    allowed = {"randomised"} if record.protocol.passes > 1 else set()
    names = dict.fromkeys(
        flag.name
        for flag in record.flags
        # The first records say square-breaks-more of one image in 200, which is chance.
        if flag.values.get("square") != 1
    )
    return tuple(n for n in names if n in FLAGS and FLAGS[n].unrankable and n not in allowed)
