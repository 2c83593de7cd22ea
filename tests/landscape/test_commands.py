"""bench landscape and bench flatness: what is kept, what goes on, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.__main__ import main
from bench.landscape import record, rises
from bench.landscape.record import Landscape, Point, Seen
from bench.schema import InvalidInput, ThreatModel, TrainConfig
from tests.conftest import network

RUN = TrainConfig.model_validate(
    {"dataset": "digits", "n_train": 60, "n_validation": 20, "threat": "linf:0.1", "seed": 3}
)
CURVE = ["--n", "8", "--points", "3", "--attack", "pgd2", "--workers", "1"]
FLAT = ["--n", "8", "--draws", "1", "--restarts", "1", "--attack-steps", "1", "--workers", "1"]


@pytest.fixture
def folder(tmp_path, digits_cnn) -> Path:
    return network(tmp_path, "tiny", digits_cnn, train=RUN)


@pytest.fixture
def foreign(tmp_path, digits_cnn) -> Path:
    """One whose card does not say what it was trained on."""
    return network(tmp_path, "foreign", digits_cnn)


def landscape(folder: Path, *more: str) -> list[str]:
    return ["landscape", str(folder), *CURVE, "--out", str(folder.parent / "out"), *more]


def flatness(folder: Path, *more: str) -> list[str]:
    return ["flatness", str(folder), *FLAT, "--out", str(folder.parent / "flat"), *more]


def kept(out: Path) -> Path:
    (path,) = out.rglob("*.json")
    return path


# ---------------------------------------------------------------- landscape


def test_a_landscape_is_kept_and_printed(folder, capsys):
    assert main(landscape(folder, "--directions", "2")) == 0
    said = capsys.readouterr().out
    assert "tiny, digits linf:0.1, pgd(" in said and "first 8 of train[60 drawn by seed 3]" in said
    assert [line.split()[0] for line in said.splitlines()[3:]] == ["-1", "+0", "+1"]
    found = record.read(kept(folder.parent / "out"))
    assert [p.place for p in found.points] == [(0, -1), (0, 0), (0, 1), (1, -1), (1, 1)]
    assert main([*landscape(folder, "--directions", "2"), "--json"]) == 0
    (document,) = json.loads(capsys.readouterr().out)
    assert document["points"] == [p.model_dump(mode="json") for p in found.points]


def test_only_what_is_missing_is_looked_at(folder, capsys):
    """An interrupted run goes on, more points and directions add, and the answer is the same."""
    assert main(landscape(folder, "--points", "5", "--directions", "2")) == 0
    path = kept(folder.parent / "out")
    whole = record.read(path)
    marked = Seen(clean_correct=1, robust_correct=0, clean_loss=0, robust_loss=9)
    first = whole.points[0].model_copy(update={"seen": {"train": marked, "test": marked}})
    path.write_text(Landscape(setting=whole.setting, points=(first,)).model_dump_json())
    assert main(landscape(folder)) == 0
    assert len(record.read(path).points) == 3
    capsys.readouterr()
    assert main(landscape(folder, "--points", "5", "--directions", "2")) == 0
    assert "7 points" not in capsys.readouterr().err
    assert record.read(path).points == (first, *whole.points[1:])
    assert main(landscape(folder)) == 0
    assert capsys.readouterr().err == ""


def test_workers_change_no_point(folder):
    assert main(landscape(folder)) == 0
    one = kept(folder.parent / "out")
    text = one.read_text()
    one.unlink()
    assert main([*landscape(folder), "--workers", "2"]) == 0
    assert one.read_text() == text


@pytest.mark.parametrize(
    "more", [["--examples", "fixed"], ["--batchnorm", "anew"], ["--seed", "1"], ["--n", "7"]]
)
def test_another_setting_is_another_file(folder, more):
    for words in (landscape(folder), landscape(folder, *more)):
        assert main(words) == 0
    assert len(list((folder.parent / "out").rglob("*.json"))) == 2


def test_a_network_of_unknown_training_has_test_images_alone(foreign, capsys):
    assert main(landscape(foreign)) == 0
    assert "test loss" in (said := capsys.readouterr().out) and "train" not in said
    assert "linf:0.15" in said  # the data set's
    assert main(flatness(foreign, "--measures", "sharpness", "--threat", "l2:0.5")) == 0
    assert "l2:0.5" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--points", "4"], "odd number"),
        (["--points", "1"], "odd number"),
        (["--points", "-3"], "odd number"),
        (["--directions", "0"], "at least 1"),
        (["--reach", "0"], "above 0"),
        (["--reach", "50"], "reach"),
        (["--n", "0"], "at least 1"),
        (["--attack", "fgsm"], "such as pgd10"),
        (["--threat", "l1:1"], "under linf or l2"),
        (["--dataset", "mnist"], "was trained on digits"),
        (["--split", "tst"], "split must be"),
        (["--out", "/proc/nowhere"], "name another"),
    ],
)
def test_a_wrong_call_is_answered_in_a_sentence(folder, words, said, capsys):
    assert main(landscape(folder, *words)) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"setting": {}}', '{"a": 1, "a": 2}', "[" * 70_000, "\xff"]
)
@pytest.mark.parametrize("words", [landscape, flatness])
def test_a_broken_file_is_named_and_left(folder, words, text, capsys):
    more = ["--measures", "sharpness", "--n", "8"] if words is flatness else []
    assert main(words(folder, *more)) == 0
    paths = list((folder.parent / ("out" if words is landscape else "flat")).rglob("*.json"))
    for path in paths:
        path.write_text(text, encoding="latin-1")
    capsys.readouterr()
    assert main(words(folder, *more)) == 2
    error = capsys.readouterr().err
    assert "left in place" in error and paths[0].parent.name in error
    assert paths[0].read_text(encoding="latin-1") == text


@pytest.mark.parametrize("words", [landscape, flatness])
def test_the_others_are_looked_at_where_one_is_wrong(folder, foreign, words, capsys):
    (foreign / "weights.safetensors").write_bytes(b"nothing of the kind")
    command, *rest = words(folder)
    more = ["--measures", "sharpness"] if words is flatness else []
    assert main([command, str(foreign), *rest, *more]) == 2
    said = capsys.readouterr()
    assert "sha256 differs" in said.err and "tiny" in said.out


# ---------------------------------------------------------------- flatness


def test_flatness_is_kept_and_printed_with_what_was_cheaper(folder, capsys):
    assert main(flatness(folder)) == 0
    said = capsys.readouterr().out
    rows = [line.split()[:3] for line in said.splitlines()[2:10]]
    assert rows == [[name, part, "8"] for part in ("train", "test") for name in rises.MEASURES]
    assert "average: cheaper than published: draws 1 for 10, attack_steps 1 for 20" in said
    assert main(flatness(folder)) == 0
    again = capsys.readouterr()
    assert (again.out, again.err) == (said, "")
    assert main(flatness(folder, "--json")) == 0
    documents = json.loads(capsys.readouterr().out)
    assert len(documents) == 8
    assert documents[0]["rises"]["error"].keys() == {"rise", "interval"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--measures", "avrage"], "no measure named 'avrage'"),
        (["--draws", "0"], "at least 1"),
        (["--dataset", "mnist"], "was trained on digits"),
        (["--out", "/proc/nowhere"], "name another"),
    ],
)
def test_a_wrong_call_of_flatness_is_answered_in_a_sentence(folder, words, said, capsys):
    assert main(flatness(folder, *words)) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error


# ---------------------------------------------------------------- the noun


def of(**changes: Any) -> Landscape:
    setting = record.Setting.model_validate(
        {
            "name": "n", "weights_sha256": "0" * 64, "dataset": "digits", "threat": "linf:0.1",
            "images": {"test": {"split": "test[0:10]", "examples_sha256": "0" * 64, "n": 10}},
            "attack": record.attack_named("pgd10", ThreatModel.parse("linf:0.1")),
            "examples": "fly", "batchnorm": "kept", "seed": 0, "version": "2.1",
        }
    )  # fmt: skip
    return Landscape.model_validate({"setting": setting, **changes})


def point(direction: int, alpha: float, loss: float = 1.0, **changes: Any) -> dict[str, Any]:
    seen = {"clean_correct": 9, "robust_correct": 4, "clean_loss": 0.5, "robust_loss": loss}
    return {"direction": direction, "alpha": alpha, "seen": {"test": seen | changes}}


@pytest.mark.parametrize(
    "points",
    [
        [point(0, 0.0), point(0, 0.0)],
        [point(1, 0.0)],
        [point(0, 11.0)],
        [point(0, 1.0, robust_correct=10)],
        [point(0, 1.0, clean_correct=11)],
        [point(0, 1.0, loss=float("nan"))],
        [{"direction": 0, "alpha": 1.0}],
        [point(0, 1.0) | {"gap": "why"}],
        [{"direction": 0, "alpha": 1.0, "seen": {"train": point(0, 1.0)["seen"]["test"]}}],
        [point(0, 1.0) | {"rate": 0.5}],
    ],
)
def test_points_that_contradict_themselves_are_refused(points):
    with pytest.raises(ValueError, match="validation error"):
        of(points=points)


def test_gaps_are_left_out_of_means_and_named():
    from bench.cli.landscape import summary

    gap = Point(direction=1, alpha=1.0, gap="the loss on test images is not finite")
    whole = [point(0, 0.0), point(0, 1.0, 3.0), gap, point(2, 1.0, 5.0)]
    found = of(points=whole)
    heights = found.heights("test", (0.0, 1.0), 3)
    assert heights[:, 0].tolist() == [1, 1, 1]  # w is every direction's
    mean = record.spread(heights[:, 1])
    assert mean is not None and mean.estimate == 4 and mean.low < 3
    assert record.spread(heights[1:2, 1]) is None
    text = summary(found, (0.0, 1.0), 3)
    assert "gap: direction 1, alpha +1: the loss on test images is not finite" in text


def test_a_file_of_another_setting_is_refused(tmp_path):
    found = record.keep([Point.model_validate(point(0, 0.0))], of().setting, tmp_path)
    other = found.setting.model_copy(update={"seed": 5})
    record.path_of(other, tmp_path).write_text(found.model_dump_json())
    with pytest.raises(InvalidInput, match="another setting"):
        record.begin(other, tmp_path)
