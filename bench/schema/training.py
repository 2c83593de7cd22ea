"""How a model was trained: everything that decides a run, besides the code."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field, StringConstraints
from pydantic_core import PydanticCustomError

from bench.schema.frozen import Frozen, Name, Scalar, Sha256
from bench.schema.ranges import ranges_of, ranges_text
from bench.schema.threat import ThreatModel


def _of_the_catalogue(name: str) -> str:
    from bench.catalogue import OBJECTIVES  # which needs this file

    if name not in OBJECTIVES:
        *others, last = map(repr, OBJECTIVES)
        expected = f"{', '.join(others)} or {last}"
        raise PydanticCustomError("literal_error", f"Input should be {expected}")
    return name


Objective = Annotated[str, AfterValidator(_of_the_catalogue)]
# Places in a fixed order, as `bench.schema.ranges` reads them.
Indices = Annotated[
    str,
    StringConstraints(max_length=2000),
    AfterValidator(lambda text: ranges_text(ranges_of(text))),
]
# How a run relates to others. matched: a pair shares everything but the weight perturbation; paper: as
# published; equal-compute and best-vanilla: stronger controls without AWP.
Recipe = Literal["matched", "paper", "equal-compute", "best-vanilla"]


def _is_none(value: object) -> bool:
    return value is None


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
    # Left out where there is none: configurations from before it keep the text they had.
    threshold: float | None = Field(default=None, ge=0, allow_inf_nan=False, exclude_if=_is_none)
    """only examples of smaller adversarial cross-entropy, in nats, are climbed; none: all"""


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


class OwnImages(Frozen):
    """Images of one's own that a run learns from: what was read, not where it lies."""

    sha256: Sha256  # of all training images and labels
    test_sha256: Sha256 | None = None  # of all test images and labels; None: there are none
    channels: int = Field(ge=1)
    image_size: int = Field(ge=1)  # pixels, height = width
    class_count: int = Field(ge=2)
    n_train: int = Field(ge=1)
    n_test: int = Field(ge=0)


class TrainConfig(Frozen):
    """Everything that decides a training run, besides the code."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    dataset: str
    """a catalogue name, such as cifar10; as a flag also parquet:, arrays: or imagefolder:FOLDER"""
    # Left out where there are none: configurations of named data sets keep the text they had.
    own: OwnImages | None = Field(default=None, exclude_if=_is_none)
    """images of one's own, whose name and hash the data set's name then is"""
    train_indices: Indices | None = Field(default=None, exclude_if=_is_none)
    """training images there are, by official place, such as 0:1017,10000:11017; none: all"""
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
    # Left out where there is none, as own is.
    averaging_horizon: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, exclude_if=_is_none
    )
    """epochs of ema after which weights count 1/e, instead of a decay a step"""
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
