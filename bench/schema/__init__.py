"""The nouns of the project: what is trained, attacked and recorded, as strict immutable data.

Everything that is written to disk passes through these classes. Rates are never stored: records hold
per-image bits and the properties derive counts and rates from them.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import numpy as np
from pydantic import AfterValidator, ConfigDict, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

# Named `as`: the errors and the threat model are had from here, beside the other nouns.
from bench.schema.errors import BenchError as BenchError
from bench.schema.errors import ConflictingRecord as ConflictingRecord
from bench.schema.errors import InvalidInput as InvalidInput
from bench.schema.errors import MeasurementFailed as MeasurementFailed
from bench.schema.errors import OutOfTime as OutOfTime
from bench.schema.frozen import Frozen, content_hash
from bench.schema.packing import (
    INTS,
    as_number,
    bits_of,
    inflated,
    packed_bytes,
    unpack_bits,
    unpack_floats,
    unpack_ints,
)
from bench.schema.threat import ThreatModel as ThreatModel

# A name that is safe as a folder name and shows as plain text.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+=-]{0,99}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
# Free text from outside; always shown escaped, never as markup.
Text = Annotated[str, StringConstraints(max_length=2000)]
Scalar = bool | int | float | str


def _of_the_catalogue(name: str) -> str:
    from bench.catalogue import OBJECTIVES  # which needs this file

    if name not in OBJECTIVES:
        *others, last = map(repr, OBJECTIVES)
        expected = f"{', '.join(others)} or {last}"
        raise PydanticCustomError("literal_error", f"Input should be {expected}")
    return name


Objective = Annotated[str, AfterValidator(_of_the_catalogue)]
# How a run relates to others. matched: a pair shares everything but the weight perturbation; paper: as
# published; equal-compute and best-vanilla: stronger controls without AWP.
Recipe = Literal["matched", "paper", "equal-compute", "best-vanilla"]
RECIPES: tuple[Recipe, ...] = get_args(Recipe)

# ---------------------------------------------------------------- protocol


class AttackSpec(Frozen):
    """One attack with every parameter written out; lengths are fractions of eps."""

    name: Name
    params: dict[str, Scalar] = Field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.name}({', '.join(f'{k}={v}' for k, v in self.params.items())})"


_IDS: dict[str, str] = {}  # what has an id, as repr writes it -> the id


def _id_of(said: str, value: Callable[[], Any]) -> str:
    """12 hex digits over a value, hashed once: thousands of records hold the same few columns.

    said tells two values apart, as repr does: 1, 1.0 and True have different JSON.
    """
    known = _IDS.get(said)
    if known is None:
        known = content_hash(value())[:12]
        if len(_IDS) < 10_000 and len(said) < 10_000:  # hostile records fill no memory
            _IDS[said] = known
    return known


class Column(Frozen):
    """Attacks run one after another, each on the images still standing within this column."""

    name: Name
    attacks: tuple[AttackSpec, ...]
    label: str = ""  # how a table heads the column; not part of the identity

    @property
    def column_id(self) -> str:
        """12 hex digits over the attacks; the name is not part of what is measured."""
        said = repr([(spec.name, spec.params) for spec in self.attacks])
        return _id_of(said, lambda: [spec.model_dump(mode="json") for spec in self.attacks])


class Protocol(Frozen):
    """Named columns, each started from all clean-correct images; clean errors are not robust."""

    name: Name
    version: int
    columns: tuple[Column, ...]
    # An example is inside the ball when its float64 distance is at most eps + linf_tolerance (Linf)
    # or eps * (1 + lp_tolerance) (L2, L1). float32 rounding of x + eps alone is up to 4e-8.
    linf_tolerance: float = 1e-6
    lp_tolerance: float = 1e-6
    # Randomised models: the judge looks this often, the majority decides. 1: one look, as usual.
    passes: int = Field(default=1, ge=1)

    @property
    def protocol_id(self) -> str:
        columns = {c.name: c.column_id for c in self.columns}
        parts = [self.version, columns, self.linf_tolerance, self.lp_tolerance]
        parts += [self.passes] * (self.passes > 1)
        return _id_of(repr(parts), lambda: parts)


# ---------------------------------------------------------------- training


class AwpConfig(Frozen):
    """How the weights are perturbed while training (arXiv 2004.05884)."""

    # The text under a field is also the help of its flag.
    model_config = ConfigDict(use_attribute_docstrings=True)

    direction: Literal["adversarial", "random"] = "adversarial"
    """of the perturbation: adversarial, or random as its control"""
    gamma: float = Field(default=0.01, ge=0, le=1)
    """radius relative to the norm of what it covers"""
    warm_up: int = Field(default=0, ge=0)
    """epochs trained without perturbation first"""
    steps: int = Field(default=1, ge=1)
    """gradient steps of the weight adversary (K2)"""
    alternations: int = Field(default=1, ge=1)
    """rounds of crafting images, then weights (A)"""
    norm: Literal["tensor", "filter", "global"] = "tensor"
    """what a radius covers: tensor (the paper), filter or global"""
    include: tuple[str, ...] = ()
    """patterns of parameter names such as layer1.*; none: all weights"""
    exclude: tuple[str, ...] = ()
    """patterns of parameter names that are left alone"""


class ExtraData(Frozen):
    """Images beside the data set, with pseudo-labels, as RST uses them (arXiv 1905.13736)."""

    file: Name  # the name of the file; where it lies is not part of a run
    sha256: Sha256  # of the file
    n: int = Field(ge=1)  # images in it
    fraction: float = Field(default=0.5, gt=0, lt=1)  # share of each batch drawn from it


class StartingPoint(Frozen):
    """The checkpoint that fine-tuning starts from (arXiv 1901.09960); it gets a new last layer."""

    name: Name  # of the checkpoint; where it lies is not part of a run
    weights_sha256: Sha256


class TrainConfig(Frozen):
    """Everything that decides a training run, besides the code."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    dataset: str
    """a catalogue name, such as cifar10"""
    n_train: int | None = Field(default=None, ge=1)
    """images drawn for training; none: all left"""
    n_validation: int = Field(default=1000, ge=0)
    """images held out of the training set"""
    extra: ExtraData | None = None
    """pseudo-labelled images beside them"""
    arch: str = "small_cnn"
    """a catalogue name, such as preact_resnet18"""
    arch_args: dict[str, Scalar] = Field(default_factory=dict)
    """arguments of the architecture, such as width=16"""
    mean: tuple[float, ...] | None = None
    """input normalisation inside the model, a value a channel; goes with std"""
    std: tuple[float, ...] | None = None
    """input normalisation inside the model, a value a channel; goes with mean"""
    start: StartingPoint | None = None
    """the network that fine-tuning starts from; none: fresh weights drawn by the seed"""
    recipe: Recipe = "matched"
    """what the run is for: matched, paper, equal-compute or best-vanilla"""
    objective: Objective = "at"
    """natural, at, trades, mart, rst or pretrain"""
    beta: float = Field(default=6.0, ge=0)
    """weight of the KL term of trades, mart and rst"""
    awp: AwpConfig | None = None
    """the perturbation of the weights; as a flag only none"""
    threat: ThreatModel | None = None
    """what is trained against, such as linf:8/255; also what validation attacks with"""
    attack_steps: int = Field(default=10, ge=1)
    """PGD steps while crafting"""
    attack_relative_step: float = Field(default=0.25, gt=0)
    """step as a fraction of eps"""
    craft_mode: Literal["train", "eval"] = "eval"
    """BatchNorm mode while crafting: train or eval"""
    craft_folded: bool = False
    """craft on a faster copy with BatchNorm folded; eval mode only"""
    epochs: int = Field(default=100, ge=1)
    """passes over the labelled images"""
    batch: int = Field(default=128, ge=2)
    """images a step"""
    lr: float = Field(default=0.1, gt=0)
    """learning rate of SGD at its highest"""
    schedule: Literal["piecewise", "cosine", "cyclic", "linear"] = "piecewise"
    """of the lr: piecewise, cosine, cyclic or linear"""
    milestones: tuple[float, ...] = (0.5, 0.75)
    """fractions of training after which a piecewise lr falls to 1/10"""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """of SGD"""
    nesterov: bool = False
    """Nesterov's form of momentum"""
    weight_decay: float = Field(default=5e-4, ge=0)
    """coefficient of SGD's l2 penalty on the weights"""
    l1: float = Field(default=0, ge=0)
    """coefficient of the sum of absolute weights in the loss"""
    augment: Literal["none", "crop-flip"] = "none"
    """of training images: none or crop-flip"""
    cutout: int = Field(default=0, ge=0)
    """side in pixels of a square set to zero; 0: none"""
    mixup: float = Field(default=0, ge=0)
    """alpha of the Beta distribution of shares; 0: none"""
    averaging: Literal["none", "ema", "swa"] = "none"
    """of the weights that are validated and kept: none, ema or swa"""
    averaging_decay: float = Field(default=0.999, ge=0, lt=1)
    """a step, of ema"""
    averaging_from: float = Field(default=0.5, ge=0, lt=1)
    """fraction of training after which averaging starts"""
    early_stopping: int | None = Field(default=None, ge=1)
    """epochs without a better validation; none: trained to the end"""
    precision: Literal["float32", "bf16"] = "float32"
    """of the passes: float32 or bf16; weights stay float32"""
    compiled: bool = False
    """passes through torch.compile"""
    devices: int = Field(default=1, ge=1)
    """processes that share a batch, each with a part of it"""
    log_every: int = Field(default=1, ge=1)
    """epochs between two measurements on validation images"""
    log_attack_steps: int = Field(default=10, ge=1)
    """PGD steps of that measurement"""
    log_images: int = Field(default=1000, ge=1)
    """at most so many training and validation images are measured"""
    log_test_images: int = Field(default=0, ge=0)
    """test images measured too, for the curve alone"""
    seed: int = Field(default=0, ge=0)
    """of everything random in the run"""


