"""The robust generalisation gap: counts of two parts under one attack, and what they say."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from statsmodels.stats.proportion import confint_proportions_2indep

from awp_train.validation import gap_file
from bench import datasets, models
from bench.__main__ import main
from bench.gap import NAME, GapPart, RobustGap, newcombe, read_gap
from bench.measure import gap as measure_gap
from bench.records import store
from bench.schema import InvalidInput, MeasurementFailed, ModelCard, TrainConfig
from bench.sources import checkpoint
from bench.stats.intervals import wilson

DIGITS = TrainConfig.model_validate(
    {"dataset": "digits", "n_train": 60, "n_validation": 20, "threat": "linf:0.1", "seed": 3}
)
RECORDED = Path(__file__).parents[2] / "results/digits/linf-0.15/digits-at-awp-s0-last"


@pytest.fixture
def folder(tmp_path, fitted):
    """A checkpoint of a small network whose card holds its training settings."""
    arguments = {"in_channels": 1, "image_size": 8, "num_classes": 10, "width": 4}
    card = ModelCard(
        name="tiny", arch="small_cnn", arch_args=arguments, dataset="digits", class_count=10,
        weights_sha256="0" * 64, n_parameters=0, train=DIGITS, epoch_kept=7,
    )  # fmt: skip
    checkpoint.save(tmp_path / "tiny", models.build("small_cnn", arguments), card)
    return tmp_path / "tiny"


def part(**fields: object) -> GapPart:
    given = {"split": "test[0:10]", "examples_sha256": "0" * 64, "n": 10}
    given |= {"clean_correct": 9, "robust_correct": 4, "robust_loss": 1.5}
    return GapPart.model_validate(given | fields)


# ---------------------------------------------------------------- the interval


@pytest.mark.parametrize(
    "counts", [(80, 100, 60, 100), (200, 200, 643, 1000), (0, 5, 0, 9), (7, 7, 9, 9), (1, 9, 8, 9)]
)
def test_the_interval_is_that_of_statsmodels(counts):
    ours = newcombe(*counts)
    theirs = confint_proportions_2indep(*counts, method="newcomb", compare="diff")
    assert (ours.low, ours.high) == pytest.approx(theirs, abs=1e-12)


COUNTS = st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(COUNTS, COUNTS)
def test_the_interval_holds_the_difference_and_turns_with_its_sides(a, b):
    there, back = newcombe(*a, *b), newcombe(*b, *a)
    assert -1 <= there.low <= there.estimate <= there.high <= 1
    assert (back.low, back.high) == pytest.approx((-there.high, -there.low))
    widest = sum(w.high - w.low for w in (wilson(*a), wilson(*b)))
    assert there.high - there.low <= widest + 1e-12


# ---------------------------------------------------------------- the noun


@pytest.mark.parametrize(
    "wrong", [{"clean_correct": 11}, {"robust_correct": 10}, {"robust_loss": -1}, {"n": 0},
              {"robust_loss": float("nan")}, {"rate": 0.4}],
)  # fmt: skip
def test_a_part_that_contradicts_itself_is_refused(wrong):
    with pytest.raises(ValidationError):
        part(**wrong)


def test_gaps_are_derived_and_survive_a_file(tmp_path, folder):
    gap, _ = measure_gap.gap_of_checkpoint(folder, n=10)
    gap = gap.model_copy(
        update={"training": part(robust_correct=9, robust_loss=0.5), "test": part()}
    )
    assert gap.gap == newcombe(9, 10, 4, 10)
    assert gap.gap.estimate == 0.5
    assert gap.loss_gap == 1.0
    text = store.pretty_json(gap)
    assert "_rate" not in text  # counts are stored, rates are not
    (tmp_path / NAME).write_text(text)
    assert read_gap(tmp_path, weights_sha256=gap.weights_sha256) == gap
    assert read_gap(tmp_path, weights_sha256="1" * 64) is None
    assert read_gap(tmp_path / "elsewhere", weights_sha256=gap.weights_sha256) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema_version": 2}', "[" * 70_000, "\xff"])
def test_a_broken_file_is_named_and_left(tmp_path, text):
    (tmp_path / NAME).write_text(text, encoding="latin-1")
    with pytest.raises(InvalidInput, match=r"gap\.json .* left in place"):
        read_gap(tmp_path, weights_sha256="0" * 64)
    assert (tmp_path / NAME).exists()


# ---------------------------------------------------------------- the measurement


def test_the_same_images_have_no_gap(fitted):
    data = datasets.load("digits", n=40)
    mode = fitted.train().training
    before = {k: v.clone() for k, v in fitted.state_dict().items()}
    gap = measure_gap.measure_gap(fitted, data, data, DIGITS, weights_sha256="0" * 64)
    assert gap.training == gap.test
    assert gap.gap.estimate == gap.loss_gap == 0
    assert gap.training.examples_sha256 == data.sha256
    assert fitted.training == mode  # as it was, and no statistic moved
    assert all(torch.equal(v, before[k]) for k, v in fitted.state_dict().items())
    assert all(p.grad is None for p in fitted.parameters())


def test_counts_are_those_of_the_record_of_these_images():
    """The test part is the board's PGD-20 column, image for image."""
    path = next(p for p in sorted(RECORDED.glob("*.json")) if len(p.stem) == 16)
    record = store.read(path)
    gap, card = measure_gap.gap_of_checkpoint(RECORDED, n=100)
    assert gap.attack == record.columns["pgd20"].outcomes[0].spec
    assert gap.test.robust_correct == int(record.standing("pgd20")[:100].sum())
    assert gap.test.clean_correct == int(record.clean_correct[:100].sum())
    assert gap.training.n == 100
    assert gap.training.split == "first 100 of train[200 drawn by seed 0]"
    assert gap.gap.low > 0.1  # it fits its 200 training images nearly perfectly
    assert (gap.epoch, gap.weights_sha256) == (100, card.weights_sha256)


