"""The settings of runs, as functions from a configuration to a configuration.

A data set's settings are those of its AT run; a method, a perturbation of the weights or a stronger
control changes what it must and nothing else. Epochs are passes over the labelled images.
"""

from __future__ import annotations

from awp_train.passes import training_passes
from bench.catalogue import ARCHITECTURES, architecture_arguments, dataset_info, unknown_name
from bench.schema import AwpConfig, Scalar, ThreatModel, TrainConfig

# What a data set decides about an architecture.
DECIDED = ("in_channels", "image_size", "num_classes")


def fitted_arguments(arch: str, dataset: str, **others: Scalar) -> dict[str, Scalar]:
    """All arguments of an architecture, those that a data set decides taken from the catalogue."""
    info = dataset_info(dataset)
    decided = dict(zip(DECIDED, (info.channels, info.image_size, info.class_count), strict=True))
    if arch not in ARCHITECTURES:
        raise unknown_name("architecture", arch, ARCHITECTURES)
    known = ARCHITECTURES[arch].arguments
    given = {k: v for k, v in decided.items() if k in known} | others
    return dict(architecture_arguments(arch, given))


def refitted(config: TrainConfig, **changes: object) -> TrainConfig:
    """The same run with fields changed, and the architecture fitted to its data set again.

    The arguments that no data set decides, such as a width, stay where the architecture does.
    """
    new = config.model_copy(update=changes)
    kept = {k: v for k, v in config.arch_args.items() if k not in DECIDED}
    others = kept if new.arch == config.arch else {}
    arguments = fitted_arguments(new.arch, new.dataset, **others)
    return new.model_copy(update={"arch_args": arguments})


def changes(config: TrainConfig, base: TrainConfig) -> dict[str, str]:
    """Field -> text for everything but seed and files in which a configuration is not the base."""
    changed: dict[str, str] = {}
    for key, value in config:
        if key in ("seed", "extra", "start") or value == getattr(base, key):
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


# ---------------------------------------------------------------- data sets, as AT is run on them


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


def cifar100() -> TrainConfig:
    """AT as on CIFAR-10. The AWP paper's code also turns the images by up to 15 degrees."""
    return refitted(
        cifar10(),
        dataset="cifar100",
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
    )


def svhn() -> TrainConfig:
    """AT as in the AWP paper's code: a small lr, a small step, no augmentation."""
    return refitted(
        cifar10(),
        dataset="svhn",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        attack_relative_step=0.125,  # 1/255
        lr=0.01,
        augment="none",
    )


# Data sets that are trained at the scale of the papers.
LARGE: dict[str, TrainConfig] = {"cifar10": cifar10(), "cifar100": cifar100(), "svhn": svhn()}


def under_l2(config: TrainConfig) -> TrainConfig:
    """The same run against l2 128/255, with steps of 15/255, as in the AWP paper's logs."""
    threat = ThreatModel.parse("l2:128/255")
    return config.model_copy(update={"threat": threat, "attack_relative_step": 15 / 128})


# ---------------------------------------------------------------- methods, from an AT run


def natural(config: TrainConfig) -> TrainConfig:
    """The same run on clean images. Its threat is only what validation attacks with."""
    return config.model_copy(update={"objective": "natural"})


def trades(config: TrainConfig) -> TrainConfig:
    """TRADES (arXiv 1901.08573) with beta 6, crafted in eval mode as in its code."""
    return config.model_copy(update={"objective": "trades", "beta": 6.0, "craft_mode": "eval"})


def mart(config: TrainConfig) -> TrainConfig:
    """MART (Wang et al., ICLR 2020), crafted in eval mode; beta 6 for wide networks, else 5."""
    beta = 6.0 if config.arch.startswith("wide") else 5.0
    return config.model_copy(update={"objective": "mart", "beta": beta, "craft_mode": "eval"})