# ---------------------------------------------------------------- model


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


# ---------------------------------------------------------------- record


class AttackOutcome(Frozen):
    """What one attack did within its column."""

    spec: AttackSpec
    engine: Text  # which implementation ran it, with its version
    attacked: int = Field(ge=0)  # images standing when it started
    broken: int = Field(ge=0)  # images it broke, as judged by the float32 model
    standing: str  # bits (n,): correct and unbroken after this attack
    adversarial_predictions: str  # ints (broken,): predicted class, in image order
    largest_perturbation: float = Field(ge=0)  # distance in the threat's norm, float64
    forward_passes: int = Field(default=0, ge=0)  # images sent forward, summed
    backward_passes: int = Field(default=0, ge=0)
    rejected: int = Field(default=0, ge=0)  # claimed examples that the judge did not accept
    # Of the images it broke, how many stay broken when rounded to 256 levels; None: not looked at.
    uint8_survivors: int | None = Field(default=None, ge=0)
    seconds: float = Field(default=0, ge=0)


class ColumnOutcome(Frozen):
    """The outcomes of one column's attacks, in order."""

    column_id: str
    outcomes: tuple[AttackOutcome, ...]
    # Security curve: floats (n,), the smallest distance at which an image was seen misclassified (0
    # for a clean error, infinity where none was found): an upper bound. None: not measured.
    distances: str | None = None


