"""PRESETS: a complete TrainConfig for each published or recommended run, with source and cost."""

from __future__ import annotations

from dataclasses import dataclass

from bench.catalogue import ARCHITECTURES, architecture_arguments, dataset_info, unknown_name
from bench.schema import (
    AwpConfig,
    InvalidInput,
    Scalar,
    ThreatModel,
    TrainConfig,
    content_hash,
    safe_name,
)


@dataclass(frozen=True)
class Preset:
    """A named configuration, seed 0."""

    config: TrainConfig
    description: str  # one line
    source: str
    cost: str  # of one run, and whether measured or estimated


def fitted_arguments(arch: str, dataset: str, **others: Scalar) -> dict[str, Scalar]:
    """All arguments of an architecture, those that a data set decides taken from the catalogue."""
    info = dataset_info(dataset)
    decided = {
        "in_channels": info.channels,
        "image_size": info.image_size,
        "num_classes": info.class_count,
    }
    if arch not in ARCHITECTURES:
        raise unknown_name("architecture", arch, ARCHITECTURES)
    known = ARCHITECTURES[arch].arguments
    given = {k: v for k, v in decided.items() if k in known} | others
    return dict(architecture_arguments(arch, given))


def digits() -> TrainConfig:
    """AT on 200 of scikit-learn's digits: few enough to overfit, so there is a gap to close."""
    return TrainConfig(
        dataset="digits",
        n_train=200,
        n_validation=200,
        arch="small_cnn",
        arch_args=fitted_arguments("small_cnn", "digits", width=16),
        threat=ThreatModel.parse("linf:0.15"),
        attack_steps=7,
        epochs=100,
        batch=50,
        log_every=5,
        log_attack_steps=7,
    )


def fashion_mnist_subset() -> TrainConfig:
    """AT on 500 images of Fashion-MNIST, 80 epochs."""
    return TrainConfig(
        dataset="fashion_mnist",
        n_train=500,
        n_validation=1000,
        arch="small_cnn",
        arch_args=fitted_arguments("small_cnn", "fashion_mnist", width=16),
        threat=ThreatModel.parse("linf:0.1"),
        attack_steps=7,
        epochs=80,
        batch=64,
        log_every=5,
        log_attack_steps=7,
        log_images=200,
    )


def fashion_mnist() -> TrainConfig:
    """AT on all of Fashion-MNIST but 1,000 validation images, 30 epochs."""
    return TrainConfig(
        dataset="fashion_mnist",
        n_validation=1000,
        arch="small_cnn",
        arch_args=fitted_arguments("small_cnn", "fashion_mnist", width=16),
        threat=ThreatModel.parse("linf:0.1"),
        attack_steps=7,
        epochs=30,
        batch=128,
    )


def cifar10() -> TrainConfig:
    """AT as in the AWP paper's code, but selected on validation, not on test images."""
    return TrainConfig(
        dataset="cifar10",
        n_validation=1000,
        arch="preact_resnet18",
        arch_args=fitted_arguments("preact_resnet18", "cifar10"),
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2471, 0.2435, 0.2616),
        threat=ThreatModel.parse("linf:8/255"),
        attack_steps=10,
        attack_relative_step=0.25,  # 2/255
        craft_mode="train",
        epochs=200,
        batch=128,
        augment="crop-flip",
    )


def natural(config: TrainConfig) -> TrainConfig:
    """The same run on clean images. Its threat is only what validation attacks with."""
    return config.model_copy(update={"objective": "natural"})


def with_awp(config: TrainConfig, *, gamma: float, warm_up: int) -> TrainConfig:
    """The same run under AWP: nothing else differs."""
    return config.model_copy(update={"awp": AwpConfig(gamma=gamma, warm_up=warm_up)})


def pair_of(config: TrainConfig) -> TrainConfig:
    """The vanilla twin of a run: the same but for AWP."""
    return config.model_copy(update={"awp": None})


_DEMO = "this project; settings chosen in results/choices"
_PAPER = "arXiv 2004.05884, code csdongxian/AWP"

PRESETS: dict[str, Preset] = {
    "digits-natural": Preset(
        natural(digits()),
        "clean training on 200 digits: the accuracy that AT gives up, no robustness",
        _DEMO,
        "4 CPU s (measured)",
    ),
    "digits-at": Preset(
        digits(), "AT on 200 digits, linf 0.15: overfits robustly", _DEMO, "12 CPU s (measured)"
    ),
    "digits-at-awp": Preset(
        with_awp(digits(), gamma=0.02, warm_up=33),
        "AT-AWP on 200 digits, gamma 0.02 after 33 epochs",
        _DEMO,
        "14 CPU s (measured)",
    ),
    "fashion_mnist-subset-natural": Preset(
        natural(fashion_mnist_subset()),
        "clean training on 500 Fashion-MNIST images",
        _DEMO,
        "26 CPU s (measured)",
    ),
    "fashion_mnist-subset-at": Preset(
        fashion_mnist_subset(),
        "AT on 500 Fashion-MNIST images, linf 0.1",
        _DEMO,
        "91 CPU s (measured)",
    ),
    "fashion_mnist-subset-at-awp": Preset(
        with_awp(fashion_mnist_subset(), gamma=0.01, warm_up=13),
        "AT-AWP on 500 Fashion-MNIST images, gamma 0.01 after 13 epochs",
        _DEMO,
        "106 CPU s (measured)",
    ),
    "fashion_mnist-at": Preset(
        fashion_mnist(),
        "AT on 59,000 Fashion-MNIST images, linf 0.1",
        "this project; settings not chosen yet",
        "1.0 CPU hours (estimated)",
    ),
    "fashion_mnist-at-awp": Preset(
        with_awp(fashion_mnist(), gamma=0.01, warm_up=5),
        "AT-AWP on 59,000 Fashion-MNIST images, gamma 0.01 after 5 epochs",
        "this project; settings not chosen yet",
        "1.2 CPU hours (estimated)",
    ),
    "cifar10-at": Preset(
        cifar10(),
        "AT, PreActResNet-18, linf 8/255, 200 epochs",
        _PAPER,
        "2 to 4 H100 hours (estimated)",
    ),
    "cifar10-at-awp": Preset(
        with_awp(cifar10(), gamma=0.01, warm_up=0),
        "AT-AWP, PreActResNet-18, linf 8/255, gamma 0.01, 200 epochs",
        _PAPER,
        "2 to 4 H100 hours (estimated)",
    ),
}