def rst(config: TrainConfig) -> TrainConfig:
    """RST (arXiv 1905.13736) with beta 6, half of each batch pseudo-labelled, in eval mode.

    Half as many epochs: each has twice as many updates, so the whole run has as many as AT.
    """
    changes = {"objective": "rst", "beta": 6.0, "craft_mode": "eval"}
    return config.model_copy(update={**changes, "epochs": max(1, config.epochs // 2)})


def fine_tuning(config: TrainConfig, start: TrainConfig, *, epochs: int, lr: float) -> TrainConfig:
    """AT from a trained network (arXiv 1901.09960): fewer epochs, a smaller lr, cosine, Nesterov.

    The input normalisation is that of the run it starts from: it belongs to the network.
    """
    changes = {"objective": "pretrain", "epochs": epochs, "lr": lr, "mean": start.mean}
    changes |= {"std": start.std, "schedule": "cosine", "nesterov": True}
    return config.model_copy(update=changes)


# ---------------------------------------------------------------- perturbations of the weights


def with_awp(config: TrainConfig, *, gamma: float, warm_up: int) -> TrainConfig:
    """The same run under AWP: nothing else differs."""
    return config.model_copy(update={"awp": AwpConfig(gamma=gamma, warm_up=warm_up)})


def with_rwp(config: TrainConfig, *, gamma: float, warm_up: int) -> TrainConfig:
    """The same run with weights perturbed as far in a random direction: the paper's control."""
    awp = AwpConfig(direction="random", gamma=gamma, warm_up=warm_up)
    return config.model_copy(update={"awp": awp})


def pair_of(config: TrainConfig) -> TrainConfig:
    """The vanilla twin of a run: the same but for AWP."""
    return config.model_copy(update={"awp": None})


# ---------------------------------------------------------------- stronger controls


def equal_compute(config: TrainConfig) -> TrainConfig:
    """The vanilla run that costs as many passes as an AWP run, spent on more epochs.

    Rounded up, so that the control never has less. Milestones, and where averaging starts, are
    fractions of training: they move along.
    """
    vanilla = pair_of(config)
    with_all, without = training_passes(config), training_passes(vanilla)
    epochs = -(-config.epochs * with_all // without)
    return vanilla.model_copy(update={"epochs": epochs, "recipe": "equal-compute"})


def best_vanilla(
    config: TrainConfig,
    *,
    weight_decay: float,
    averaging: str,
    early_stopping: int | None,
) -> TrainConfig:
    """The vanilla run with the regularisers that its own grid has chosen on validation images.

    A small data set has a few hundred updates, so its average forgets in 50 of them, not in 1,000.
    """
    changes = {
        "recipe": "best-vanilla",
        "weight_decay": weight_decay,
        "averaging": averaging,
        "averaging_decay": 0.98 if config.n_train and config.n_train <= 10_000 else 0.999,
        "early_stopping": early_stopping,
    }
    return pair_of(config).model_copy(update=changes)


# ---------------------------------------------------------------- as published, where that differs


def as_published(config: TrainConfig, **changes: object) -> TrainConfig:
    """A method's run of CIFAR-10 with the settings of its own code in place of the shared ones."""
    return refitted(config, recipe="paper", **changes)


def trades_of_awp(config: TrainConfig) -> TrainConfig:
    """TRADES as the AWP code runs it: WRN-34-10 on pixels in [0, 1].

    It pads with zeros, this project with reflections. Under l2 its attack ignores the step asked
    for and takes 2 eps / steps. Its epochs count from 1, so the lr falls before the 100th and 150th.
    """
    l2 = config.threat is not None and config.threat.norm == "l2"
    changes: dict[str, object] = {"arch": "wide_resnet34_10", "mean": None, "std": None}
    changes["milestones"] = (99 / 200, 149 / 200)
    if l2:
        changes |= {"threat": ThreatModel.parse("l2:0.5"), "attack_relative_step": 0.2}
    return as_published(trades(config), **changes)


def trades_of_2019(config: TrainConfig) -> TrainConfig:
    """TRADES as its own code runs it: a smaller weight decay, 76 epochs, one fall of the lr."""
    return trades_of_awp(config).model_copy(
        update={"weight_decay": 2e-4, "epochs": 76, "milestones": (74 / 76,)} | _step_of_7_in_31()
    )


def mart_of_2020(config: TrainConfig) -> TrainConfig:
    """MART as its code runs it: 90 epochs of a WRN-34-10, or 120 of a ResNet-18.

    The lr falls before the 75th, 90th and 100th epoch, counted from 1.
    """
    if config.arch == "wide_resnet34_10":
        schedule = {"epochs": 90, "lr": 0.1, "weight_decay": 7e-4}
    else:
        schedule = {"epochs": 120, "lr": 0.01, "weight_decay": 3.5e-3}
    falls = [epoch / schedule["epochs"] for epoch in (74, 89, 99) if epoch < schedule["epochs"]]
    return as_published(
        mart(config), mean=None, std=None, milestones=tuple(falls), **schedule, **_step_of_7_in_31()
    )


def rst_of_2019(config: TrainConfig) -> TrainConfig:
    """RST as its code runs it on a WRN-28-10: its 200 epochs of 50,000 images are 100 of ours."""
    return as_published(
        rst(config),
        arch="wide_resnet28_10",
        mean=None,
        std=None,
        epochs=100,
        batch=256,
        schedule="cosine",
        nesterov=True,
        **_step_of_7_in_31(),
    )


def pretrain_of_2019(config: TrainConfig) -> TrainConfig:
    """Fine-tuning as its code runs it: a WRN-28-10 on pixels in [-1, 1], 5 epochs."""
    half = (0.5, 0.5, 0.5)
    tuned = fine_tuning(config, config, epochs=5, lr=0.001)
    return as_published(tuned, arch="wide_resnet28_10", mean=half, std=half)


def _step_of_7_in_31() -> dict[str, object]:
    """Steps of 0.007 within 0.031, as the codes of TRADES, MART and RST write 2/255 and 8/255."""
    return {"threat": ThreatModel.parse("linf:0.031"), "attack_relative_step": 7 / 31}
