"""Whether a network shows that it was trained on test images: contamination.json beside its weights.

Test images are compared with a second set that the network was kept from and that is drawn from the
same distribution. A network that never saw either cannot tell them apart; one that was trained on test
images has lower losses on these. docs/contamination.md says what was tried, and what is not seen.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Literal, get_args

from pydantic import Field, model_validator

from bench.notation import p_value_text
from bench.records import json_files
from bench.schema import AttackSpec, Name, Sha256, Text, ThreatModel
from bench.schema.frozen import Frozen
from bench.stats.intervals import Interval, newcombe, wilson
from bench.stats.rank_sum import Stratum, order, quantile

NAME = "contamination.json"
LEVEL = 0.01  # probability of a sign where test and second images are exchangeable within a class
POWER = 0.9  # with which a share of test images is seen that is called detectable
LEAST = 100  # images of a part: the test's level rests on a normal approximation
_LARGEST = 2**17  # bytes

Loss = Literal["clean", "attacked"]
Verdict = Literal["sign", "no sign", "cannot tell"]


class Part(Frozen):
    """Training, test or second images, and how many are right."""

    split: Text  # which images, such as "test[0:10000]"
    examples_sha256: Sha256  # of exactly the images and labels used
    n: int = Field(ge=LEAST)
    clean_correct: int = Field(ge=0)
    attacked_correct: int | None = Field(default=None, ge=0)  # right unattacked and attacked

    @model_validator(mode="after")
    def _consistent(self) -> Part:
        if not (self.attacked_correct or 0) <= self.clean_correct <= self.n:
            raise ValueError("expected attacked_correct <= clean_correct <= n")
        return self

    def right(self, loss: Loss) -> int | None:
        """How many are right, unattacked or under the attack."""
        return self.clean_correct if loss == "clean" else self.attacked_correct

    def rate(self, loss: Loss) -> Interval | None:
        """Share that is right, with Wilson's 95 % interval; None without an attack."""
        right = self.right(loss)
        return None if right is None else wilson(right, self.n)


class Orders(Frozen):
    """Losses of the test images, and of the training images, beside those of the second images."""

    test: tuple[Stratum, ...] = Field(min_length=1)
    training: tuple[Stratum, ...] = ()


class Contamination(Frozen):
    """What a network's losses say of the images that it was trained on."""

    schema_version: Literal[1] = 1
    weights_sha256: Sha256  # of the file of weights that was measured
    dataset: Name
    epoch: int | None = None  # 1-based epoch the weights are from
    threat: ThreatModel | None = None  # None: not attacked
    attack: AttackSpec | None = None
    # Who says which images it was trained on: the run itself, or what its submitter declares.
    trained_on: Literal["run", "declared"] = "run"
    training: Part | None = None  # None: no training images are known
    test: Part
    second: Part
    losses: dict[Loss, Orders] = Field(min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> Contamination:
        if ("attacked" in self.losses) != (self.attack is not None) or "clean" not in self.losses:
            raise ValueError("expected losses unattacked, and attacked where there is an attack")
        parts = [self.test, self.second, *([self.training] if self.training else [])]
        for loss, orders in self.losses.items():
            if any(part.right(loss) is None for part in parts):
                raise ValueError("expected counts under the attack where there is one")
            if bool(orders.training) != (self.training is not None):
                raise ValueError("expected losses of training images where these are known")
            for part, of in ((self.test, orders.test), (self.training, orders.training)):
                if part is not None and sum(s.first for s in of) > part.n:
                    raise ValueError("expected at most as many losses as images")
                if sum(s.second for s in of) > self.second.n:
                    raise ValueError("expected at most as many losses as images")
        return self

    @property
    def compared(self) -> tuple[Loss, ...]:
        """The losses that there are, unattacked first."""
        return tuple(loss for loss in get_args(Loss) if loss in self.losses)

    @property
    def p_value(self) -> float:
        """One-sided p that test images are no lower in loss than second ones, of all losses together.

        Bonferroni's: the smallest, times how many there are.
        """
        found = [order(orders.test).p_value for orders in self.losses.values()]
        return min(1.0, len(found) * min(found))

    @property
    def verdict(self) -> Verdict:
        """A sign, or none; where even training images would not show, neither can be told."""
        if self.p_value < LEVEL:
            return "sign"
        seen = self.detectable
        blind = self.training is not None and (seen is None or seen > 1)
        return "cannot tell" if blind else "no sign"

    @property
    def detectable(self) -> float | None:
        """The share of test images that is seen with POWER where trained on; above 1: not all are.

        Test images that were trained on are taken to be as low in loss as training images. None where
        no training images are known, or where these are not told from the second ones at LEVEL.
        """
        return min((d for loss in self.losses if (d := self._detectable(loss))), default=None)

    @property
    def share(self) -> float | None:
        """How many of the test images are like training images, by the loss that sees most."""
        found = {d: loss for loss in self.losses if (d := self._detectable(loss))}
        if not found:
            return None
        orders = self.losses[found[min(found)]]
        return (order(orders.test).lower - 0.5) / (order(orders.training).lower - 0.5)

    def _detectable(self, loss: Loss) -> float | None:
        orders = self.losses[loss]
        if not orders.training or (known := order(orders.training)).p_value >= LEVEL:
            return None
        error = order(orders.test).error
        needed = quantile(LEVEL / len(self.losses)) + quantile(1 - POWER)
        return needed * error / (known.lower - 0.5) if error else None

    def excess(self, loss: Loss) -> Interval | None:
        """Test minus second accuracy, with Newcombe's 95 % interval; None without an attack."""
        test, second = self.test.right(loss), self.second.right(loss)
        if test is None or second is None:
            return None
        return newcombe(test, self.test.n, second, self.second.n)


def read_contamination(folder: Path, *, weights_sha256: str) -> Contamination | None:
    """What lies in a folder; None where nothing does, or what does is of other weights.

    Raises InvalidInput where the file cannot be read; it is left in place.
    """
    path = folder / NAME
    if not os.path.lexists(path):
        return None
    found = json_files.read(
        path, Contamination.model_validate_json, "contamination check", largest=_LARGEST
    )
    return found if found.weights_sha256 == weights_sha256 else None


def sentence(found: Contamination) -> str:
    """The verdict, with what it rests on, without a full stop."""
    if found.verdict == "cannot tell":
        return (
            "Contamination cannot be told: even its training images hardly differ from images that it "
            "never saw"
        )
    said = f"p {p_value_text(found.p_value)}"
    if found.verdict == "sign":
        like = "" if found.share is None else f"; {100 * found.share:.0f} % of them look trained on"
        return (
            f"Sign of contamination: test images are easier for it than images that it never saw "
            f"({said}{like})"
        )
    seen = found.detectable
    would = (
        "" if seen is None else f"; {_up(100 * seen)} % of the test images, trained on, would show"
    )
    return f"No sign of contamination ({said}{would})"


def _up(share: float) -> str:
    return f"{math.ceil(10 * share) / 10:.1f}"