def find(name: str) -> Preset:
    """The preset of a name; InvalidInput suggests the nearest."""
    if name not in PRESETS:
        raise unknown_name("preset", name, PRESETS)
    return PRESETS[name]


def twin(name: str) -> str:
    """The name of the preset that is the same without AWP."""
    vanilla = pair_of(find(name).config)
    return next(other for other, preset in PRESETS.items() if preset.config == vanilla)


def run_name(name: str, config: TrainConfig) -> str:
    """`digits-at-awp-s0`; what differs from the preset stands in between, as `-epochs=3`."""
    base = find(name).config
    changed = _changes(config, base)
    if config.arch != base.arch:
        changed.pop("arch_args", None)
    settings = safe_name(name + "".join(f"-{k}={v}" for k, v in changed.items()))
    if len(settings) > 80:
        settings = f"{settings[:70]}-{content_hash(changed)[:8]}"
    return f"{settings}-s{config.seed}"


def pair_name(name: str, config: TrainConfig) -> str | None:
    """The run name of the vanilla twin; None for a vanilla run."""
    return run_name(twin(name), pair_of(config)) if config.awp else None


def _changes(config: TrainConfig, base: TrainConfig) -> dict[str, str]:
    changed: dict[str, str] = {}
    for key, value in config:
        if key == "seed" or value == getattr(base, key):
            continue
        if isinstance(value, AwpConfig):
            before = base.awp or AwpConfig()
            fields = {f: v for f, v in value if v != getattr(before, f)}
            changed |= {f"awp.{f}": str(v) for f, v in fields.items()} or {"awp": "default"}
        elif isinstance(value, dict):
            changed[key] = "+".join(f"{k}.{v}" for k, v in value.items())
        else:
            changed[key] = "none" if value is None else str(value)
    return changed


# ---------------------------------------------------------------- what cannot be trained


def check(config: TrainConfig) -> None:
    """Raises InvalidInput with the reason where a configuration cannot give a sensible run."""
    info = dataset_info(config.dataset)
    n_train = config.n_train if config.n_train is not None else info.n_train - config.n_validation
    fitting = fitted_arguments(config.arch, config.dataset)
    given = architecture_arguments(config.arch, config.arch_args)
    for key in ("in_channels", "image_size", "num_classes"):
        if given.get(key) != fitting.get(key):
            raise InvalidInput(
                f"{config.arch}: {key} is {given[key]}, but {config.dataset} has {fitting[key]}"
            )
    if n_train < 1 or n_train + config.n_validation > info.n_train:
        raise InvalidInput(
            f"{config.dataset} has {info.n_train} training images; n_train {n_train} and "
            f"n_validation {config.n_validation} do not fit together"
        )
    if n_train < config.batch:
        raise InvalidInput(
            f"n_train is {n_train}, less than one batch of {config.batch}; lower --batch"
        )
    if config.threat is None:
        raise InvalidInput(
            "no threat: training, or the validation of a natural run, attacks with it. "
            f"Give --threat {info.default_threat}"
        )
    if config.threat.norm == "l1":
        raise InvalidInput("PGD trains against linf or l2, not against l1")
    if not all(0 < m < 1 for m in config.milestones):
        raise InvalidInput(
            f"milestones are fractions of training between 0 and 1, got {config.milestones}"
        )
    if (config.mean is None) != (config.std is None) or any(
        len(v) != info.channels for v in (config.mean, config.std) if v is not None
    ):
        raise InvalidInput(f"mean and std go together, {info.channels} values for {config.dataset}")
    if config.awp is not None:
        _check_awp(config, config.awp)


def _check_awp(config: TrainConfig, awp: AwpConfig) -> None:
    if config.objective == "natural":
        raise InvalidInput(
            "natural training has no AWP variant here: --awp none, or --objective at"
        )
    if awp.warm_up >= config.epochs:
        raise InvalidInput(
            f"AWP starts after {awp.warm_up} epochs of warm-up, but the run has {config.epochs}: "
            "lower --awp.warm_up or raise --epochs"
        )
    if awp.direction == "random" and awp.steps > 1:
        raise InvalidInput("a random direction takes no ascent steps: --awp.steps 1")
