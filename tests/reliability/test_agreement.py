"""Our engine beside the published one: what is compared, what is derived, what is not run twice."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bench import datasets
from bench.__main__ import main
from bench.attacks import Attack
from bench.measure import evaluate, shards
from bench.measure.question import engine_version
from bench.protocols import COLUMNS
from bench.reliability import agreement
from bench.reliability.agreement import Cell, Study, agreements
from bench.schema import InvalidInput, ThreatModel
from bench.schema.packing import pack_bits
from tests.conftest import toy

N = 200
LINF = ThreatModel.parse("linf:0.02")
WHOLE = COLUMNS["autoattack"]("linf", 10)


def made(ours: np.ndarray, reference: np.ndarray, *, version: str | None = None) -> Study:
    """A study of the whole column with given standing bits (S, N)."""
    n = ours.shape[1]
    cells = []
    for engine, rows in zip(agreement.ENGINES, (ours, reference), strict=True):
        said = version or engine_version(engine, 256)
        for seed, row in enumerate(rows):
            cells.append(
                Cell(
                    column="autoattack", column_id=WHOLE.column_id, engine=engine,
                    engine_version=said, seed=seed, clean=pack_bits(np.ones(n, bool)),
                    standing=pack_bits(row),
                )
            )  # fmt: skip
    return Study(
        name="made", weights_sha256="0" * 64, dataset="made", split="test[0:200]", n=n,
        examples_sha256="0" * 64, threat=LINF, cells=tuple(cells),
    )  # fmt: skip


def derived(ours: np.ndarray, reference: np.ndarray, **more: float) -> agreement.Agreement:
    (found,) = agreements(made(ours, reference), [WHOLE], seeds=len(ours), batch=256, **more)
    return found


def rows(*counts: int) -> np.ndarray:
    """(S, N) bits of which the first so many stand."""
    return np.array([np.arange(N) < c for c in counts])


# ---------------------------------------------------------------- arithmetic


def test_means_and_disagreements_of_known_bits():
    found = derived(rows(100, 102), rows(100, 104))
    assert (found.n, found.seeds) == (N, (0, 1))
    assert (found.ours.mean, found.ours.low, found.ours.high) == (0.505, 0.5, 0.51)
    assert (found.reference.mean, found.reference.low, found.reference.high) == (0.51, 0.5, 0.52)
    assert found.equivalence.difference.estimate == pytest.approx(-0.005)
    assert found.between.count == 4
    assert found.between.mean == pytest.approx((0 + 4 + 2 + 2) / 4 / N)
    assert found.within_reference.mean == pytest.approx(4 / N)
    assert found.within_ours.mean == pytest.approx(2 / N)
    assert found.disagrees_no_more


def test_engines_that_break_other_images_disagree_more():
    """Equal means, other images: equivalence alone would not see it."""
    a = rows(100, 100, 100, 100, 100)
    found = derived(a, np.roll(a, 10, axis=1))
    assert found.equivalent
    assert found.between.mean == pytest.approx(20 / N)
    assert found.disagrees_no_more is False


@pytest.mark.parametrize(
    ("ours", "reference", "proven", "holds"),
    [
        ((100,) * 5, (100,) * 5, None, True),
        ((101,) * 5, (101,) * 4 + (100,), None, True),  # 0.1 point of 200 images x 5 seeds is 1
        ((101,) * 5, (101,) * 3 + (100,) * 2, None, False),
        ((90,) * 5, (100,) * 5, None, True),  # stronger is better
        ((97,) * 5, (100,) * 5, 0.485, True),
        ((97,) * 4 + (96,), (100,) * 5, 0.485, False),
        ((100,) * 4, (100,) * 4, None, None),
        ((96,) * 2, (100,) * 2, 0.485, False),  # below a proven bound is wrong at once
        ((100,) * 5 + (150,), (100,) * 6, None, True),  # the first five seeds decide
    ],
)
def test_truth(ours, reference, proven, holds):
    found = derived(rows(*ours), rows(*reference), proven=proven)
    assert found.truth.holds is holds


def test_few_seeds_of_equal_counts_are_no_proof():
    assert derived(rows(*(100,) * 4), rows(*(100,) * 4)).equivalent is None
    assert derived(rows(*(100,) * 5), rows(*(100,) * 5)).equivalent is True
    assert derived(rows(*(102,) * 5), rows(*(100,) * 5)).equivalent is False


def test_one_seed_decides_nothing():
    found = derived(rows(100), rows(100))
    assert found.equivalent is None
    assert found.within_reference is None
    assert found.disagrees_no_more is None
    text = agreement.summary(made(rows(100), rows(100)), [found])
    assert "needs 2 seeds" in text
    raw = json.dumps(agreement.as_json(made(rows(100), rows(100)), [found]), allow_nan=False)
    assert json.loads(raw)["agreements"][0]["equivalence"]["difference"]["low"] is None


def test_cells_of_another_version_are_not_mixed_in():
    old = made(rows(100), rows(100), version="0")
    assert agreements(old, [WHOLE], seeds=1, batch=256) == []
    assert len(agreement.unanswered(old, [WHOLE], seeds=1, batch=256)) == 2
    new = made(rows(100), rows(100))
    assert agreement.unanswered(new, [WHOLE], seeds=1, batch=256) == []
    # The published engine's answer depends on the batch, ours does not.
    assert [q.engine for q in agreement.unanswered(new, [WHOLE], seeds=1, batch=64)] == [
        "reference"
    ]
    assert [q.seed for q in agreement.unanswered(new, [WHOLE], seeds=2, batch=256)] == [1, 1]


def test_seeds_are_compared_only_where_both_engines_have_run():
    (found,) = agreements(made(rows(100, 101, 99), rows(100)), [WHOLE], seeds=3, batch=256)
    assert found.seeds == (0,)
    assert found.ours.count == found.reference.count == 1


def test_columns_are_each_attack_alone_and_the_whole():
    columns = agreement.compared_columns(LINF, 10)
    assert [c.name for c in columns] == ["apgd-ce", "apgd-t", "fab-t", "square", "autoattack"]
    assert columns[-1] == WHOLE
    assert [c.attacks for c in columns[:4]] == [(a,) for a in WHOLE.attacks]
    assert "apgd-margin" in [c.name for c in agreement.compared_columns(LINF, 3)]
    (square,) = agreement.compared_columns(LINF, 10, ["square"])
    assert square.name == "square"
    with pytest.raises(InvalidInput, match="Did you mean 'square'"):
        agreement.compared_columns(LINF, 10, ["squared"])


def test_a_damaged_study_is_named_and_left(tmp_path):
    path = tmp_path / "study.json"
    path.write_text('{"cells"')
    with pytest.raises(InvalidInput, match=r"study\.json is not JSON"):
        agreement.read(path)
    assert path.read_text() == '{"cells"'


def test_a_cell_added_meanwhile_by_another_process_stays(tmp_path):
    path, full = tmp_path / "study.json", made(rows(100, 101), rows(100, 102))
    empty = full.model_copy(update={"cells": ()})
    agreement.keep(path, empty, WHOLE, full.cells[0])
    now = agreement.keep(path, empty, WHOLE, full.cells[1])  # knows nothing of the first
    assert now.cells == full.cells[:2] == agreement.read(path).cells
    assert now.columns == {WHOLE.column_id: WHOLE}
    assert agreement.keep(path, now, WHOLE, full.cells[1]).cells == full.cells[:2]


# ---------------------------------------------------------------- end to end


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command on a small network and 16 images of a folder."""
    monkeypatch.chdir(tmp_path)
    toy(tmp_path, 16, 1)
    words = ["agree", "toy", "--dataset", "arrays:data", "--dataset-name", "toy-images"]
    return [*words, "--threat", "linf:0.01", "--out", "kept", "--json"]


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, int]]:
    """(column, engine, seed) of every measurement made."""
    calls: list[tuple[str, str, int]] = []
    real = evaluate.measure

    def counting(*a, **k):
        calls.append((k["protocol"].columns[0].name, k["engine"], k["seed"]))
        return real(*a, **k)

    monkeypatch.setattr(evaluate, "measure", counting)
    return calls


