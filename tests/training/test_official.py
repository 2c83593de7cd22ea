"""Our curve over the official one: windows that do not cross a fall of the lr, and a fair verdict."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from awp_train import official
from awp_train.__main__ import main
from awp_train.presets import OFFICIAL, find
from bench.published import curves
from bench.published.curves import FILE, read_official
from bench.records.store import pretty_json
from bench.schema import InvalidInput
from bench.training_log import Line

CURVES = Path(__file__).parents[2] / FILE
AWP = "cifar10_linf/preactresnet18_awp"
read = functools.cache(lambda name: read_official(name, CURVES))
HEAD = "run,epoch,lr,test_robust_acc,test_robust_loss\n"


def line(epoch: int, rate: float, n: int = 1000) -> Line:
    right = round(n * rate)
    return {"epoch": epoch, "validation_n": n, "validation_robust_correct": right,
            "validation_robust_loss": 1.4}  # fmt: skip


# ---------------------------------------------------------------- the published curves


def test_every_official_run_has_a_preset_of_its_recipe():
    for name, preset in OFFICIAL.items():
        assert official.same_recipe(find(preset).config) == name
        assert len(read(name).epochs) == 200
    digits = find("digits-at-awp").config
    assert official.same_recipe(digits) is None
    assert official.same_recipe(find("cifar10-trades-awp").config) is None


def test_the_curves_are_those_of_the_paper():
    """Table 2's last is the mean of the last six epochs: 54.7 with AWP, 44.4 without."""
    for name, last in ((AWP, 54.7), (AWP.replace("awp", "standard"), 44.4)):
        rates = [e.robust_rate for e in read(name).epochs[-6:]]
        assert 100 * sum(rates) / 6 == pytest.approx(last, abs=0.06)


def test_the_file_is_the_one_of_the_reference(shared):
    assert CURVES.read_bytes() == (shared / "reference" / CURVES.name).read_bytes()


@given(st.integers(1, 230))
def test_a_window_is_near_and_on_one_side_of_a_fall_of_the_lr(epoch):
    run = read(AWP)
    window = run.window(epoch)
    here = min(epoch, 200)
    assert here in [e.epoch for e in window]
    assert all(abs(e.epoch - here) <= curves.REACH for e in window)
    # lr falls after epochs 100 and 150 of 200.
    assert len({(e.epoch > 100) + (e.epoch > 150) for e in window}) == 1
    assert len({e.lr for e in window}) == 1


@pytest.mark.parametrize(
    "text",
    ["", "nonsense\n1\n", HEAD + "cifar10_x/y,zero,0.1,0.5,1\n", HEAD + "cifar10_x/y,0,0.1,50,1\n",
     HEAD + "mnist_x/y,0,0.1,0.5,1\n", HEAD + "cifar10_x/y,0,0.1\n"],
)  # fmt: skip
def test_a_wrong_file_of_curves_is_refused(tmp_path, text):
    path = tmp_path / "curves.csv"
    path.write_text(text)
    with pytest.raises(InvalidInput):
        read_official("cifar10_x/y", path)


@pytest.mark.parametrize(
    ("name", "path", "message"),
    [
        ("cifar10_linf/preactresnet18_avp", CURVES, "preactresnet18_awp"),
        (AWP, Path("none.csv"), "--curves FILE"),
    ],
)
def test_unknown_names_and_missing_files_say_what_to_do(name, path, message):
    with pytest.raises(InvalidInput, match=message):
        read_official(name, path)


# ---------------------------------------------------------------- the verdict


@given(st.integers(0, 1000), st.integers(1, 200))
def test_the_verdict_follows_interval_and_window(right, epoch):
    run = read(AWP)
    v = official.compare([line(epoch, right / 1000)], run)
    assert v.theirs.low <= v.theirs.estimate <= v.theirs.high
    assert (v.off > 0) == (v.ours.estimate > v.theirs.high)
    assert (v.off < 0) == (v.ours.estimate < v.theirs.low)
    if v.off == 0:
        assert v.on_track
    if not v.on_track:
        assert v.off != 0
    said = official.described("ours", v, run, attack="PGD-20")
    assert said.splitlines()[2].startswith("on track:") == v.on_track
    assert f"epoch {epoch}:" in said


def test_the_official_run_itself_is_on_track():
    run = read(AWP)
    for e in run.epochs[::7]:
        v = official.compare([line(e.epoch, e.robust_rate, n=run.n)], run)
        assert v.on_track
        assert v.off == pytest.approx(0, abs=1e-4)


def test_a_log_without_held_out_images_is_refused():
    log = [{"epoch": 1, "train_n": 10, "train_robust_correct": 5}]
    with pytest.raises(InvalidInput, match="--n_validation"):
        official.compare(log, read(AWP))


# ---------------------------------------------------------------- the command


@pytest.fixture
def run(tmp_path) -> Path:
    """The folder of a run of the official recipe, at epoch 20."""
    folder = tmp_path / "cifar10-at-awp-s0"
    folder.mkdir()
    config = find("cifar10-at-awp").config.model_dump(mode="json")
    (folder / "run.json").write_text(pretty_json({"config": config, "pair": None}))
    log = [line(epoch, 0.2 + 0.012 * epoch) for epoch in range(1, 21)]
    (folder / "train.jsonl").write_text("".join(json.dumps(each) + "\n" for each in log))
    return folder


@pytest.fixture
def told(tmp_path, capsys):
    """Calls the command: its exit status and what it says."""

    def call(run: Path, *words: str, out: str = "curve.html") -> tuple[int, str]:
        where = ["--curves", str(CURVES), "--out", str(tmp_path / out)]
        status = main(["official", str(run), *where, *words])
        return status, "".join(capsys.readouterr())

    return call


def test_a_run_is_drawn_over_the_official_one_of_its_own_settings(run, tmp_path, told):
    status, said = told(run)
    assert status == 0
    for words in (
        "epoch 20: robust 44.0 % (41.0 – 47.1) of 1,000 validation images under PGD-10",
        f"{AWP}, epochs 18 to 22",
        "of 10,000 test images under PGD-20",
        "on track",
        "PGD-10 is not PGD-20",
    ):
        assert words in said
    assert "Not the official recipe" not in said
    page = (tmp_path / "curve.html").read_text()
    assert page.startswith("<!doctype html>")
    assert "cifar10-at-awp-s0, validation images" in page


def test_another_recipe_is_said_and_needs_a_name(run, told):
    config = find("cifar10-at-awp").config.model_copy(update={"epochs": 30, "seed": 4})
    (run / "run.json").write_text(pretty_json({"config": config.model_dump(mode="json")}))
    assert "Not the official recipe, so the curves may differ: epochs 30" in told(run)[1]
    (run / "run.json").unlink()
    status, said = told(run)
    assert status == 2 and "--official" in said
    assert "26,032 test images" in told(run, "--official", "svhn_linf/preactresnet18_standard")[1]


def test_wrong_calls_are_refused(run, tmp_path, told):
    (run / "run.json").write_text("{")
    for call, message in (
        ({"run": run, "out": "a.png"}, ".html"),
        ({"run": tmp_path / "nowhere"}, "no log of a run"),
        ({"run": run}, "is not JSON"),
    ):
        status, said = told(**call)
        assert status == 2 and message in said
