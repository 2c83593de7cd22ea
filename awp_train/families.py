"""The presets of a family, made from its methods and from how far AWP moves its weights.

A family shares a data set, a threat and a network. Nothing is written out twice: a pair is one
configuration, without and with a perturbation of the weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import field as defaulting
from typing import Any

from awp_train import recipes
from awp_train.passes import gpu_hours, training_passes, validation_passes
from awp_train.recipes import changes, refitted
from bench.schema import TrainConfig

METHODS = ("at", "trades", "mart", "rst", "pretrain")
CONTROLS = ("-at-equal-compute", "-at-best-vanilla")
CHOSEN = "gamma chosen on validation images, results/choices"
UNCHOSEN = "gamma neither published nor chosen on validation images"


@dataclass(frozen=True)
class Preset:
    """A named configuration, seed 0, and what has to be there before it can be trained."""

    config: TrainConfig
    family: str  # `digits`, `cifar10-l2-wrn34`: presets that share a data set, threat and network
    description: str  # one line: what sets it apart in its family
    source: str
    cost: str  # of one run, and whether measured or estimated
    pair: str | None = None  # the preset that is the same without a perturbation of the weights
    control_of: str | None = None  # the AWP preset that this one is a stronger control of
    teacher: str | None = None  # the preset whose network labels the extra images
    extra_n: int | None = None  # at most so many of them
    start_from: str | None = None  # the preset whose network fine-tuning starts from
    supplied: str = ""  # the file that a call has to give, as a flag and its meaning


@dataclass(frozen=True)
class Strength:
    """How far AWP moves the weights of a preset, from when on, and who says so."""

    gamma: float
    warm_up: int  # epochs
    why: str


@dataclass(frozen=True)
class _Family:
    """What the presets of one data set, threat and network have in common."""

    name: str
    methods: dict[str, TrainConfig]  # natural and METHODS
    strengths: dict[str, Strength]
    source: str
    random: bool = False  # whether the random direction is offered too
    seconds_a_pass: float | None = None  # on one CPU core, measured; None: estimated for a GPU
    needs: dict[str, dict[str, Any]] = defaulting(default_factory=dict)  # method -> Preset fields


# ---------------------------------------------------------------- from families to presets

# Seconds of one thread on a 2-core machine.
_MEASURED = {
    "digits-natural": 4,
    "digits-at": 12,
    "digits-at-awp": 14,
    "fashion_mnist-subset-natural": 26,
    "fashion_mnist-subset-at": 91,
    "fashion_mnist-subset-at-awp": 106,
}
_OF_METHOD = {
    "natural": "",
    "at": "arXiv 1706.06083",
    "trades": "arXiv 1901.08573",
    "mart": "Wang et al., ICLR 2020",
    "rst": "arXiv 1905.13736",
    "pretrain": "arXiv 1901.09960",
}


def _presets_of(family: _Family) -> dict[str, Preset]:
    """Natural training, and each method without and with a perturbation of the weights."""
    made = {}
    for method, config in family.methods.items():
        vanilla = f"{family.name}-{method}"
        made[vanilla] = _preset(family, vanilla, config, method, _OF_METHOD[method])
        if method in family.strengths:
            made |= _perturbed(family, vanilla, config, method)
    return made


def _perturbed(
    family: _Family, vanilla: str, config: TrainConfig, method: str, suffix: str = ""
) -> dict[str, Preset]:
    strength = family.strengths[method]
    name, source = vanilla.removesuffix(suffix), "arXiv 2004.05884"
    awp = recipes.with_awp(config, gamma=strength.gamma, warm_up=strength.warm_up)
    made = {
        f"{name}-awp{suffix}": _preset(
            family, f"{name}-awp{suffix}", awp, method, source, why=strength.why, pair=vanilla
        )
    }
    if family.random:
        rwp = recipes.with_rwp(config, gamma=strength.gamma, warm_up=strength.warm_up)
        made[f"{name}-rwp"] = _preset(
            family, f"{name}-rwp", rwp, method, source, why="gamma of AWP", pair=vanilla
        )
    return made


def _preset(
    family: _Family,
    name: str,
    config: TrainConfig,
    method: str,
    source: str,
    *,
    why: str = "",
    pair: str | None = None,
    control_of: str | None = None,
) -> Preset:
    needs = family.needs.get(method, {})
    said = [part for part in (source, family.source, why) if part]
    return Preset(
        config,
        family.name,
        _described(config, family.methods["at"], needs, pair),
        "; ".join(said),
        _cost(name, config, family),
        pair,
        control_of,
        **needs,
    )


def _described(
    config: TrainConfig, base: TrainConfig, needs: dict[str, Any], pair: str | None
) -> str:
    """`beta 6, crafts in eval mode`: what is not as in the family, or not as in the pair."""
    if awp := config.awp:
        start = f"after {awp.warm_up} epochs" if awp.warm_up else "from the start"
        random = ", random direction" if awp.direction == "random" else ""
        return f"gamma {awp.gamma:g} {start}{random}, else as {pair}"
    parts = []
    if config.objective in ("trades", "mart", "rst"):
        parts.append(f"beta {config.beta:g}")
    if config.objective != "natural":
        parts.append(f"crafts in {config.craft_mode} mode")
    said = ("objective", "beta", "awp", "craft_mode", "recipe", "arch_args")
    new = {k: getattr(config, k) for k in changes(config, base) if k not in said}
    parts += [f"{key} {_shown(value)}" for key, value in new.items()]
    if teacher := needs.get("teacher"):
        parts.append(f"extra images labelled by {teacher}")
    if start_from := needs.get("start_from"):
        parts.append(f"starts from {start_from}")
    if supplied := needs.get("supplied"):
        parts.append(f"needs {supplied}")
    return ", ".join(parts)


def _shown(value: object) -> str:
    """A field's value in few characters: `0.226`, `0.617/0.742/0.825`, `none`."""
    if isinstance(value, tuple):
        return "/".join(map(_shown, value))
    if isinstance(value, float):
        return f"{value:.3g}"
    return "none" if value is None else str(value).lower()


