"""What cannot be trained is refused with the reason, and what should be known is said."""

from __future__ import annotations

import pytest

from awp_train.checks import check, check_settings, remarks
from awp_train.flags import configured, parse_fraction, parse_seeds
from awp_train.presets import find
from bench.schema import AwpConfig, ExtraData, InvalidInput, StartingPoint

DIGITS = find("digits-at-awp").config
FILES = {
    "extra": ExtraData(file="some.npz", sha256="0" * 64, n=397),
    "start": StartingPoint(name="some", weights_sha256="0" * 64),
}

VANILLA = {"awp": "none"}
REFUSED = {
    "warm_up as long as the run": ({"awp.warm_up": str(DIGITS.epochs)}, "warm-up"),
    "less than a batch": ({"n_train": "40"}, "lower --batch"),
    "too few images": ({"n_train": "700"}, "797 training images"),
    "natural with awp": ({"objective": "natural"}, "natural"),
    "places beyond the data set": ({"train_indices": "0:500,700:798"}, "leaves the 797 training"),
    "fewer places than images": ({"train_indices": "0:300"}, "300 training images in --train_ind"),
    "no threat": ({"threat": "none"}, "--threat linf:0.15"),
    "l1": ({"threat": "l1:12"}, "not against l1"),
    "milestones": ({"milestones": "50,75"}, "fractions"),
    "mean of another data set": ({"mean": "0.1,0.2,0.3", "std": "1,1,1"}, "1 values for digits"),
    "mean without std": ({"mean": "0.1"}, "go together"),
    **{
        f"{mean} and {std}": ({"mean": mean, "std": std}, f"^--{said}: .* of pixels in .0, 1.*got")
        for mean, std, said in (
            ("125", "60", "mean"),
            ("-0.1", "1", "mean"),
            ("nan", "1", "mean"),
            ("1.01", "1", "mean"),
            ("0.5", "0", "std"),
            ("0.5", "-0.2", "std"),
            ("0.5", "58.4", "std"),
            ("0.5", "inf", "std"),
        )
    },
    "steps of a random direction": ({"awp.direction": "random", "awp.steps": "2"}, "random"),
    "alternating with chance": (
        {"awp.direction": "random", "awp.alternations": "2"},
        "nothing alternates",
    ),
    "threshold of a random direction": (
        {"awp.direction": "random", "awp.threshold": "1.7"},
        "threshold 1.7 chooses none",
    ),
    "horizon without an average": ({"averaging_horizon": "5"}, "averaging ema, not none"),
    "horizon of an equal average": (
        {"averaging_horizon": "5", "averaging": "swa"},
        "averaging ema, not swa",
    ),
    "horizon and decay": (
        {"averaging": "ema", "averaging_horizon": "5", "averaging_decay": "0.9"},
        "horizon 5 and --averaging_decay 0.9 both",
    ),
    "horizon beyond the run": (
        {"averaging": "ema", "averaging_horizon": "101"},
        "101 epochs remembers the start of a run of 100",
    ),
    "in and out": ({"awp.include": "net.0*", "awp.exclude": "net.0*"}, "both name net.0"),
    "classes": ({"arch_args": "num_classes=7"}, "num_classes is 7"),
    "image size": ({"arch_args": "image_size=28"}, "image_size is 28"),
    "mixup with awp": ({"mixup": "1.4"}, "mixup with AWP"),
    **{
        f"mixup with {o}": (VANILLA | {"mixup": "1.4", "objective": o}, f"{o} is defined for one")
        for o in ("trades", "mart", "rst")
    },
    "rst without extra images": ({"objective": "rst"}, "give --extra FILE"),
    "fine-tuning from nothing": ({"objective": "pretrain"}, "give --start FOLDER"),
    "cutout of everything": ({"cutout": "8"}, "leaves nothing of 8x8"),
    "awp control": ({"recipe": "equal-compute"}, "without AWP"),
    "chosen on too few": (
        VANILLA | {"recipe": "best-vanilla", "n_validation": "99"},
        "chosen on validation",
    ),
    "stopping without validation": ({"early_stopping": "10", "n_validation": "0"}, "has 0 images"),
    "stopping between looks": ({"early_stopping": "3"}, "validation comes every 5"),
    "stopping an average": ({"early_stopping": "10", "averaging": "swa"}, "contradict"),
    "nesterov at rest": ({"nesterov": "true", "momentum": "0"}, "above 0"),
    "uneven devices": ({"devices": "3"}, "does not divide among 3 devices"),
    "one image a device": ({"devices": "50"}, "2 images or more"),
    "folding what moves": (
        {"craft_folded": "true", "craft_mode": "train"},
        "only be folded where it stands still",
    ),
    "compiled devices": ({"devices": "2", "compiled": "true"}, "--devices 1"),
}


@pytest.mark.parametrize(("given", "reason"), REFUSED.values(), ids=REFUSED)
def test_impossible_configurations_are_refused_with_the_reason(given, reason):
    with pytest.raises(InvalidInput, match=reason):
        check(configured(DIGITS, given))


@pytest.mark.parametrize(
    "text",
    ["0:500,500:600", "500:600,0:10", "0:500,400:600", "5:5", "9:5", "0-500", ":500", "0:", "0:1,",
     "", " 0:500", "00:500", "0:5000000000", "-1:5", "all", "\u0660:5"],
)  # fmt: skip
def test_places_have_one_text(text):
    with pytest.raises(InvalidInput, match="^--train_indices: expected"):
        configured(DIGITS, {"train_indices": text})


