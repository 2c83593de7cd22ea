"""Presets: a complete TrainConfig for a name, with its source, made when it is asked for.

A name is `<family>-<method>[-awp|-rwp]`, then `-paper` where the method's own settings are meant, or
the name of a stronger control. A family shares a data set, a threat and a network:
`<data set>[-subset|-first5085][-l2][-<network>]`, the default network left out. Nothing is written
out twice: a pair is one configuration, without and with a perturbation of the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

from awp_train import recipes
from awp_train.recipes import changes, pair_of, refitted
from bench.catalogue import DATASETS, OBJECTIVES, unknown_name
from bench.schema import InvalidInput, TrainConfig, safe_name
from bench.schema.frozen import content_hash

METHODS = tuple(name for name in OBJECTIVES if name != "natural")
CONTROLS = ("-at-equal-compute", "-at-best-vanilla")
LIST = "python -m awp_train list"
CHOSEN = "gamma chosen on validation images, results/choices"
UNCHOSEN = "gamma neither published nor chosen on validation images"

Strength = tuple[float, int, str]  # of AWP: gamma, epochs of warm-up, who says so


@dataclass(frozen=True)
class Preset:
    """A named configuration, seed 0, and what has to be there before it can be trained."""

    config: TrainConfig
    family: str  # `digits`, `cifar10-l2-wrn34`: presets that share a data set, threat and network
    source: str
    pair: str | None = None  # the preset that is the same without a perturbation of the weights
    control_of: str | None = None  # the AWP preset that this one is a stronger control of
    teacher: str | None = None  # the preset whose network labels the extra images
    extra_n: int | None = None  # at most so many of them
    start_from: str | None = None  # the preset whose network fine-tuning starts from
    supplied: str = ""  # the file that a call has to give, as a flag and its meaning


# ---------------------------------------------------------------- the presets of a family

_HERE = "settings of this project"
_CHOSEN_CONTROL = "settings chosen on validation images, results/choices"


def _family(
    name: str,
    configs: Mapping[str, TrainConfig],
    strengths: Mapping[str, Strength],
    source: str,
    needs: Mapping[str, Mapping[str, Any]],
    *,
    suffix: str = "",
    random: bool = False,
) -> dict[str, Preset]:
    """Name -> preset: each method without and, where a strength is known, with perturbed weights.

    configs, strengths and needs (fields of Preset) are by method. random: whether the random direction
    is offered too.
    """
    made = {}
    for method, config in configs.items():
        vanilla = f"{name}-{method}{suffix}"
        own = needs.get(method, {})
        made[vanilla] = Preset(config, name, _joined(OBJECTIVES[method].source, source), **own)
        if method not in strengths:
            continue
        gamma, warm_up, why = strengths[method]
        kinds = {"awp": ("adversarial", why), "rwp": ("random", "gamma of AWP")}
        for kind in kinds if random else ("awp",):
            direction, said = kinds[kind]
            made[f"{name}-{method}-{kind}{suffix}"] = replace(
                made[vanilla],
                config=recipes.with_awp(config, gamma=gamma, warm_up=warm_up, direction=direction),
                source=_joined("arXiv 2004.05884", source, said),
                pair=vanilla,
            )
    return made


def _joined(*parts: str) -> str:
    return "; ".join(filter(None, parts))


def _controls(made: dict[str, Preset], name: str, **stronger: Any) -> dict[str, Preset]:
    """What AT can do with AWP's compute and, where chosen, with as many tried settings as AWP had."""
    at, awp = made[f"{name}-at"], made[f"{name}-at-awp"]
    longer = replace(at, config=recipes.equal_compute(awp.config), control_of=f"{name}-at-awp")
    found = {f"{name}-at-equal-compute": longer}
    if stronger:
        found[f"{name}-at-best-vanilla"] = replace(
            longer,
            config=recipes.best_vanilla(at.config, **stronger),
            source=_joined(at.source, _CHOSEN_CONTROL),
        )
    return found