def _cost(name: str, config: TrainConfig, family: _Family) -> str:
    if name in _MEASURED:
        return f"{_MEASURED[name]} CPU s (measured)"
    if family.seconds_a_pass is None:
        fewest, most = gpu_hours(config)
        return f"{fewest:.2g} to {most:.2g} GPU h (estimated)"
    seconds = family.seconds_a_pass * (training_passes(config) + validation_passes(config))
    text = f"{seconds:.0f} CPU s" if seconds < 600 else f"{seconds / 3600:.1f} CPU h"
    return f"{text} (estimated)"


# ---------------------------------------------------------------- digits


_HERE = "settings of this project"


def digits() -> dict[str, Preset]:
    base = recipes.digits()
    # Ten digits are few to share out: 0 to 4 teach, 5 to 9 are learnt from half as many images.
    first = refitted(base, dataset="digits-0to4", n_validation=100)
    second = refitted(base, dataset="digits-5to9", n_train=100)
    family = _Family(
        "digits",
        _methods(base, recipes.fine_tuning(second, first, epochs=50, lr=0.05)),
        {
            "at": Strength(0.02, 33, CHOSEN),
            "trades": Strength(0.01, 33, CHOSEN),
            "mart": Strength(0.02, 33, CHOSEN),
            "rst": Strength(0.005, 17, CHOSEN),
            "pretrain": Strength(0.02, 17, CHOSEN),
        },
        _HERE,
        random=True,
        seconds_a_pass=_seconds_a_pass("digits-at", base),
        needs={
            "rst": {"teacher": "digits-natural"},
            "pretrain": {"start_from": "digits-0to4-at"},
        },
    )
    # The largest weight decay of the grid: an even larger one was not tried.
    stronger = recipes.best_vanilla(base, weight_decay=1e-2, averaging="none", early_stopping=None)
    return {
        **_presets_of(family),
        **_controls(family, stronger, "settings chosen on validation images, results/choices"),
        "digits-0to4-at": _preset(family, "digits-0to4-at", first, "at", _OF_METHOD["at"]),
    }


def _methods(base: TrainConfig, tuned: TrainConfig) -> dict[str, TrainConfig]:
    return {
        "natural": recipes.natural(base),
        "at": base,
        "trades": recipes.trades(base),
        "mart": recipes.mart(base),
        "rst": recipes.rst(base),
        "pretrain": tuned,
    }


def _controls(
    family: _Family, stronger: TrainConfig | None = None, why: str = ""
) -> dict[str, Preset]:
    """What AT can do with AWP's compute, and with as many tried settings as AWP had."""
    at, awp = f"{family.name}-at", f"{family.name}-at-awp"
    strength = family.strengths["at"]
    longer = recipes.equal_compute(
        recipes.with_awp(family.methods["at"], gamma=strength.gamma, warm_up=strength.warm_up)
    )
    controls = {f"{at}-equal-compute": (longer, "")}
    if stronger is not None:
        controls[f"{at}-best-vanilla"] = (stronger, why)
    return {
        name: _preset(family, name, config, "at", _OF_METHOD["at"], why=said, control_of=awp)
        for name, (config, said) in controls.items()
    }


def _seconds_a_pass(name: str, config: TrainConfig) -> float:
    return _MEASURED[name] / (training_passes(config) + validation_passes(config))


# ---------------------------------------------------------------- Fashion-MNIST


