"""PRESETS: a complete TrainConfig for each published or recommended run, with source and cost.

A name is `<data set>[-subset][-l2][-<network>]-<method>[-awp|-rwp]`, then `-paper` where the method's
own settings are meant, or the name of a stronger control. The default network is left out.
"""

from __future__ import annotations

from awp_train import recipes
from awp_train.families import (
    CHOSEN,
    CONTROLS,
    METHODS,
    NETWORKS,
    UNCHOSEN,
    Preset,
    Strength,
    digits,
    fashion,
    large,
)
from awp_train.recipes import changes, pair_of, refitted
from bench.catalogue import unknown_name
from bench.schema import TrainConfig, safe_name
from bench.schema.frozen import content_hash

LIST = "python -m awp_train list"

PRESETS: dict[str, Preset] = {
    **digits(),
    **fashion(
        "fashion_mnist-subset", recipes.fashion_mnist_subset(), 40, Strength(0.01, 13, CHOSEN)
    ),
    **fashion("fashion_mnist", recipes.fashion_mnist(), 10, Strength(0.01, 5, UNCHOSEN)),
    **{
        name: preset
        for dataset in recipes.LARGE
        for norm in ("linf", "l2")
        for network in NETWORKS
        for name, preset in large(dataset, norm, network).items()
    },
}


# ---------------------------------------------------------------- finding and naming


def find(name: str) -> Preset:
    """The preset of a name; InvalidInput suggests the nearest."""
    if name not in PRESETS:
        raise unknown_name("preset", name, PRESETS, listed=LIST)
    return PRESETS[name]


def family_of(name: str, *, controls: bool) -> list[str]:
    """The presets that are trained for a family: natural, and each method without and with AWP.

    controls: also the random direction and the stronger controls. InvalidInput suggests a family.
    """
    families = dict.fromkeys(preset.family for preset in PRESETS.values())
    if name not in families:
        raise unknown_name("family of presets", name, families, listed=LIST)
    kinds = ("", "-awp", "-rwp") if controls else ("", "-awp")
    wanted = [f"{name}-natural"]
    wanted += [f"{name}-{method}{kind}" for method in METHODS for kind in kinds]
    wanted += [name + control for control in CONTROLS if controls]
    return [each for each in wanted if each in PRESETS]


def twin(name: str) -> str:
    """The name of the preset that is the same without AWP."""
    return find(name).pair or name


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
    return run_name(twin(name), pair_of(config)) if config.awp else None


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
    teacher = find(name).teacher
    if teacher is None:
        return None
    like = {"n_train": config.n_train, "n_validation": config.n_validation}
    return teacher, _like(config, teacher, **like)


def start_of(name: str, config: TrainConfig) -> tuple[str, TrainConfig] | None:
    """Preset and configuration of the run whose network this one starts from, where one does."""
    start = find(name).start_from
    if start is None:
        return None
    same = {"threat": config.threat, "mean": config.mean, "std": config.std}
    return start, _like(config, start, **same)


def _like(config: TrainConfig, needed: str, **fields: object) -> TrainConfig:
    """The configuration of a needed preset with the seed and network of the run that needs it."""
    network = {"arch": config.arch, "arch_args": config.arch_args}
    return refitted(find(needed).config.model_copy(update=network), seed=config.seed, **fields)


def _foreign_files(name: str, config: TrainConfig) -> dict[str, str]:
    """The files of a run that are not the ones its preset would make for it."""
    preset, changed = find(name), {}
    if config.extra is not None:
        teacher = teacher_of(name, config)
        if teacher and not config.extra.file.startswith(f"{run_name(*teacher)}-last"):
            changed["extra"] = config.extra.file
        if config.extra.fraction != 0.5:
            changed["extra.fraction"] = str(config.extra.fraction)
    if config.start is not None and preset.start_from:
        start = start_of(name, config)
        if start and config.start.name != f"{run_name(*start)}-last":
            changed["start"] = config.start.name
    return changed
