"""Presets: each can be trained, twins differ in AWP only; and the flags that change them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from awp_train.__main__ import configured, main, parse_seeds
from awp_train.presets import PRESETS, check, find, pair_name, pair_of, run_name, twin
from bench.schema import AwpConfig, InvalidInput, ThreatModel, TrainConfig

every_preset = pytest.mark.parametrize("name", PRESETS)
DIGITS = PRESETS["digits-at-awp"].config


@every_preset
def test_presets_can_be_trained(name):
    preset = find(name)
    check(preset.config)
    assert TrainConfig.model_validate_json(preset.config.model_dump_json()) == preset.config
    assert preset.config.seed == 0
    assert name.startswith(preset.config.dataset)
    assert preset.description
    assert preset.source
    assert preset.cost.endswith(("(measured)", "(estimated)"))


@every_preset
def test_twins_differ_in_awp_only(name):
    config = find(name).config
    vanilla = find(twin(name)).config
    assert vanilla.awp is None
    assert vanilla == pair_of(config)
    assert {k for k, v in config if v != getattr(vanilla, k)} <= {"awp"}
    assert name.endswith("-awp") == (config.awp is not None)
    assert twin(name) == name.removesuffix("-awp")


def test_the_paper_recipe():
    config = PRESETS["cifar10-at-awp"].config
    assert (config.arch, config.epochs, config.batch) == ("preact_resnet18", 200, 128)
    assert (config.lr, config.momentum, config.weight_decay) == (0.1, 0.9, 5e-4)
    assert config.milestones == (0.5, 0.75)
    assert config.augment == "crop-flip"
    assert config.threat == ThreatModel.parse("linf:8/255")
    assert config.attack_steps == 10
    assert config.threat.fraction * 255 * config.attack_relative_step == 2
    assert config.awp == AwpConfig(gamma=0.01, warm_up=0)
    assert config.craft_mode == "train"


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


REFUSED = {
    "warm_up as long as the run": ({"awp.warm_up": str(DIGITS.epochs)}, "warm-up"),
    "less than a batch": ({"n_train": "40"}, "lower --batch"),
    "too few images": ({"n_train": "700"}, "797 training images"),
    "natural with awp": ({"objective": "natural"}, "natural"),
    "no threat": ({"threat": "none"}, "--threat linf:0.15"),
    "l1": ({"threat": "l1:12"}, "not against l1"),
    "milestones": ({"milestones": "50,75"}, "fractions"),
    "mean of another data set": ({"mean": "0.1,0.2,0.3", "std": "1,1,1"}, "1 values for digits"),
    "mean without std": ({"mean": "0.1"}, "go together"),
    "steps of a random direction": ({"awp.direction": "random", "awp.steps": "2"}, "random"),
    "classes": ({"arch_args": "num_classes=7"}, "num_classes is 7"),
    "image size": ({"arch_args": "image_size=28"}, "image_size is 28"),
}


@pytest.mark.parametrize(("given", "reason"), REFUSED.values(), ids=REFUSED)
def test_impossible_configurations_are_refused_with_the_reason(given, reason):
    with pytest.raises(InvalidInput, match=reason):
        check(configured(DIGITS, given))


WRONG = {
    "eps of 8": ({"threat": "linf:8"}, r"--threat: eps .*Did you mean 8/255\?"),
    "text for a number": ({"lr": "fast"}, "--lr: .*number"),
    "half an epoch": ({"epochs": "1.5"}, "--epochs: "),
    "gamma below 0": ({"awp.gamma": "-1"}, "--awp.gamma: "),
    "awp is not a number": ({"awp": "0.01"}, "--awp.gamma"),
    "contradiction": ({"awp": "none", "awp.gamma": "0.1"}, "contradict"),
    "unknown architecture": ({"arch": "smal_cnn"}, "Did you mean 'small_cnn'"),
    "unknown argument": ({"arch_args": "widht=3"}, "Did you mean 'width'"),
    "unknown data set": ({"dataset": "digit"}, "Did you mean 'digits'"),
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
    assert configured(PRESETS["digits-at"].config, {"awp.gamma": "0.1"}).awp == AwpConfig(gamma=0.1)
    moved = configured(DIGITS, {"dataset": "cifar10", "arch": "preact_resnet18", "n_train": "none"})
    assert moved.arch_args == {"in_channels": 3, "num_classes": 10}
    assert moved.n_train is None
    check(moved)


@pytest.mark.parametrize(
    ("text", "seeds"), [("3", [0, 1, 2]), ("0,4", [0, 4]), ("7,", [7]), ("1,1", [1])]
)
def test_seeds(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "0", "-1", "1,-2", "two", "1;2"])
def test_wrong_seeds(text):
    with pytest.raises(InvalidInput, match="--seeds"):
        parse_seeds(text)


# ---------------------------------------------------------------- the command line


def test_list_is_quick_because_it_loads_no_torch():
    code = (
        "import sys; from awp_train.__main__ import main; status = main(['list'])\n"
        "assert 'torch' not in sys.modules; sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(PRESETS)
    assert not done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("run digits-att", "Did you mean 'digits-at'?"),
        ("run digits-at --threat linf:8", "Did you mean 8/255?"),
        ("run digits-at-awp --epochs 3", "warm-up"),
        ("resume some-run --runs {tmp}", "no run was started in"),
        ("all --dataset digit", "Did you mean 'digits'?"),
        ("all --dataset digits --only nothing", "no preset of digits"),
    ],
)
def test_wrong_calls_end_with_status_2_and_one_line(words, message, capsys, tmp_path):
    assert main(words.format(tmp=tmp_path).split()) == 2
    printed = capsys.readouterr()
    assert not printed.out
    assert printed.err.startswith("error: ")
    assert message in printed.err
    assert printed.err.count("\n") == 1


def test_a_long_run_asks_first_and_says_how(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("awp_train.cost.estimated_seconds", lambda config: 3 * 3600.0)
    words = f"run cifar10-at --out {tmp_path / 'c'} --runs {tmp_path / 'r'}"
    assert main(words.split()) == 2
    said = capsys.readouterr().err
    assert "3.0 h" in said
    assert f"python -m awp_train {words} --yes\n" in said
    assert not list(tmp_path.iterdir())


def test_all_asks_first_for_what_is_not_finished(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("awp_train.pool.estimated_seconds", lambda config: 3600.0)
    words = f"all --dataset digits --only at --seeds 3 --workers 2 --out {tmp_path}"
    assert main(words.split()) == 2
    said = capsys.readouterr().err
    assert "6 runs, 0 of them finished" in said  # AT and AT-AWP, not natural
    assert "3.0 h with 2 at a time" in said
    assert f"python -m awp_train {words} --yes\n" in said


def test_a_run_prints_its_checkpoints_and_can_be_resumed_by_name(capsys, tmp_path, monkeypatch):
    folders = f"--out {tmp_path / 'c'} --runs {tmp_path / 'r'}"
    fields = "--name try --n_train 40 --batch 20 --n_validation 20 --epochs 2 --attack_steps 1"
    from awp_train import train as training

    with monkeypatch.context() as patch:
        patch.setattr(training, "step", _interrupted)
        assert main(f"run digits-at-awp --awp.warm_up 1 {fields} {folders}".split()) == 130
    said = capsys.readouterr()
    assert f"python -m awp_train resume try {folders}" in said.err
    assert not said.out
    assert main(f"resume try {folders}".split()) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed == [str(tmp_path / "c" / f"try-{which}") for which in ("best", "last")]
    card = (tmp_path / "c" / "try-last" / "card.json").read_text()
    assert '"pair": "digits-at-n_train=40-' in card


def _interrupted(*args: object, **kwargs: object) -> None:
    raise KeyboardInterrupt
