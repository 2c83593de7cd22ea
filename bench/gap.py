"""The robust generalisation gap of a network: gap.json beside its weights.

Both parts are measured at the same weights, in eval mode, unaugmented, by the same attack. Rates are
derived from counts. Logs of the published AWP code cannot give this gap: their training accuracy is
that of perturbed weights on augmented images.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from bench.records import json_files
from bench.schema import AttackSpec, Name, Sha256, Text, ThreatModel
from bench.schema.frozen import Frozen
from bench.stats.intervals import Interval, newcombe, wilson

NAME = "gap.json"
_LARGEST = 2**16  # bytes


class GapPart(Frozen):
    """Training or test images under the attack."""

    split: Text  # which images, such as "test[0:1000]"
    examples_sha256: Sha256  # of exactly the images and labels used
    n: int = Field(ge=1)
    clean_correct: int = Field(ge=0)
    robust_correct: int = Field(ge=0)  # right unattacked, and at every iterate of the attack
    robust_loss: Annotated[float, Field(ge=0)]  # mean cross-entropy at the last iterate, nats

    @model_validator(mode="after")
    def _consistent(self) -> GapPart:
        if not self.robust_correct <= self.clean_correct <= self.n:
            raise ValueError("expected robust_correct <= clean_correct <= n")
        return self

    @property
    def robust_rate(self) -> Interval:
        """Share of the n images that stand, with Wilson's 95 % interval."""
        return wilson(self.robust_correct, self.n)


class RobustGap(Frozen):
    """Robust accuracy on training images minus that on test images, of one network."""

    schema_version: Literal[1] = 1
    weights_sha256: Sha256  # of the file of weights that was measured
    dataset: Name
    epoch: int | None = None  # 1-based epoch the weights are from
    threat: ThreatModel
    attack: AttackSpec
    seed: int = Field(ge=0)  # of the attack
    training: GapPart
    test: GapPart

    @property
    def gap(self) -> Interval:
        """Training minus test robust accuracy, with Newcombe's 95 % interval."""
        train, test = self.training, self.test
        return newcombe(train.robust_correct, train.n, test.robust_correct, test.n)

    @property
    def loss_gap(self) -> float:
        """Test minus training robust loss, nats: positive like the gap where a network overfits."""
        return self.test.robust_loss - self.training.robust_loss


def read_gap(folder: Path, *, weights_sha256: str) -> RobustGap | None:
    """The gap that lies in a folder; None where there is none, or one of other weights.

    Raises InvalidInput where the file cannot be read; it is left in place.
    """
    path = folder / NAME
    if not os.path.lexists(path):
        return None
    found = json_files.read(path, RobustGap.model_validate_json, "gap", largest=_LARGEST)
    return found if found.weights_sha256 == weights_sha256 else None
