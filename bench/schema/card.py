"""The card of a model: what it is, where it comes from, and who says so."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from bench.schema.figure import MOST_FIGURES, Figure
from bench.schema.frozen import Frozen, Name, Scalar, Sha256, Text
from bench.schema.threat import ThreatModel
from bench.schema.training import AwpConfig, Objective, TrainConfig


class ModelCard(Frozen):
    """What a checkpoint is and where it comes from."""

    name: Name
    # A catalogue name, or what RobustBench calls it; None: an unregistered model, measured from Python
    arch: str | None = None
    arch_args: dict[str, Scalar] = Field(default_factory=dict)
    mean: tuple[float, ...] | None = None  # input normalisation inside the model, a value a channel
    std: tuple[float, ...] | None = None
    dataset: Name
    class_count: int = Field(ge=2)
    weights_sha256: Sha256
    n_parameters: int = Field(ge=0)
    objective: Objective | None = None  # None: not known (a foreign checkpoint)
    awp: AwpConfig | None = None
    threat: ThreatModel | None = None  # trained against
    epochs: int | None = None  # length of the run
    epoch_kept: int | None = None  # 1-based epoch these weights are from
    selected_on: Literal["last", "validation"] | None = None
    extra_data: Text = ""
    seed: int | None = None
    train: TrainConfig | None = None
    commit: Text = ""  # of this project's code when it was trained
    authors: Text = ""
    link: Text = ""
    licence: Text = ""
    # What was done to read a foreign file: another precision, one of several sets, no checksums.
    weights_note: Text = ""
    # Of the file that `link` leads to, where its weights are not ours to hand on: no copy of them
    # lies beside a record. This field and the next are left out where there is nothing to say, so that
    # older cards keep their bytes.
    file_sha256: Sha256 | None = Field(default=None, exclude_if=lambda sha256: sha256 is None)
    # What others state of it, never measured here.
    figures: tuple[Figure, ...] = Field(
        default=(), max_length=MOST_FIGURES, exclude_if=lambda figures: not figures
    )
    pair: Name | None = None  # the vanilla twin of an AWP model
    control_of: Name | None = None  # the AWP model that this run is a stronger control of
    # Fields that are the word of a submitter alone, `awp.gamma` for a part of one. awp among them and
    # None: stated to be trained without. Where anything is declared, the rest was not said.
    declared: tuple[Name, ...] = ()

    def states(self, field: str) -> bool:
        """Whether a field is known: where a submitter stated any, those not stated are not."""
        return not self.declared or field in self.declared

    @property
    def method(self) -> str:
        """`AT-AWP`, `AT`, `natural`, `AT, AWP not stated`: how the board names the training."""
        base = {None: "unknown", "natural": "natural", "pretrain": "Pre-training"}.get(
            self.objective, str(self.objective).upper()
        )
        if self.awp is None:
            known = self.states("awp") or self.objective is None  # `unknown` says it already
            return base if known else f"{base}, AWP not stated"
        return f"{base}-{'AWP' if self.awp.direction == 'adversarial' else 'RWP'}"

    @property
    def uses_awp(self) -> bool | None:
        """Whether weights were perturbed adversarially; its random control is not. None: not known."""
        if self.awp is not None:
            return self.awp.direction == "adversarial"
        if "awp" in self.declared:
            return False
        return None if self.objective is None or self.declared else False