def fashion(name: str, base: TrainConfig, epochs: int, at: Strength) -> dict[str, Preset]:
    start = f"{name}-0to4-at"
    first = refitted(base, dataset="fashion_mnist-0to4")
    second = refitted(base, dataset="fashion_mnist-5to9")
    subset = base.n_train is not None
    other = Strength(at.gamma, at.warm_up, UNCHOSEN)
    halved = Strength(at.gamma, at.warm_up // 2, UNCHOSEN)
    unlabelled: dict[str, object] = {"teacher": f"{name}-natural", "extra_n": 20_000}
    if not subset:  # every image has its label already
        unlabelled = {"supplied": "--extra FILE: pseudo-labelled images, 28x28 grey"}
    family = _Family(
        name,
        _methods(base, recipes.fine_tuning(second, first, epochs=epochs, lr=0.05)),
        {"at": at, "trades": other, "mart": other, "rst": halved, "pretrain": halved},
        _HERE,
        seconds_a_pass=_seconds_a_pass("fashion_mnist-subset-at", recipes.fashion_mnist_subset()),
        needs={"rst": unlabelled, "pretrain": {"start_from": start}},
    )
    stronger = recipes.best_vanilla(base, weight_decay=2e-3, averaging="none", early_stopping=None)
    return {
        **_presets_of(family),
        **_controls(
            family,
            stronger if subset else None,
            "settings chosen on validation images, results/choices",
        ),
        start: _preset(family, start, first, "at", _OF_METHOD["at"]),
    }


# ---------------------------------------------------------------- CIFAR and SVHN


NETWORKS = {
    "": "preact_resnet18",
    "-wrn34": "wide_resnet34_10",
    "-wrn28": "wide_resnet28_10",
    "-vgg19": "vgg19_bn",
}
# The data set whose AT network fine-tuning starts from; the papers' ImageNet is not offered here.
_STARTS = {"cifar10": "cifar100", "cifar100": "cifar10", "svhn": "cifar10"}
_AWP_CODE = "gamma as in code csdongxian/AWP"
_UNLABELLED = {
    "cifar10": "--extra FILE: the 500,000 pseudo-labelled TinyImages of RST",
    "cifar100": "--extra FILE: pseudo-labelled images, 32x32",
    "svhn": "--extra FILE: pseudo-labelled images, such as SVHN's extra part",
}


def large(dataset: str, norm: str, network: str) -> dict[str, Preset]:
    infix = ("-l2" if norm == "l2" else "") + network
    base, start = recipes.LARGE[dataset], recipes.LARGE[_STARTS[dataset]]
    config = recipes.under_l2(base) if norm == "l2" else base
    config = refitted(config, arch=NETWORKS[network])
    # SVHN under linf collapses without a warm-up.
    at_warm_up = 5 if dataset == "svhn" and norm == "linf" else 0
    third_party = "gamma of a third party's code, ChaojianYu/Robust-Weight-Perturbation"
    family = _Family(
        dataset + infix,
        _methods(config, recipes.fine_tuning(config, start, epochs=5, lr=0.001)),
        {
            "at": Strength(0.01, at_warm_up, _AWP_CODE),
            # Its AWP begins in the 10th epoch, counted from 1.
            "trades": Strength(0.005, 9, UNCHOSEN if dataset == "svhn" else _AWP_CODE),
            "mart": Strength(0.005, 5, UNCHOSEN),
            # There 10 epochs, of 50,000 images each.
            "rst": Strength(0.005, 5, third_party if dataset == "cifar10" else UNCHOSEN),
            "pretrain": Strength(0.005, 0, UNCHOSEN),
        },
        "shared settings as in code csdongxian/AWP",
        needs={
            "rst": {"supplied": _UNLABELLED[dataset]},
            "pretrain": {"start_from": f"{_STARTS[dataset]}{infix}-at"},
        },
    )
    controls = {} if network or norm == "l2" else _controls(family)
    return {**_presets_of(family), **controls, **_as_published(family, dataset, network)}


def _as_published(family: _Family, dataset: str, network: str) -> dict[str, Preset]:
    """The runs of a family whose published settings are not the shared ones."""
    at = family.methods["at"]
    l2 = at.threat is not None and at.threat.norm == "l2"
    found: dict[str, TrainConfig] = {}
    if network == "-wrn34" and dataset in ("cifar10", "cifar100"):
        found["trades"] = recipes.trades_of_awp(at)
    if dataset == "cifar10" and not l2 and network in ("", "-wrn34"):
        found["mart"] = recipes.mart_of_2020(at)
    if dataset == "cifar10" and not l2 and network == "-wrn28":
        found |= {"rst": recipes.rst_of_2019(at), "pretrain": recipes.pretrain_of_2019(at)}
    imagenet = "--start FOLDER: a WRN-28-10 trained on downsampled ImageNet"
    needs = family.needs | {"pretrain": {"supplied": imagenet}}
    made = {}
    published = _Family(family.name, family.methods, family.strengths, "", needs=needs)
    for method, config in found.items():
        vanilla = f"{family.name}-{method}-paper"
        made[vanilla] = _preset(published, vanilla, config, method, _OF_METHOD[method])
        made |= _perturbed(published, vanilla, config, method, suffix="-paper")
    if dataset == "cifar10" and not l2 and network == "-wrn34":
        name = f"{family.name}-trades-original-paper"
        config = recipes.trades_of_2019(at)
        made[name] = _preset(published, name, config, "trades", "code yaodongyu/TRADES")
    return made
