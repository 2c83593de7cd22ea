"""Presets: each can be trained, twins differ in AWP only, names tell what runs are, cost is counted."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from torch import nn

from awp_train import passes, recipes
from awp_train.checks import check, check_settings
from awp_train.flags import configured
from awp_train.listing import NOT_SHOWN, WIDTH, listing
from awp_train.presets import (
    CHOSEN,
    FAMILIES,
    METHODS,
    UNCHOSEN,
    control_name,
    every,
    family,
    find,
    pair_name,
    pair_of,
    run_name,
    start_of,
    teacher_of,
    trained_for,
)
from bench import models
from bench.schema import AwpConfig, ExtraData, InvalidInput, StartingPoint, ThreatModel, TrainConfig

KNOWN = json.loads((Path(__file__).parents[1] / "fixtures/presets.json").read_text())
EXTRA = ExtraData(file="digits-natural-s0-last-pseudo.npz", sha256="0" * 64, n=397)
START = StartingPoint(name="digits-0to4-at-s0-last", weights_sha256="0" * 64)
FILES = {"rst": {"extra": EXTRA}, "pretrain": {"start": START}}


def config(name: str) -> TrainConfig:
    return find(name).config


def test_every_name_ever_given_still_means_the_same_configuration():
    def hashed(config: TrainConfig) -> str:
        text = json.dumps(json.loads(config.model_dump_json()), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    assert len(KNOWN) == 338
    assert {name: hashed(config(name)) for name in KNOWN} == KNOWN
    assert {*KNOWN} <= {*every()}


# One test a family, not one a preset.
@pytest.mark.parametrize("of", FAMILIES)
def test_presets_can_be_trained_after_what_they_need(of):
    for name, preset in family(of).items():
        own, wants = preset.config, preset.config.objective
        check_settings(own)
        check(own.model_copy(update=FILES.get(wants, {})))
        assert TrainConfig.model_validate_json(own.model_dump_json()) == own
        assert own.seed == 0 and preset.family == of and preset.source
        assert bool(preset.teacher or "--extra" in preset.supplied) == (wants == "rst")
        assert bool(preset.start_from or "--start" in preset.supplied) == (wants == "pretrain")
        for need in (teacher_of(name, own), start_of(name, own)):
            if need is not None:
                check(need[1])
                assert need[1] == config(need[0]) and need[1].arch == own.arch


@pytest.mark.parametrize("of", FAMILIES)
def test_names_say_what_presets_are(of):
    for name, preset in family(of).items():
        own, words = preset.config, name.split("-")
        assert own.threat.norm == ("l2" if "l2" in words else "linf")
        wide = {"wrn34": "wide_resnet34_10", "wrn28": "wide_resnet28_10", "vgg19": "vgg19_bn",
                "prn18w16": "preact_resnet18"}  # fmt: skip
        small = own.dataset.startswith(("digits", "fashion")) or of == "cifar10-first5085"
        default = "small_cnn" if small else "preact_resnet18"
        assert own.arch == next((wide[w] for w in words if w in wide), default)
        recipe = re.search("paper$|equal-compute$|best-vanilla$", name)
        assert own.recipe == (recipe.group() if recipe else "matched")
        if own.objective in ("trades", "mart", "rst"):
            assert own.craft_mode == "eval"
        elif not small:
            assert own.craft_mode == "train"
        # The twin differs in awp alone, and who chose gamma is said exactly once.
        assert bool({"awp", "rwp"} & {*words}) == (own.awp is not None)
        assert preset.pair == (re.sub(r"-(awp|rwp)(?=-|$)", "", name) if own.awp else None)
        vanilla = config(preset.pair or name)
        assert vanilla == pair_of(own) and vanilla.awp is None
        said = (CHOSEN, UNCHOSEN, "gamma of AWP", "gamma as in code", "third party")
        assert sum(text in preset.source for text in said) == (own.awp is not None)
        if own.awp is not None:
            direction = "random" if "rwp" in words else "adversarial"
            awp = config(name.replace("-rwp", "-awp")).awp
            assert own.awp == awp.model_copy(update={"direction": direction})


def test_every_method_has_both_presets_everywhere():
    for of in FAMILIES:
        methods = ("at",) if "first5085" in of else METHODS
        pairs = [f"{of}-{method}{kind}" for method in methods for kind in ("", "-awp")]
        assert trained_for(of, controls=False) == [f"{of}-natural", *pairs]
    more = {*trained_for("digits", controls=True)} - {*trained_for("digits", controls=False)}
    controls = {"digits-at-equal-compute", "digits-at-best-vanilla"}
    assert more == {f"digits-{method}-rwp" for method in METHODS} | controls
    of = "cifar10-first5085"
    assert trained_for(of, controls=True)[1:] == [f"{of}-at", f"{of}-at-awp", f"{of}-at-rwp"]
    with pytest.raises(InvalidInput, match="Did you mean 'digits'"):
        trained_for("digit", controls=False)


FIVE = "0:1017,10000:11017,20000:21017,30000:31017,40000:41017"


@pytest.mark.parametrize(
    ("of", "arch", "width", "epochs", "strength"),
    [
        ("cifar10-first5085", "small_cnn", 16, 40, (0.01, 7)),
        ("cifar10-first5085-prn18w16", "preact_resnet18", 16, 30, (0.01, 0)),
    ],
)
def test_a_subset_of_cifar10_is_named_by_its_places(of, arch, width, epochs, strength):
    for name, preset in family(of).items():
        own = preset.config
        assert (own.dataset, own.train_indices, own.n_train) == ("cifar10", FIVE, None)
        assert (own.arch, own.arch_args["width"], own.epochs) == (arch, width, epochs)
        assert (str(own.threat), own.attack_steps, own.augment) == ("linf:8/255", 7, "crop-flip")
        assert passes.images_of_an_epoch(own) == 4500
        assert run_name(name, own) == f"{name}-s0"
        if own.awp:
            assert (own.awp.gamma, own.awp.warm_up) == strength
    # What was said before there were places keeps its text.
    assert "train_indices" not in config("cifar10-at").model_dump_json()
    assert "width" not in config("cifar10-at").arch_args


def test_places_go_with_their_data_set():
    base = config("cifar10-first5085-at")
    other = configured(base, {"dataset": "svhn"})
    assert other.train_indices is None and other.dataset == "svhn"
    assert configured(base, {"dataset": "cifar10"}).train_indices == FIVE
    fewer = configured(base, {"train_indices": "0:1017"})
    assert run_name("cifar10-first5085-at", fewer) == (
        "cifar10-first5085-at-train_indices=0-1017-s0"
    )
    assert configured(base, {"train_indices": "none"}).train_indices is None
    assert configured(config("digits-at"), {"train_indices": "0:500"}).train_indices == "0:500"


def step_in_255(of: TrainConfig) -> float:
    return round(float(of.threat.fraction * 255 * Fraction(of.attack_relative_step)), 9)


HALF = (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("name", "step", "fields"),
    [
        ("cifar10-at-awp", 2, {
            "arch": "preact_resnet18", "epochs": 200, "batch": 128, "lr": 0.1, "momentum": 0.9,
            "weight_decay": 5e-4, "milestones": (0.5, 0.75), "augment": "crop-flip",
            "threat": ThreatModel.parse("linf:8/255"), "attack_steps": 10,
            "awp": AwpConfig(gamma=0.01), "craft_mode": "train"}),
        ("svhn-at-awp", 1, {
            "lr": 0.01, "augment": "none", "mean": HALF, "std": HALF,
            "awp": AwpConfig(gamma=0.01, warm_up=5)}),
        ("svhn-l2-at-awp", 15, {"awp": AwpConfig(gamma=0.01)}),
        ("cifar100-l2-wrn34-trades-awp", 15, {
            "threat": ThreatModel.parse("l2:128/255"), "beta": 6,
            "awp": AwpConfig(gamma=0.005, warm_up=9)}),
        ("cifar10-wrn34-mart-paper", 1.785, {
            "beta": 6, "epochs": 90, "weight_decay": 7e-4, "mean": None}),
        ("cifar10-mart-paper", 1.785, {"beta": 5}),
        ("cifar10-wrn28-rst-awp-paper", 1.785, {
            "batch": 256, "schedule": "cosine", "nesterov": True, "epochs": 100}),
        ("cifar10-wrn28-pretrain-paper", 2, {"epochs": 5, "lr": 0.001, "mean": HALF}),
        ("cifar10-wrn34-trades-original-paper", 1.785, {"weight_decay": 2e-4}),
    ],
)  # fmt: skip
def test_published_settings(name, step, fields):
    own = config(name)
    assert step_in_255(own) == pytest.approx(step)
    assert {field: getattr(own, field) for field in fields} == fields


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("texts", "names"),
    [
        ({}, "digits-at-awp-s0 digits-at-s0"),
        ({"seed": "3"}, "digits-at-awp-s3 digits-at-s3"),
        ({"epochs": "40"}, "digits-at-awp-epochs=40-s0 digits-at-epochs=40-s0"),
        ({"awp.gamma": "0.04"}, "digits-at-awp-awp.gamma=0.04-s0 digits-at-s0"),
        ({"arch": "cnn_a"}, "digits-at-awp-arch=cnn_a-s0 digits-at-arch=cnn_a-s0"),
        ({"threat": "linf:8/255"}, "digits-at-awp-threat=linf-8-255-s0 digits-at-threat=linf-8-255-s0"),
    ],
)  # fmt: skip
def test_run_names_tell_what_differs_from_the_preset(texts, names):
    own = configured(config("digits-at-awp"), texts)
    assert f"{run_name('digits-at-awp', own)} {pair_name('digits-at-awp', own)}" == names
    assert pair_name("digits-at", config("digits-at")) is None


def test_long_names_are_cut_and_stay_apart():
    many = dict.fromkeys(("lr", "momentum", "weight_decay", "attack_relative_step"), "0.125")
    made = [configured(config("digits-at-awp"), many | {"batch": b}) for b in ("25", "20")]
    names = {run_name("digits-at-awp", own) for own in made}
    assert len(names) == 2
    assert all(len(name) <= 90 and name.endswith("-s0") for name in names)


@pytest.mark.parametrize(
    ("preset", "files", "name"),
    [
        ("digits-rst-awp", {"extra": EXTRA}, "digits-rst-awp-s0"),
        ("digits-rst", {"extra": EXTRA.model_copy(update={"file": "mine.npz", "fraction": 0.25})},
         "digits-rst-extra=mine.npz-extra.fraction=0.25-s0"),
        ("digits-pretrain-awp", {"start": START}, "digits-pretrain-awp-s0"),
        ("digits-pretrain-awp", {"start": START.model_copy(update={"name": "mine"})},
         "digits-pretrain-awp-start=mine-s0"),
    ],
)  # fmt: skip
def test_files_that_a_preset_makes_itself_are_not_in_the_name(preset, files, name):
    made = config(preset).model_copy(update=files)
    assert run_name(preset, made) == name
    assert pair_name(preset, made) == (name.replace("-awp", "") if made.awp else None)
    assert run_name(preset, config(preset)) == f"{preset}-s0"


def test_what_a_run_needs_has_its_seed_and_what_both_share():
    own = configured(config("digits-rst"), {"seed": "4", "n_train": "100", "epochs": "7"})
    name, teacher = teacher_of("digits-rst", own)
    assert name == "digits-natural"
    assert (teacher.seed, teacher.n_train, teacher.n_validation) == (4, 100, 200)
    assert teacher.epochs == config("digits-natural").epochs
    changed = {"seed": "4", "arch_args": "width=8", "threat": "linf:0.1"}
    name, start = start_of("digits-pretrain", configured(config("digits-pretrain"), changed))
    assert (name, start.dataset, start.seed) == ("digits-0to4-at", "digits-0to4", 4)
    assert (start.arch_args["width"], str(start.threat)) == (8, "linf:0.1")
    assert start.n_train == config(name).n_train
    at = config("digits-at")
    assert teacher_of("digits-at", at) is start_of("digits-at", at) is None


# ---------------------------------------------------------------- stronger controls


def test_controls_have_the_compute_and_name_the_awp_run_they_are_of():
    controls = [n for n in every() if n.endswith("equal-compute")]
    assert len(controls) == 6
    for name in controls:
        awp, own = config(find(name).control_of), config(name)
        assert own == recipes.equal_compute(awp)
        epoch = passes.training_passes(pair_of(awp)) // awp.epochs
        assert 0 <= passes.training_passes(own) - passes.training_passes(awp) < epoch
    for name in ("digits-at-equal-compute", "digits-at-best-vanilla"):
        assert control_name(name, config(name)) == "digits-at-awp-s0"
        changed = configured(config(name), {"seed": "3", "n_train": "100"})
        assert control_name(name, changed) == "digits-at-awp-n_train=100-s3"
    assert control_name("digits-at", config("digits-at")) is None


# ---------------------------------------------------------------- cost


@pytest.mark.parametrize(
    ("name", "awp", "count"),
    [
        # 10 steps of PGD: 20. Loss of one pass: 3. TRADES passes twice, and once before PGD.
        ("cifar10-natural", {}, 3),
        ("cifar10-at", {}, 23),
        ("cifar10-at-awp", {}, 26),
        ("cifar10-at-awp", {"steps": 2}, 29),
        ("cifar10-at-awp", {"alternations": 2}, 2 * 23 + 3),
        # Robust weight perturbation passes the whole batch in every step, whatever it chooses of it.
        ("digits-at-awp", {"steps": 10, "norm": "global", "threshold": 1.7}, 14 + 10 * 3 + 3),
        ("digits-trades-awp", {"steps": 10, "norm": "global", "threshold": 1.7}, 15 + 10 * 6 + 6),
        ("cifar10-trades", {}, 21 + 6),
        ("cifar10-trades-awp", {}, 21 + 6 + 6),
        ("cifar10-mart", {}, 20 + 6),
        ("digits-at-rwp", {}, 17),
    ],
)
def test_passes_of_a_step_by_hand(name, awp, count):
    own = config(name)
    if own.awp is not None:
        assert passes.step_passes(own, perturbed=False) == passes.step_passes(
            pair_of(own), perturbed=True
        )
        own = own.model_copy(update={"awp": own.awp.model_copy(update=awp)})
    assert passes.step_passes(own, perturbed=True) == count


def test_the_cost_of_a_run_by_hand():
    at, rst, large = config("digits-at"), config("digits-rst"), config("cifar10-at")
    assert passes.training_passes(at) == 200 * 100 * 17
    assert passes.training_passes(config("digits-at-awp")) == 200 * (100 * 17 + 67 * 3)
    assert passes.training_passes(rst) == 400 * 50 * 21
    most_extra = rst.model_copy(update={"extra": EXTRA.model_copy(update={"fraction": 0.75})})
    assert passes.images_of_an_epoch(most_extra) == 800
    assert passes.validation_passes(at) == 400 * 20 * 16
    fewest, most = passes.gpu_hours(large)
    operations = 200 * (49_000 * 23 + 2000 * 22) * 2 * 0.555e9
    assert fewest == pytest.approx(operations / 80e12 / 3600, rel=0.002)
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


def rows_of(text: str) -> dict[str, str]:
    """Preset -> its line, description and footnotes on those that follow."""
    parts = re.split(r"^  (?=\S)", text.split("\n[1]")[0], flags=re.MULTILINE)[1:]
    return {part.split()[0]: " ".join(part.split("\n\n")[0].split()) for part in parts}


def test_the_list_has_every_name_and_of_those_with_a_source_cost_and_sources():
    text = listing()
    assert max(map(len, text.splitlines())) <= WIDTH
    rows, notes = rows_of(text), dict(re.findall(r"^\[(\d+)\] (.*)$", text, re.MULTILINE))
    for name, row in rows.items():
        assert re.search(r"\d (CPU|GPU) (s|h) \((measured|estimated)\)", row)
        numbers = re.findall(r"\[([\d,]+)\]", row)[0].split(",")
        assert "; ".join(notes[n] for n in numbers).startswith(f"{find(name).source}; ")
    named = Counter([*rows])
    for block in text.split("\n\n"):
        of = block.split(":")[0]
        others = re.search(r"without a source or a study: (.*?)(?=\n\S|\n\n|$)", block, re.DOTALL)
        named.update(of + suffix for suffix in (others[1].split() if others else ()))
    assert named == Counter([*every()])
    # Runs of a publication, a choice or a study are listed, and what they need.
    wanted = "digits-pretrain digits-0to4-at cifar10-at-awp svhn-at-equal-compute"
    wanted += " cifar10-wrn34-trades-original-paper fashion_mnist-subset-rst"
    assert {*wanted.split()} <= rows.keys()
    unlisted = {"cifar10-vgg19-at", "svhn-rst-awp", "fashion_mnist-trades-awp", "cifar100-natural"}
    assert not unlisted & rows.keys()


def test_a_part_of_the_list():
    text = listing("cifar10-l2")
    first = "cifar10-l2: all images of cifar10, l2:128/255, preact_resnet18, 200 epochs\n"
    assert text.startswith(first)
    assert "svhn" not in text and "digits" not in text
    assert "cifar10-wrn34-at " in listing("cifar10")
    assert "-mart-awp" in listing("cifar10-vgg19")
    with pytest.raises(InvalidInput, match="Did you mean 'cifar10'"):
        listing("cifar-10")


def test_the_list_says_which_presets_were_compared(tmp_path):
    (tmp_path / "studies").mkdir()
    runs = [f"{run},{seed}" for run in ("digits-at", "digits-at-awp") for seed in range(3)]
    (tmp_path / "studies" / "one.csv").write_text("\n".join(["run,seed", *runs]))
    (tmp_path / "studies" / "else.csv").write_text("a,b\n1,2\n")
    text = listing("digits", tmp_path)
    notes = {note: number for number, note in re.findall(r"^\[(\d+)\] (.*)$", text, re.MULTILINE)}
    compared = "compared in one (3 seeds)"
    for preset, note in (("digits-at-awp", compared), ("digits-mart", NOT_SHOWN)):
        numbers = re.findall(r"\[([\d,]+)\]", rows_of(text)[preset])[0]
        assert notes[note] in numbers.split(",")