class Flag(Frozen):
    """A reason to doubt a number, with the values that raised it."""

    name: Name
    message: Text
    values: dict[str, Scalar] = Field(default_factory=dict)


class Standing:
    """Counts and rates of n images, derived from the bits of those correct and those standing."""

    if TYPE_CHECKING:
        n: int
        protocol: Protocol
        columns: Collection[str]  # names
        failure: str | None

    def packed(self, place: int) -> bytes:
        """Bits (n,) of the clean-correct images (0), or of those standing in the k-th column (k)."""
        raise NotImplementedError

    def numbers(self) -> list[int]:
        """Each vector of bits as one number: compared and counted in a few steps."""
        return [as_number(self.packed(k), self.n) for k in range(1 + len(self.columns))]

    @property
    def counts(self) -> tuple[int, ...]:
        """Images that are classified correctly, then those standing under each column."""
        return tuple(number.bit_count() for number in self.numbers())

    @property
    def worst_case_count(self) -> int:
        """Images standing under all columns."""
        return functools.reduce(int.__and__, self.numbers()).bit_count()

    @property
    def clean_accuracy(self) -> float:
        return self.counts[0] / self.n

    @property
    def robust_accuracy(self) -> dict[str, float]:
        """Column name -> share of all n images still standing, in the order of the protocol."""
        counts = dict(zip(self.columns, self.counts[1:], strict=True))
        return {c.name: counts[c.name] / self.n for c in self.protocol.columns if c.name in counts}

    @property
    def worst_case(self) -> float:
        return self.worst_case_count / self.n

    @property
    def clean_correct(self) -> np.ndarray:
        """(n,) bool."""
        return bits_of(self.packed(0), self.n)

    def standing(self, column: str) -> np.ndarray:
        """(n,) bool: correct and unbroken after every attack of a column."""
        return bits_of(self.packed(1 + list(self.columns).index(column)), self.n)

    @property
    def worst_case_standing(self) -> np.ndarray:
        """(n,) bool: standing under all columns."""
        return np.logical_and.reduce([self.clean_correct, *map(self.standing, self.columns)])