def test_the_loss_is_that_of_the_whole_walk():
    """Linear logits under Linf: PGD from anywhere ends in the corner, whatever broke on the way."""
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2)).eval()
    images = 0.25 + 0.5 * torch.rand(12, 1, 8, 8)  # the box is out of reach
    labels = torch.randint(2, (12,))
    data = replace(datasets.load("digits", n=12), images=images, labels=labels, class_count=2)
    gap = measure_gap.measure_gap(net, data, data, DIGITS, weights_sha256="0" * 64)
    w, b = net[1].weight, net[1].bias
    wrong = w[1 - labels] - w[labels]
    margin = (wrong * images.flatten(1)).sum(1) + (b[1 - labels] - b[labels])
    worst = margin + 0.1 * wrong.abs().sum(1)
    loss = torch.nn.functional.softplus(worst).mean().item()
    assert gap.test.robust_loss == pytest.approx(loss, abs=1e-4)
    assert gap.test.robust_correct == int((worst < 0).sum())


def test_what_cannot_be_attacked_is_refused(fitted):
    data = datasets.load("digits", n=4)
    no_threat = DIGITS.model_copy(update={"threat": None})
    with pytest.raises(InvalidInput, match="no threat"):
        measure_gap.measure_gap(fitted, data, data, no_threat, weights_sha256="0" * 64)
    assert gap_file(fitted, data, no_threat, epoch=1) == {}
    with torch.no_grad():
        fitted[0].weight.fill_(torch.nan)
    with pytest.raises(MeasurementFailed, match="not finite"):
        measure_gap.measure_gap(fitted, data, data, DIGITS, weights_sha256="0" * 64)


def test_a_checkpoint_carries_the_gap_of_its_own_weights(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(measure_gap, "IMAGES", 30)
    model, card = checkpoint.load(folder)
    training, _ = datasets.training_split(DIGITS)
    files = gap_file(model, training, DIGITS, epoch=7)
    saved = checkpoint.save(tmp_path / "again", model, card, files=files)
    found = read_gap(tmp_path / "again", weights_sha256=saved.weights_sha256)
    assert found == measure_gap.gap_of_checkpoint(folder)[0]
    assert found is not None
    assert (found.training.n, found.test.n) == (30, 30)


# ---------------------------------------------------------------- the command


def test_the_command_prints_and_keeps_what_it_measured(folder, capsys):
    assert main(["gap", str(folder), "--n", "20", "--save"]) == 0
    printed = capsys.readouterr().out
    assert "tiny, epoch 7, digits linf:0.1, pgd(steps=20" in printed
    assert "iterate=any" in printed
    assert printed.count("n = 20") == 2
    assert main(["gap", str(folder), "--n", "20", "--json"]) == 0
    (said,) = json.loads(capsys.readouterr().out)
    kept = RobustGap.model_validate_json((folder / NAME).read_bytes())
    assert said["train"]["robust_correct"] == kept.training.robust_correct
    assert said["interval"] == [kept.gap.low, kept.gap.high]


def test_the_command_measures_the_others_where_one_is_wrong(folder, tmp_path, capsys):
    card = checkpoint.read_card(folder).model_copy(update={"train": None})
    foreign = tmp_path / "foreign"
    checkpoint.save(foreign, checkpoint.load_model(folder), card)
    assert main(["gap", str(foreign), str(folder), "--n", "5"]) == 2
    said = capsys.readouterr()
    assert "no training settings" in said.err
    assert "tiny" in said.out
    assert main(["gap", str(folder), "--n", "0"]) == 2