def _digits() -> dict[str, Preset]:
    # Ten digits are few to share out: 0 to 4 teach, 5 to 9 are learnt from half as many images.
    first = refitted(recipes.DIGITS, dataset="digits-0to4", n_validation=100)
    second = refitted(recipes.DIGITS, dataset="digits-5to9", n_train=100)
    tuned = recipes.fine_tuning(second, first, epochs=50, lr=0.05)
    made = _family(
        "digits",
        recipes.methods(recipes.DIGITS) | {"pretrain": tuned},
        {
            "at": (0.02, 33, CHOSEN),
            "trades": (0.01, 33, CHOSEN),
            "mart": (0.02, 33, CHOSEN),
            "rst": (0.005, 17, CHOSEN),
            "pretrain": (0.02, 17, CHOSEN),
        },
        _HERE,
        {"rst": {"teacher": "digits-natural"}, "pretrain": {"start_from": "digits-0to4-at"}},
        random=True,
    )
    # The largest weight decay of the grid: an even larger one was not tried.
    made |= _controls(made, "digits", weight_decay=1e-2)
    return made | {"digits-0to4-at": replace(made["digits-at"], config=first)}


def _fashion(name: str, at: TrainConfig, epochs: int, strength: Strength) -> dict[str, Preset]:
    """All of Fashion-MNIST or few images of it; epochs of fine-tuning, strength of AWP on AT."""
    first = refitted(at, dataset="fashion_mnist-0to4")
    second = refitted(at, dataset="fashion_mnist-5to9")
    subset = at.n_train is not None
    gamma, warm_up, _ = strength
    other, halved = (gamma, warm_up, UNCHOSEN), (gamma, warm_up // 2, UNCHOSEN)
    unlabelled: dict[str, object] = {"teacher": f"{name}-natural", "extra_n": 20_000}
    if not subset:  # every image has its label already
        unlabelled = {"supplied": "--extra FILE: pseudo-labelled images, 28x28 grey"}
    made = _family(
        name,
        recipes.methods(at)
        | {"pretrain": recipes.fine_tuning(second, first, epochs=epochs, lr=0.05)},
        {"at": strength, "trades": other, "mart": other, "rst": halved, "pretrain": halved},
        _HERE,
        {"rst": unlabelled, "pretrain": {"start_from": f"{name}-0to4-at"}},
    )
    made |= _controls(made, name, **({"weight_decay": 2e-3} if subset else {}))
    return made | {f"{name}-0to4-at": replace(made[f"{name}-at"], config=first)}


def _cifar10_first(name: str, at: TrainConfig, strength: Strength) -> dict[str, Preset]:
    """Natural training and AT on the first images of CIFAR-10's training batches."""
    configs = {k: v for k, v in recipes.methods(at).items() if k in ("natural", "at")}
    return _family(name, configs, {"at": strength}, _HERE, {}, random=True)


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
_IMAGENET = "--start FOLDER: a WRN-28-10 trained on downsampled ImageNet"


def _large(dataset: str, norm: str, network: str) -> dict[str, Preset]:
    """CIFAR and SVHN as in the AWP paper's code, and as in the methods' own; norm: nothing or `-l2`."""
    name, start = dataset + norm + network, recipes.LARGE[_STARTS[dataset]]
    own = recipes.UNDER_L2 if norm else {}
    at = refitted(recipes.LARGE[dataset], arch=NETWORKS[network], **own)
    third_party = "gamma of a third party's code, ChaojianYu/Robust-Weight-Perturbation"
    strengths = {
        # SVHN under linf collapses without a warm-up.
        "at": (0.01, 5 if dataset == "svhn" and not norm else 0, _AWP_CODE),
        # Its AWP begins in the 10th epoch, counted from 1.
        "trades": (0.005, 9, UNCHOSEN if dataset == "svhn" else _AWP_CODE),
        "mart": (0.005, 5, UNCHOSEN),
        # There 10 epochs, of 50,000 images each.
        "rst": (0.005, 5, third_party if dataset == "cifar10" else UNCHOSEN),
        "pretrain": (0.005, 0, UNCHOSEN),
    }
    needs = {
        "rst": {"supplied": _UNLABELLED[dataset]},
        "pretrain": {"start_from": f"{_STARTS[dataset]}{norm}{network}-at"},
    }
    tuned = recipes.fine_tuning(at, start, epochs=5, lr=0.001)
    shared = "shared settings as in code csdongxian/AWP"
    methods = recipes.methods(at) | {"pretrain": tuned}
    made = _family(name, methods, strengths, shared, needs)
    if not (norm or network):
        made |= _controls(made, name)
    published = {m: make(methods[m]) for m, make in _PUBLISHED.get(name, {}).items()}
    needs |= {"pretrain": {"supplied": _IMAGENET}}
    made |= _family(name, published, strengths, "", needs, suffix="-paper")
    if name == "cifar10-wrn34":
        original = Preset(recipes.trades_of_2019(methods["trades"]), name, "code yaodongyu/TRADES")
        made[f"{name}-trades-original-paper"] = original
    return made


# Family -> the methods whose published settings are not the shared ones, made from those.
_PUBLISHED: dict[str, dict[str, Callable[[TrainConfig], TrainConfig]]] = {
    "cifar10": {"mart": recipes.mart_of_2020},
    "cifar10-wrn34": {"trades": recipes.trades_of_awp, "mart": recipes.mart_of_2020},
    "cifar10-l2-wrn34": {"trades": recipes.trades_of_awp},
    "cifar100-wrn34": {"trades": recipes.trades_of_awp},
    "cifar100-l2-wrn34": {"trades": recipes.trades_of_awp},
    "cifar10-wrn28": {"rst": recipes.rst_of_2019, "pretrain": recipes.pretrain_of_2019},
}

FAMILIES: dict[str, Callable[[], dict[str, Preset]]] = {
    "digits": _digits,
    "fashion_mnist-subset": partial(
        _fashion, "fashion_mnist-subset", recipes.FASHION_SUBSET, 40, (0.01, 13, CHOSEN)
    ),
    "fashion_mnist": partial(_fashion, "fashion_mnist", recipes.FASHION, 10, (0.01, 5, UNCHOSEN)),
    "cifar10-first5085": partial(
        _cifar10_first, "cifar10-first5085", recipes.CIFAR10_FIRST, (0.01, 7, UNCHOSEN)
    ),
    "cifar10-first5085-prn18w16": partial(
        _cifar10_first,
        "cifar10-first5085-prn18w16",
        recipes.CIFAR10_FIRST_NARROW,
        (0.01, 0, _AWP_CODE),
    ),
    **{
        dataset + norm + network: partial(_large, dataset, norm, network)
        for dataset in recipes.LARGE
        for norm in ("", "-l2")
        for network in NETWORKS
    },
}
# Run of the AWP paper's own logs -> the preset of the same recipe.
OFFICIAL = {
    f"{dataset}_{norm or 'linf'}/{network or 'preactresnet18'}_{kind}": "-".join(
        filter(None, (dataset, norm, network, "at", kind.replace("standard", "")))
    )
    for dataset, norm, network in (
        ("cifar10", "", ""), ("cifar10", "", "wrn34"), ("cifar10", "l2", ""),
        ("cifar100", "", ""), ("cifar100", "l2", ""), ("svhn", "", ""), ("svhn", "l2", ""),
    )
    for kind in ("standard", "awp")
}  # fmt: skip


# ---------------------------------------------------------------- finding


@cache
def family(name: str) -> dict[str, Preset]:
    """The presets of a family, by name; InvalidInput suggests a family."""
    if name not in FAMILIES:
        raise unknown_name("family of presets", name, FAMILIES, listed=LIST)
    return FAMILIES[name]()


def every() -> dict[str, Preset]:
    """All presets that a name can be asked for."""
    return {name: preset for each in FAMILIES for name, preset in family(each).items()}


def find(name: str) -> Preset:
    """The preset of a name; InvalidInput suggests the nearest."""
    for each in FAMILIES:
        if name.startswith(f"{each}-") and (preset := family(each).get(name)):
            return preset
    raise unknown_name("preset", name, every(), listed=LIST)


def family_for(dataset: str, given: str | None) -> str:
    """The family that `all` trains: the one given, or the one that has the data set's name."""
    if given is None and dataset not in FAMILIES and (dataset in DATASETS or ":" in dataset):
        raise InvalidInput(without_presets(dataset) + ", or all of a family's with --family FAMILY")
    return given or dataset


def without_presets(dataset: str) -> str:
    """What to do with a data set that has no presets of its own."""
    return (
        f"{dataset[:200]} has no presets of its own: train one of another data set on it with "
        f"python -m awp_train run PRESET --dataset {dataset[:200]}"
    )


def trained_for(name: str, *, controls: bool) -> list[str]:
    """The presets that are trained for a family: natural, and each method without and with AWP.

    controls: also the random direction and the stronger controls. InvalidInput suggests a family.
    """
    kinds = ("", "-awp", "-rwp") if controls else ("", "-awp")
    wanted = [f"{name}-natural"]
    wanted += [f"{name}-{method}{kind}" for method in METHODS for kind in kinds]
    wanted += [name + control for control in CONTROLS if controls]
    return [each for each in wanted if each in family(name)]


# ---------------------------------------------------------------- what a run is called, and needs


def run_name(name: str, config: TrainConfig) -> str:
    """`digits-at-awp-s0`; what differs from the preset stands in between, as `-epochs=3`."""
    base = find(name).config
    changed = changes(config, base) | _foreign_files(name, config)
    if config.arch != base.arch:
        changed.pop("arch_args", None)
    settings = safe_name(name + "".join(f"-{k}={v}" for k, v in changed.items()))
    if len(settings) > 80:
        settings = f"{settings[:70]}-{content_hash(changed)[:8]}"
    return f"{settings}-s{config.seed}"


def pair_name(name: str, config: TrainConfig) -> str | None:
    """The run name of the vanilla twin; None for a vanilla run."""
    return run_name(find(name).pair or name, pair_of(config)) if config.awp else None


def control_name(name: str, config: TrainConfig) -> str | None:
    """The run name of the AWP run that this one is a stronger control of; None for others."""
    preset = find(name)
    if preset.control_of is None or config.awp is not None:
        return None
    own = ("epochs", "recipe")
    changed = {k: v for k, v in config if k not in own and v != getattr(preset.config, k)}
    return run_name(preset.control_of, find(preset.control_of).config.model_copy(update=changed))


def teacher_of(name: str, config: TrainConfig) -> tuple[str, TrainConfig] | None:
    """Preset and configuration of the run that labels this one's extra images, where one does.

    It has the same seed and split, so that no image it learns from is among the extra ones.
    """
    shared = ("dataset", "own", "train_indices", "n_train", "n_validation")
    return _needed(find(name).teacher, config, *shared)


def start_of(name: str, config: TrainConfig) -> tuple[str, TrainConfig] | None:
    """Preset and configuration of the run whose network this one starts from, where one does."""
    return _needed(find(name).start_from, config, "threat", "mean", "std")


def _needed(
    needed: str | None, config: TrainConfig, *shared: str
) -> tuple[str, TrainConfig] | None:
    """A preset with the seed, network and shared fields of the run that needs it."""
    if needed is None:
        return None
    network = {"arch": config.arch, "arch_args": config.arch_args}
    fields = {field: getattr(config, field) for field in ("seed", *shared)}
    return needed, refitted(find(needed).config.model_copy(update=network), **fields)


def _foreign_files(name: str, config: TrainConfig) -> dict[str, str]:
    """The files of a run that are not the ones its preset would make for it."""
    changed = {}
    if config.extra is not None:
        teacher = teacher_of(name, config)
        if teacher and not config.extra.file.startswith(f"{run_name(*teacher)}-last"):
            changed["extra"] = config.extra.file
        if config.extra.fraction != 0.5:
            changed["extra.fraction"] = str(config.extra.fraction)
    if config.start is not None:
        start = start_of(name, config)
        if start and config.start.name != f"{run_name(*start)}-last":
            changed["start"] = config.start.name
    return changed
