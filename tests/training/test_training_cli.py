"""The command line of training: what calls do, what wrong ones say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from awp_train import plan
from awp_train.__main__ import main
from awp_train.faster import Running
from awp_train.presets import find
from awp_train.step import step
from bench.schema import AwpConfig, TrainConfig

TINY = "--n_train 40 --batch 20 --n_validation 20 --epochs 2 --attack_steps 1"


def test_list_is_quick_because_it_loads_no_torch():
    code = (
        "import sys; from awp_train.__main__ import main; status = main(['list'])\n"
        "assert 'torch' not in sys.modules; sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("digits: 200 images of digits, linf:0.15, small_cnn")
    assert not done.stderr


def test_every_field_shows_its_help(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    lines = " ".join(capsys.readouterr().out.split())
    for prefix, model in (("", TrainConfig), ("awp.", AwpConfig)):
        for name, field in model.model_fields.items():
            if name == "own":  # what --dataset says of images of one's own
                continue
            assert field.description, name
            said = re.search(rf"--{prefix}{name} (VALUE|FILE|FOLDER) (?!-)(.*?)(?= --|$)", lines)
            assert said and len(said[2]) > 5, name
            assert said[1] != "VALUE" or said[2].startswith(field.description)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("list --dataset digit", "Did you mean 'digits'?"),
        ("run digits-att", "Did you mean 'digits-at'?"),
        ("run digits-att", "; all: python -m awp_train list"),
        ("run digits-at --threat linf:8", "Did you mean 8/255?"),
        ("run digits-at --eps 8", "--threat linf:8/255"),
        ("run digits-at --gamma=0.01", "takes no --gamma. Did you mean --awp.gamma?"),
        ("run digits-at --weight-decay 0", "Did you mean --weight_decay?"),
        ("study digits-methods --gamma 1", "study takes no --gamma. What it takes"),
        ("run digits-at-awp --epochs 3", "warm-up"),
        ("run digits-trades --mixup 1.4", "one label an image"),
        ("run digits-at --extra.fraction 0.3", "belongs to --extra FILE"),
        ("run cifar10-rst", "cifar10-rst needs --extra FILE"),
        ("run digits-rst --n_train 597", "leave none of digits"),
        ("resume some-run --runs {tmp}", "no run was started in"),
        ("all --dataset digit", "Did you mean 'digits'?"),
        ("list --dataset mnist", "mnist has no presets of its own: train one"),
        ("list --dataset imagefolder:pets", "imagefolder:pets has no presets of its own"),
        ("all --dataset mnist", "or all of a family's with --family FAMILY"),
        ("all --dataset mnist --family digit", "Did you mean 'digits'?"),
        ("run digits-at --dataset imagefolder:{tmp}/no", "--dataset: no data folder at"),
        ("run digits-at --dataset zip:x", "--dataset: no form of data named 'zip'"),
        ("run digits-at --dataset imagefolder:{tmp}", "--dataset: {tmp} has 0 class folders"),
        ("all --dataset digits --only nothing", "no preset of digits"),
        ("all --dataset cifar10 --only rst", "cifar10-rst needs --extra FILE"),
        ("choose digit", "Did you mean 'digits'?"),
        ("study digits-method", "Did you mean 'digits-methods'?"),
        ("study digits-methods --seeds 0", "--seeds takes a count"),
    ],
)
def test_wrong_calls_end_with_status_2_and_one_line(words, message, capsys, tmp_path):
    assert main(words.format(tmp=tmp_path).split()) == 2
    printed = capsys.readouterr()
    assert not printed.out
    assert printed.err.startswith("error: ")
    assert message.replace("{tmp}", str(tmp_path)) in printed.err
    assert printed.err.count("\n") == 1
    assert len(printed.err) < 600  # of 330 presets the nearest


@pytest.mark.parametrize(
    ("flag", "folder", "said"),
    [
        ("--out", "/proc/nowhere", "the folder /proc/nowhere cannot be made"),
        ("--runs", "/proc/nowhere", "the folder /proc/nowhere cannot be made"),
        ("--out", "/proc", "the folder /proc takes no files"),
    ],
)
def test_a_folder_that_cannot_be_written_is_named_before_training(
    flag, folder, said, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plan, "estimated_seconds", lambda config: 1.0)
    assert main(["run", "digits-at", *TINY.split(), flag, folder]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.pt"))


@pytest.mark.parametrize(
    ("preset", "hours", "time"),
    [
        ("cifar10-at", 3.0, "3.0 h from the start"),
        ("digits-pretrain", 1.001, "2.0 h from the start, digits-0to4-at-s0 included"),
    ],
)
def test_a_long_run_asks_first_and_says_how(preset, hours, time, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "estimated_seconds", lambda config: hours * 3600)
    words = f"run {preset} --out {tmp_path / 'c'} --runs {tmp_path / 'r'}"
    assert main(words.split()) == 2
    said = capsys.readouterr().err
    assert f"{time}\n" in said
    assert f"That is over 2.0 h. To start it: python -m awp_train {words} --yes\n" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "changed", [{"craft_folded": True}, {"precision": "bf16"}, {"compiled": True}]
)
def test_the_time_is_that_of_the_passes_that_training_makes(changed, monkeypatch):
    config = find("digits-at-awp").config.model_copy(update=changed)
    seen = set()

    def spied(*args: object, running: Running, **kwargs: object) -> object:
        half = "Autocast" in type(running.training).__name__
        copied = running.crafting() is not running.training
        seen.add((copied, half, hasattr(running.training, "_orig_mod")))
        return step(*args, running=running, **kwargs)

    monkeypatch.setattr(plan, "step", spied)
    monkeypatch.setattr(plan, "_TIMED", 0.0)
    assert plan.estimated_seconds(config) > 0
    # A compiled run is timed uncompiled: compiling takes longer than the estimate may.
    assert seen == {(config.craft_folded, config.precision == "bf16", False)}


@pytest.mark.parametrize(
    ("given", "runs"),
    [
        ("--only at --seeds 3", "6 runs, 0"),  # AT and AT-AWP, not natural
        ("--only trades-awp --seeds 3", "3 runs, 0"),
        ("--only rst --seeds 3", "6 runs and 3 that they need, 0"),
        # Beside them the network on digits 0 to 4; natural, the teacher, is one of them.
        ("--seeds 1", "11 runs and 1 that they need, 0"),
        ("--controls --seeds 1", "18 runs and 1 that they need, 0"),
    ],
)
def test_all_asks_first_for_what_is_not_finished(given, runs, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "estimated_seconds", lambda config: 2 * 3600.0)
    words = f"all --dataset digits {given} --workers 2 --out {tmp_path}"
    assert main(words.split()) == 2
    said = capsys.readouterr().err
    assert f"{runs} of them finished" in said
    assert "h with 2 at a time" in said
    assert f"python -m awp_train {words} --yes" in said


def test_a_run_prints_its_checkpoints_and_can_be_resumed_by_name(capsys, tmp_path, monkeypatch):
    folders = f"--out {tmp_path / 'c'} --runs {tmp_path / 'r'}"
    from awp_train import train as training

    with monkeypatch.context() as patch:
        patch.setattr(training, "step", _interrupted)
        assert main(f"run digits-at-awp --name try --awp.warm_up 1 {TINY} {folders}".split()) == 130
    said = capsys.readouterr()
    assert f"python -m awp_train resume try {folders}" in said.err
    assert "try: note: 20 validation images" in said.err
    assert not said.out
    assert main(f"resume try {folders}".split()) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed == [str(tmp_path / "c" / f"try-{which}") for which in ("best", "last")]
    card = (tmp_path / "c" / "try-last" / "card.json").read_text()
    assert '"pair": "digits-at-n_train=40-' in card


def _interrupted(*args: object, **kwargs: object) -> None:
    raise KeyboardInterrupt


def test_rst_is_trained_after_its_teacher_and_again_from_the_file_it_left(capsys, tmp_path):
    tiny = TINY.replace("--epochs 2", "--epochs 1")
    folders = f"--out {tmp_path / 'c'} --runs {tmp_path / 'r'}"
    assert main(f"run digits-natural {tiny} --name x {folders}".split()) == 0
    assert main(["pseudo-label", str(tmp_path / "c/x-last"), "--out", str(tmp_path)]) == 0
    capsys.readouterr()
    file = tmp_path / "x-last-pseudo.npz"
    words = f"run digits-rst --extra {file} --extra.fraction 0.25 {tiny} {folders}"
    assert main(words.split()) == 0
    last = Path(capsys.readouterr().out.splitlines()[-1])
    card = (last / "card.json").read_text()
    assert '"fraction": 0.25' in card and '"file": "x-last-pseudo.npz"' in card
    assert str(tmp_path) not in card


def test_a_family_is_trained_with_fields_changed(monkeypatch):
    """Of AWP's fields none makes an AWP run of a vanilla one."""
    seen = []
    monkeypatch.setattr(plan, "train_jobs", lambda jobs, **named: seen.extend(jobs) or jobs)
    words = "all --dataset fashion_mnist --only trades --seeds 0,2 --epochs 15 --n_train 59000"
    assert main([*words.split(), "--craft_folded", "true", "--awp.warm_up", "2"]) == 0
    settings = "n_train=59000-{}craft_folded=True-epochs=15"
    assert [(job.name, job.pair) for job in seen] == [
        *((f"fashion_mnist-trades-{settings.format('')}-s{s}", None) for s in (0, 2)),
        *((f"fashion_mnist-trades-awp-{settings.format('awp.warm_up=2-')}-s{s}",
           f"fashion_mnist-trades-{settings.format('')}-s{s}") for s in (0, 2)),
    ]  # fmt: skip
    seen.clear()
    words = "all --dataset cifar10-first5085 --only at --seeds 3"
    assert main([*words.split(), "--controls"]) == 0
    assert [job.name for job in seen] == [
        f"cifar10-first5085-at{kind}-s{s}" for kind in ("", "-awp", "-rwp") for s in range(3)
    ]
