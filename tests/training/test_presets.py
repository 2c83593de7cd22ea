"""Presets: each can be trained, twins differ in AWP only, names tell what runs are, cost is counted."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
from torch import nn

import models
from awp_train import passes, recipes
from awp_train.checks import check, check_settings
from awp_train.families import CHOSEN, UNCHOSEN
from awp_train.flags import configured
from awp_train.listing import WIDTH, listing
from awp_train.objectives import OBJECTIVES
from awp_train.presets import (
    METHODS,
    PRESETS,
    control_name,
    family_of,
    find,
    pair_name,
    pair_of,
    run_name,
    start_of,
    teacher_of,
    twin,
)
from bench.schema import AwpConfig, ExtraData, InvalidInput, StartingPoint, ThreatModel, TrainConfig

FAMILIES = tuple(dict.fromkeys(preset.family for preset in PRESETS.values()))
DIGITS = PRESETS["digits-at-awp"].config
EXTRA = ExtraData(file="digits-natural-s0-last-pseudo.npz", sha256="0" * 64, n=397)
START = StartingPoint(name="digits-0to4-at-s0-last", weights_sha256="0" * 64)


def every_preset(test: Callable[[str], None]) -> Callable[[str], None]:
    """Runs a test of one preset on all of a family: a test a family, not one a preset."""

    @pytest.mark.parametrize("family", FAMILIES)
    def of_family(family: str) -> None:
        names = [name for name, preset in PRESETS.items() if preset.family == family]
        for name in names:
            test(name)

    # Not functools.wraps: pytest would see the parameter of the test inside.
    of_family.__doc__ = test.__doc__
    return of_family


def completed(config: TrainConfig) -> TrainConfig:
    """As it is trained: with extra images and a starting point where its method wants them."""
    files = {"rst": {"extra": EXTRA}, "pretrain": {"start": START}}
    return config.model_copy(update=files.get(config.objective, {}))


@every_preset
def test_presets_can_be_trained(name):
    preset = find(name)
    check_settings(preset.config)
    check(completed(preset.config))
    assert TrainConfig.model_validate_json(preset.config.model_dump_json()) == preset.config
    assert preset.config.seed == 0
    assert name.startswith(f"{preset.family}-")
    assert preset.source and preset.description or preset.config.objective == "natural"
    assert preset.cost.endswith(("(measured)", "(estimated)"))


@every_preset
def test_twins_differ_in_awp_only(name):
    config = find(name).config
    vanilla = find(twin(name)).config
    assert vanilla.awp is None
    assert vanilla == pair_of(config)
    assert {k for k, v in config if v != getattr(vanilla, k)} <= {"awp"}
    assert bool(re.search(r"-(awp|rwp)(-|$)", name)) == (config.awp is not None)
    assert twin(name) == re.sub(r"-(awp|rwp)(?=-|$)", "", name)
    if config.awp is not None:
        direction = "random" if "-rwp" in name else "adversarial"
        assert config.awp.direction == direction
        awp = find(name.replace("-rwp", "-awp")).config.awp
        assert config.awp == awp.model_copy(update={"direction": direction})


@every_preset
def test_a_preset_says_who_chose_gamma(name):
    preset = find(name)
    said = [text for text in (CHOSEN, UNCHOSEN, "gamma of AWP", "gamma as in code", "third party")
            if text in preset.source]  # fmt: skip
    assert len(said) == (preset.config.awp is not None)


@every_preset
def test_names_say_network_threat_and_recipe(name):
    config, words = find(name).config, name.split("-")
    assert config.threat.norm == ("l2" if "l2" in words else "linf")
    wide = {"wrn34": "wide_resnet34_10", "wrn28": "wide_resnet28_10", "vgg19": "vgg19_bn"}
    small = config.dataset.startswith(("digits", "fashion"))
    default = "small_cnn" if small else "preact_resnet18"
    assert config.arch == next((wide[w] for w in words if w in wide), default)
    recipe = re.search("paper$|equal-compute$|best-vanilla$", name)
    assert config.recipe == (recipe.group() if recipe else "matched")
    if config.objective in ("trades", "mart", "rst"):
        assert config.craft_mode == "eval"
    elif not small:
        assert config.craft_mode == "train"


def test_every_method_has_both_presets_everywhere():
    for family in FAMILIES:
        names = family_of(family, controls=False)
        assert names == [
            f"{family}-natural",
            *(f"{family}-{method}{kind}" for method in METHODS for kind in ("", "-awp")),
        ]
    controls = set(family_of("digits", controls=True)) - set(family_of("digits", controls=False))
    assert controls == {
        *(f"digits-{method}-rwp" for method in METHODS),
        "digits-at-equal-compute",
        "digits-at-best-vanilla",
    }
    with pytest.raises(InvalidInput, match="Did you mean 'digits'"):
        family_of("digit", controls=False)


def test_the_paper_recipe():
    config = PRESETS["cifar10-at-awp"].config
    assert (config.arch, config.epochs, config.batch) == ("preact_resnet18", 200, 128)
    assert (config.lr, config.momentum, config.weight_decay) == (0.1, 0.9, 5e-4)
    assert config.milestones == (0.5, 0.75)
    assert config.augment == "crop-flip"
    assert config.threat == ThreatModel.parse("linf:8/255")
    assert config.attack_steps == 10
    assert step_in_255(config) == 2
    assert config.awp == AwpConfig(gamma=0.01, warm_up=0)
    assert config.craft_mode == "train"


def step_in_255(config: TrainConfig) -> float:
    return round(float(config.threat.fraction * 255 * Fraction(config.attack_relative_step)), 9)


def test_published_settings():
    svhn, l2 = find("svhn-at-awp").config, find("cifar100-l2-wrn34-trades-awp").config
    assert (svhn.lr, svhn.augment, svhn.mean, svhn.std) == (0.01, "none", (0.5,) * 3, (0.5,) * 3)
    assert step_in_255(svhn) == 1
    assert svhn.awp == AwpConfig(gamma=0.01, warm_up=5)
    assert find("svhn-l2-at-awp").config.awp == AwpConfig(gamma=0.01)
    assert (str(l2.threat), step_in_255(l2)) == (str(ThreatModel.parse("l2:128/255")), 15)
    assert (l2.beta, l2.awp) == (6, AwpConfig(gamma=0.005, warm_up=9))
    mart = find("cifar10-wrn34-mart-paper").config
    assert (mart.beta, mart.epochs, mart.weight_decay, mart.mean) == (6, 90, 7e-4, None)
    assert find("cifar10-mart-paper").config.beta == 5
    assert float(mart.threat.fraction) * mart.attack_relative_step == pytest.approx(0.007)
    rst = find("cifar10-wrn28-rst-awp-paper").config
    assert (rst.batch, rst.schedule, rst.nesterov, rst.epochs) == (256, "cosine", True, 100)
    tuned = find("cifar10-wrn28-pretrain-paper").config
    assert (tuned.epochs, tuned.lr, tuned.mean) == (5, 0.001, (0.5,) * 3)
    assert find("cifar10-wrn34-trades-original-paper").config.weight_decay == 2e-4


# ---------------------------------------------------------------- names


def test_run_names_tell_what_differs_from_the_preset():
    def name(**given: str) -> str:
        given = {k.replace("awp_", "awp."): v for k, v in given.items()}
        config = configured(DIGITS, given)
        return f"{run_name('digits-at-awp', config)} {pair_name('digits-at-awp', config)}"

    assert name() == "digits-at-awp-s0 digits-at-s0"
    assert name(seed="3") == "digits-at-awp-s3 digits-at-s3"
    assert name(epochs="40") == "digits-at-awp-epochs=40-s0 digits-at-epochs=40-s0"
    assert name(awp_gamma="0.04") == "digits-at-awp-awp.gamma=0.04-s0 digits-at-s0"
    assert name(arch="cnn_a") == "digits-at-awp-arch=cnn_a-s0 digits-at-arch=cnn_a-s0"
    assert name(threat="linf:8/255").startswith("digits-at-awp-threat=linf-8-255-s0 ")
    assert pair_name("digits-at", find("digits-at").config) is None
    many = dict.fromkeys(("lr", "momentum", "weight_decay", "attack_relative_step"), "0.125")
    one, other = (configured(DIGITS, many | {"batch": b}) for b in ("25", "20"))
    names = {run_name("digits-at-awp", c) for c in (one, other)}
    assert len(names) == 2
    assert all(len(n) <= 90 and n.endswith("-s0") for n in names)


def test_files_that_a_preset_makes_itself_are_not_in_the_name():
    rst, tuned = find("digits-rst-awp").config, find("digits-pretrain-awp").config
    made = rst.model_copy(update={"extra": EXTRA})
    assert (
        run_name("digits-rst-awp", made) == run_name("digits-rst-awp", rst) == "digits-rst-awp-s0"
    )
    assert pair_name("digits-rst-awp", made) == "digits-rst-s0"
    other = EXTRA.model_copy(update={"file": "mine.npz", "fraction": 0.25})
    named = run_name("digits-rst", rst.model_copy(update={"extra": other, "awp": None}))
    assert named == "digits-rst-extra=mine.npz-extra.fraction=0.25-s0"
    started = tuned.model_copy(update={"start": START})
    assert run_name("digits-pretrain-awp", started) == "digits-pretrain-awp-s0"
    mine = tuned.model_copy(update={"start": StartingPoint(name="mine", weights_sha256="0" * 64)})
    assert run_name("digits-pretrain-awp", mine) == "digits-pretrain-awp-start=mine-s0"


def test_a_teacher_has_the_seed_and_split_of_the_run_it_labels_for():
    config = configured(find("digits-rst").config, {"seed": "4", "n_train": "100", "epochs": "7"})
    name, teacher = teacher_of("digits-rst", config)
    assert name == "digits-natural"
    assert (teacher.seed, teacher.n_train, teacher.n_validation) == (4, 100, 200)
    assert teacher.epochs == find("digits-natural").config.epochs
    name, start = start_of("digits-pretrain", configured(find("digits-pretrain").config, {
        "seed": "4", "arch_args": "width=8", "threat": "linf:0.1"}))  # fmt: skip
    assert (name, start.dataset, start.seed) == ("digits-0to4-at", "digits-0to4", 4)
    assert (start.arch_args["width"], str(start.threat)) == (8, "linf:0.1")
    assert start.n_train == find(name).config.n_train
    assert teacher_of("digits-at", DIGITS) is None
    assert start_of("digits-at", DIGITS) is None


@every_preset
def test_what_a_preset_needs_can_be_trained_first(name):
    preset = find(name)
    wants = preset.config.objective
    assert bool(preset.teacher or "--extra" in preset.supplied) == (wants == "rst")
    assert bool(preset.start_from or "--start" in preset.supplied) == (wants == "pretrain")
    for need in (teacher_of(name, preset.config), start_of(name, preset.config)):
        if need is not None:
            check(need[1])
            assert need[1] == find(need[0]).config
            assert need[1].arch == preset.config.arch


# ---------------------------------------------------------------- stronger controls


def test_equal_compute_never_has_less_and_hardly_more_than_awp():
    for name, preset in PRESETS.items():
        if not name.endswith("equal-compute"):
            continue
        awp = find(preset.control_of).config
        assert preset.config == recipes.equal_compute(awp)
        epoch = passes.training_passes(pair_of(awp)) // awp.epochs
        assert 0 <= passes.training_passes(preset.config) - passes.training_passes(awp) < epoch


def test_controls_name_the_awp_run_they_are_of():
    for name in ("digits-at-equal-compute", "digits-at-best-vanilla"):
        config = find(name).config
        assert control_name(name, config) == "digits-at-awp-s0"
        changed = configured(config, {"seed": "3", "n_train": "100"})
        assert control_name(name, changed) == "digits-at-awp-n_train=100-s3"
    assert control_name("digits-at", find("digits-at").config) is None


# ---------------------------------------------------------------- cost


def test_passes_of_a_step_by_hand():
    def cost(name: str, perturbed: bool = True, **awp: object) -> int:
        config = find(name).config
        if awp:
            config = config.model_copy(update={"awp": config.awp.model_copy(update=awp)})
        return passes.step_passes(config, perturbed=perturbed)

    # 10 steps of PGD: 20. Loss of one forward pass: 3. TRADES forwards twice, and once before PGD.
    assert cost("cifar10-natural") == 3
    assert cost("cifar10-at") == 23
    assert cost("cifar10-at-awp") == 26
    assert cost("cifar10-at-awp", perturbed=False) == 23
    assert cost("cifar10-at-awp", steps=2) == 29
    assert cost("cifar10-at-awp", alternations=2) == 2 * 23 + 3
    assert cost("cifar10-trades") == 21 + 6
    assert cost("cifar10-trades-awp") == 21 + 6 + 6
    assert cost("cifar10-mart") == 20 + 6
    assert cost("digits-at-rwp") == 17
    for name, objective in OBJECTIVES.items():
        config = find(f"cifar10-{name}").config
        assert passes.step_passes(config, perturbed=False) - passes.crafting_passes(config) == (
            3 * objective.passes
        )


def test_passes_of_a_run_by_hand():
    assert passes.training_passes(find("digits-at").config) == 200 * 100 * 17
    assert passes.training_passes(DIGITS) == 200 * (100 * 17 + 67 * 3)
    rst = find("digits-rst").config
    assert passes.training_passes(rst) == 400 * 50 * 21
    quarter = EXTRA.model_copy(update={"fraction": 0.75})
    assert passes.images_of_an_epoch(rst.model_copy(update={"extra": quarter})) == 800
    assert passes.validation_passes(find("digits-at").config) == 400 * 20 * 16


def test_gpu_hours_by_hand():
    config = find("cifar10-at").config
    images = 200 * (49_000 * 23 + 2000 * 22)
    hours = images * 2 * 0.555e9 / 80e12 / 3600
    fewest, most = passes.gpu_hours(config)
    assert fewest == pytest.approx(hours, rel=0.002)
    assert most == 2 * fewest


@pytest.mark.parametrize("arch", passes.FORWARD_MACS)
def test_multiplications_of_a_forward_pass(arch):
    total = 0

    def count(module: nn.Module, _: object, y: torch.Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            total += y.numel() * module.weight[0].numel()
        if isinstance(module, nn.Linear):
            total += module.weight.numel()

    with torch.device("meta"):
        net = models.build(arch, {"in_channels": 3, "num_classes": 10}).eval()
        for module in net.modules():
            module.register_forward_hook(count)
        net(torch.zeros(1, 3, 32, 32))
    assert total == passes.FORWARD_MACS[arch]


# ---------------------------------------------------------------- the list


def test_the_list_has_every_preset_its_cost_and_its_sources():
    text = listing()
    lines = text.splitlines()
    assert max(map(len, lines)) <= WIDTH
    rows = {line.split()[0]: line for line in lines if line.startswith("  ") and line[2] != " "}
    assert list(rows) == list(PRESETS)
    for name, row in rows.items():
        assert PRESETS[name].cost in row
        for part in PRESETS[name].source.split("; "):
            assert part in text
    headings = [
        line.split(":")[0] for line in lines if line and not line.startswith((" ", "[", "GPU"))
    ]
    assert set(headings) >= {preset.family for preset in PRESETS.values()}


def test_a_part_of_the_list():
    text = listing("cifar10-l2")
    assert text.startswith(
        "cifar10-l2: all images of cifar10, l2:128/255, preact_resnet18, 200 epochs\n"
    )
    assert "svhn" not in text and "digits" not in text
    assert "cifar10-wrn34-at " in listing("cifar10")
    with pytest.raises(InvalidInput, match="Did you mean 'cifar10'"):
        listing("cifar-10")