class EvaluationRecord(Frozen, Standing):
    """One measured model: per-image answers from which every number of the board is derived."""

    schema_version: Literal[1, 2] = 2
    id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
    card: ModelCard
    dataset: Name
    split: Text  # such as "test[0:1000]", official order
    n: int = Field(ge=1, le=10_000_000)
    examples_sha256: Sha256  # of exactly the images and labels used
    threat: ThreatModel
    protocol: Protocol
    seed: int
    engine: Literal["ours", "reference"]  # whose AutoAttack
    engine_version: Text
    precision: Literal["float32", "mixed"] = "float32"
    labels: str = ""  # ints (n,)
    clean_predictions: str = ""  # ints (n,)
    columns: dict[str, ColumnOutcome] = Field(default_factory=dict)
    flags: tuple[Flag, ...] = ()
    failure: Text | None = None  # why there are no numbers; such a record is never ranked
    environment: dict[str, str] = Field(default_factory=dict)
    created: str = ""  # UTC, ISO 8601
    seconds: float = Field(default=0, ge=0)
    evidence_sha256: Sha256 | None = None

    @model_validator(mode="after")
    def _consistent(self) -> EvaluationRecord:
        """A record that contradicts itself does not load."""
        if self.failure is not None:
            return self
        missing = {c.name: c.column_id for c in self.protocol.columns}
        if missing != {name: c.column_id for name, c in self.columns.items()}:
            raise ValueError("the columns are not those of the protocol")
        standing_at_start = as_number(self.packed(0), self.n)
        for name, column in self.columns.items():
            if not column.outcomes:
                raise ValueError(f"{name}: no attack ran")
            before = standing_at_start
            for outcome in column.outcomes:
                after = as_number(packed_bytes(outcome.standing, self.n), self.n)
                if after & ~before:
                    raise ValueError(f"{name}: an image stands again after {outcome.spec.name}")
                broken = (before & ~after).bit_count()
                if outcome.broken != broken or outcome.attacked != before.bit_count():
                    raise ValueError(f"{name}: the counts of {outcome.spec.name} are not its bits")
                inflated(outcome.adversarial_predictions, broken, INTS)
                before = after
            if column.distances is not None:
                unpack_floats(column.distances, self.n)
        return self

    @property
    def label_array(self) -> np.ndarray:
        """(n,) int64."""
        return unpack_ints(self.labels, self.n)

    @property
    def clean_prediction_array(self) -> np.ndarray:
        """(n,) int64."""
        return unpack_ints(self.clean_predictions, self.n)

    @property
    def clean_correct(self) -> np.ndarray:
        """(n,) bool."""
        return self.clean_prediction_array == self.label_array

    def packed(self, place: int) -> bytes:
        if not place:
            return np.packbits(self.clean_correct).tobytes()
        column = list(self.columns.values())[place - 1]
        return packed_bytes(column.outcomes[-1].standing, self.n)

    def adversarial_predictions(self, column: str) -> np.ndarray:
        """(n,) int64: predicted class of the verified adversarial image; -1 where none."""
        answer = np.full(self.n, -1, dtype=np.int64)
        before = self.clean_correct
        for outcome in self.columns[column].outcomes:
            after = unpack_bits(outcome.standing, self.n)
            answer[before & ~after] = unpack_ints(outcome.adversarial_predictions, outcome.broken)
            before = after
        return answer


def safe_name(text: str) -> str:
    """The nearest valid Name: other characters become dashes."""
    name = re.sub(r"[^A-Za-z0-9._+=-]+", "-", text).strip("-.")[:100]
    return name or "unnamed"