@pytest.mark.parametrize(
    ("field", "objective", "reason"),
    [
        ("extra", "trades", "belongs to --objective rst or at"),
        ("extra", "natural", "belongs to --objective rst or at"),
        ("start", "at", "--start belongs to --objective pretrain"),
    ],
)
def test_files_go_with_their_methods(field, objective, reason):
    config = configured(DIGITS, VANILLA | {"objective": objective})
    check(config)
    with pytest.raises(InvalidInput, match=reason):
        check(config.model_copy(update={field: FILES[field]}))


def test_extra_images_leave_room_in_the_batch():
    config = find("digits-rst").config
    few = FILES["extra"].model_copy(update={"fraction": 0.999})
    with pytest.raises(InvalidInput, match="has 0 labelled ones"):
        check(config.model_copy(update={"extra": few}))
    # 25 of a batch are labelled: 40 images are more than a batch of them.
    check(config.model_copy(update={"extra": FILES["extra"], "n_train": 40}))
    mixed = {"extra": FILES["extra"], "mixup": 1.0, "objective": "at"}
    with pytest.raises(InvalidInput, match="pseudo-labels"):
        check(config.model_copy(update=mixed))


def test_settings_can_be_checked_before_the_files_are_there():
    for name in ("digits-rst-awp", "digits-pretrain-awp"):
        check_settings(find(name).config)
        with pytest.raises(InvalidInput, match="give --"):
            check(find(name).config)


def test_a_small_validation_part_is_said():
    assert remarks(DIGITS) == []
    assert "only the last" in remarks(configured(DIGITS, {"n_validation": "0"}))[0]
    assert "one image is 5.0 points" in remarks(configured(DIGITS, {"n_validation": "20"}))[0]


# ---------------------------------------------------------------- flags


WRONG = {
    "eps of 8": ({"threat": "linf:8"}, r"--threat: eps .*Did you mean 8/255\?"),
    "text for a number": ({"lr": "fast"}, "--lr: .*number"),
    "half an epoch": ({"epochs": "1.5"}, "--epochs: "),
    "gamma below 0": ({"awp.gamma": "-1"}, "--awp.gamma: "),
    "awp is not a number": ({"awp": "0.01"}, "--awp.gamma"),
    **{
        f"threshold of {t}": ({"awp.threshold": t}, "--awp.threshold: ")
        for t in ("-1", "inf", "nan", "low")
    },
    **{
        f"horizon of {t}": ({"averaging": "ema", "averaging_horizon": t}, "--averaging_horizon: ")
        for t in ("0", "-2", "inf", "nan", "long")
    },
    "contradiction": ({"awp": "none", "awp.gamma": "0.1"}, "contradict"),
    "unknown architecture": ({"arch": "smal_cnn"}, "Did you mean 'small_cnn'"),
    "unknown argument": ({"arch_args": "widht=3"}, "Did you mean 'width'"),
    "unknown data set": ({"dataset": "digit"}, "Did you mean 'digits'"),
    "unknown method": ({"objective": "trade"}, "--objective: .*'trades'"),
    "unknown norm": ({"awp.norm": "layer"}, "--awp.norm: .*'filter'"),
}


@pytest.mark.parametrize(("given", "message"), WRONG.values(), ids=WRONG)
def test_wrong_flags_are_explained(given, message):
    with pytest.raises(InvalidInput, match=message):
        configured(DIGITS, given)


def test_flags_replace_fields():
    assert DIGITS.awp is not None
    assert configured(DIGITS, {}) == DIGITS
    config = configured(
        DIGITS,
        {"awp.gamma": "0.005", "arch_args": "width=8", "milestones": "0.6", "n_train": "300"},
    )
    assert config.awp == DIGITS.awp.model_copy(update={"gamma": 0.005})
    assert config.arch_args == {**DIGITS.arch_args, "width": 8}
    assert config.milestones == (0.6,)
    assert config.n_train == 300
    assert configured(DIGITS, {"awp": "none"}).awp is None
    assert configured(find("digits-at").config, {"awp.gamma": "0.1"}).awp == AwpConfig(gamma=0.1)
    assert configured(DIGITS, {"awp.exclude": "net.3*,net.6*"}).awp.exclude == ("net.3*", "net.6*")
    robust = configured(DIGITS, {"awp.threshold": "1.7"})
    assert robust.awp == DIGITS.awp.model_copy(update={"threshold": 1.7})
    assert configured(robust, {"awp.threshold": "none"}) == DIGITS
    assert configured(DIGITS, {"averaging": "none"}).averaging == "none"
    assert configured(DIGITS, {"early_stopping": "none"}).early_stopping is None
    moved = configured(DIGITS, {"dataset": "cifar10", "arch": "preact_resnet18", "n_train": "none"})
    assert moved.arch_args == {"in_channels": 3, "num_classes": 10}
    assert moved.n_train is None
    check(moved)


@pytest.mark.parametrize(
    ("text", "seeds"), [("3", [0, 1, 2]), ("0,4", [0, 4]), ("7,", [7]), ("1,1", [1])]
)
def test_seeds(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        *((parse_seeds, text) for text in ("", "0", "-1", "1,-2", "two", "1;2")),
        *((parse_fraction, text) for text in ("0", "1", "half", "-0.5", "nan")),
    ],
)
def test_wrong_seeds_and_fractions(parse, text):
    flag = "--seeds" if parse is parse_seeds else "--extra.fraction"
    with pytest.raises(InvalidInput, match=flag):
        parse(text)