@pytest.mark.slow
def test_study_end_to_end_and_nothing_is_run_twice(call, counted, capsys):
    two = [*call, "--columns", "apgd-ce", "--seeds", "2"]
    assert main(two) == 0
    (first,) = json.loads(capsys.readouterr().out)
    runs = [("apgd-ce", engine, seed) for seed in (0, 1) for engine in agreement.ENGINES]
    assert counted == runs
    (row,) = first["agreements"]
    assert (row["n"], row["seeds"], row["ours"]["count"]) == (16, [0, 1], 2)
    assert 0 < row["ours"]["mean"] < 15 / 16  # the clean error never stands
    assert row["truth"]["holds"] is None

    counted.clear()
    assert main(two) == 0
    assert counted == []
    (again,) = json.loads(capsys.readouterr().out)
    assert again == first

    assert main([*call, "--columns", "apgd-ce", "--seeds", "3"]) == 0
    assert counted == [("apgd-ce", engine, 2) for engine in agreement.ENGINES]

    (path,) = Path("kept").rglob("*.json")
    kept = agreement.read(path)
    assert kept.examples_sha256 == datasets.load("arrays:data", name="toy-images").sha256
    assert len(kept.cells) == 6
    assert not list(Path("var").rglob("*.npz"))


def test_a_failed_cell_leaves_a_gap_and_is_run_again(call, counted, capsys, monkeypatch):
    def crashes(*a, **k):
        raise RuntimeError("out of luck")

    words = [*call, "--columns", "apgd-ce", "--seeds", "1", "--proven", "0.0"]
    with monkeypatch.context() as patched:
        patched.setitem(shards.ATTACKS, "apgd-ce", Attack(crashes))
        assert main(words) == 1
    said = capsys.readouterr()
    assert "apgd-ce, ours, seed 0: apgd-ce raised RuntimeError: out of luck" in said.err
    assert json.loads(said.out)[0]["agreements"] == []
    counted.clear()
    assert main(words) == 0
    assert counted == [("apgd-ce", "ours", 0)]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--seeds", "0"], "at least 1"),
        (["--proven", "48.5"], "a share such as 0.485"),
        (["toy", "--proven", "0.4"], "one checkpoint"),
        (["--columns", "fab"], "Did you mean 'fab-t'"),
    ],
)
def test_wrong_calls_say_what_to_do(more, said, call, capsys):
    assert main([*call[:2], *more, *call[2:]]) == 2
    assert said in capsys.readouterr().err
