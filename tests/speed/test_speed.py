"""tests.speed: the arithmetic of ratios, rows that run, and sides that do the same work."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from awp_train.train import build
from bench.attacks import Problem, fgsm, pgd
from bench.attacks.losses import cross_entropy, margin
from bench.catalogue import fitted_arguments
from bench.measure.evaluate import measure
from bench.records.store import pretty_json, write_atomic
from bench.schema import AwpConfig, InvalidInput, ThreatModel, TrainConfig
from bench.streams import Streams
from tests.attacks.problems import Seen
from tests.conftest import small_net
from tests.speed import attacks, board, cascade, report, startup, timing, training
from tests.speed.__main__ import RESULTS, ROWS, main
from tests.speed.report import SideResult, agreement, ratio, versus
from tests.speed.sides import MODULES, NOTES, PEER_ATTACKS, SUBJECTS, Subject, library
from tests.speed.timing import Side, Unavailable, alternate

ROOT = Path(__file__).parents[2]
THREAT = ThreatModel.parse("linf:0.1")
OURS = SideResult(name="ours", wall=(1.0, 2.0, 3.0), cpu=(1.0, 1.0, 1.0), broken=(0, 1))
PEER = SideResult(
    name="peer", version="9.8", wall=(4.0, 5.0, 9.0), cpu=(2.0, 2.0, 2.0), broken=(1, 2)
)
RESULT = report.Result(
    row="some-row", what="something", n=4, threads=1, repetitions=3, quick=False,
    sides=(OURS, PEER), comparisons=(versus("peer", "ours", 2.5),),
    absent=("foolbox: not here",), machine=report.machine(), created="2020-01-01T00:00:00Z",
)  # fmt: skip


# ---------------------------------------------------------------- timing, ratios, results


def test_sides_alternate_warm_up_outside_the_clock_and_their_last_answers_are_judged():
    now, log = [0.0], []

    def work(name: str, seconds: float) -> int:
        now[0] += seconds
        log.append(name)
        return len(log)

    judged = partial(np.equal, [0, 7])
    sides = [
        Side("a", partial(work, "a", 1.0), 1, warm_up=partial(work, "warm a", 50), broken=judged),
        Side("b", partial(work, "b", 3.0), 1),
    ]
    first, second = alternate(sides, 3, clock=lambda: (now[0], 2 * now[0]))
    assert log == ["warm a", "b", "a", "b", "b", "a", "a", "b"]
    assert (first.wall, second.wall, second.cpu) == ((1.0,) * 3, (3.0,) * 3, (6.0,) * 3)
    assert (first.broken, second.broken) == ((1,), None)


def test_ratio_is_of_medians_with_the_range_of_repetitions():
    assert ratio([4.0, 5.0, 9.0], [1.0, 2.0, 3.0]) == (2.5, 2.5, 4.0)
    assert ratio([1.0], [0.0]) is None  # the clock saw nothing


def test_ratios_are_shown_with_n_target_and_agreement():
    (comparison,) = RESULT.comparisons
    assert agreement(RESULT, comparison) == {
        "both": [1], "only ours": [0], "only peer": [2], "neither": [3],
    }  # fmt: skip
    blind = RESULT.model_copy(update={"sides": (OURS, PEER.model_copy(update={"broken": None}))})
    assert agreement(blind, comparison) is None
    text = report.summary(RESULT)
    for part in (
        "n = 4", "3 repetitions", "peer (9.8)", "peer / ours: 2.50x (2.50 to 4.00) wall",
        "2.00x CPU", "target >= 2.5", "both 1, only ours 1, only peer 1, neither 1",
        "left out: foolbox: not here",
    ):  # fmt: skip
        assert part in text, part
    assert "QUICK" in report.summary(RESULT.model_copy(update={"quick": True}))
    table = report.table([RESULT])
    assert "| `some-row` | 4 | 3 | 1 | peer (9.8) | ours | 2.50x (2.50 to 4.00) | 2.00x |" in table
    assert "| >= 2.5 | 1 / 1 / 1 / 1 |" in table
    assert "Nothing is measured yet" in report.table([])


def test_passes_stand_before_seconds_where_they_were_counted():
    assert "Passes of one run" not in report.table([RESULT])
    sides = (OURS.model_copy(update={"passes": 400}), PEER.model_copy(update={"passes": 9000}))
    whole = sides[1].model_copy(update={"name": "all", "version": "", "broken": (0, 1, 2, 3)})
    found = RESULT.model_copy(update={"sides": (*sides, whole)})
    text, table = report.summary(found), report.table([found])
    assert "  ours: 2 stand for 100 passes an image, 200 a standing image; 1 s wall" in text
    assert "  all: 0 stand for 2,250 passes an image, no image stands; 4 s wall" in text
    assert "| `some-row` | 4 | ours | 2 | 100 | 200 | 1.0 | 1.0 |" in table
    assert "| `some-row` | 4 | peer (9.8) | 2 | 2,250 | 4,500 | 2.0 | 4.0 |" in table
    assert "| `some-row` | 4 | all | 0 | 2,250 | none | 2.0 | 4.0 |" in table
    assert report.Result.model_validate_json(pretty_json(found)) == found


def test_committed_results_are_whole_measurements_and_their_table_is_theirs(tmp_path):
    results = report.read(ROOT / RESULTS)
    assert {one.row for one in results} <= set(ROWS) and not any(one.quick for one in results)
    assert (ROOT / RESULTS / report.TABLE).read_text(encoding="utf-8") == report.table(results)
    (tmp_path / "x.json").write_text(json.dumps({"row": "x"}))
    with pytest.raises(InvalidInput, match=r"x\.json is not a result"):
        report.read(tmp_path)


# ---------------------------------------------------------------- rows


@pytest.fixture
def tiny(monkeypatch):
    """Every network of the benchmark replaced by a small one."""

    def subject(networks: Path) -> Subject:
        net = small_net(seed=1)
        x = torch.rand(96, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            y = net(x).argmax(1)
        return Subject(net, x, y, THREAT)

    for name in SUBJECTS:
        monkeypatch.setitem(SUBJECTS, name, subject)
    monkeypatch.setattr(training, "configuration", partial(small_configuration, dataset="svhn"))


def small_configuration(*, awp: bool, half: bool = False, dataset: str = "digits") -> TrainConfig:
    return TrainConfig(
        dataset=dataset, arch="small_cnn",
        arch_args=fitted_arguments("small_cnn", dataset, width=4), threat=THREAT, attack_steps=2,
        awp=AwpConfig(gamma=0.01) if awp else None, craft_mode="train",
        precision="bf16" if half else "float32",
    )  # fmt: skip


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(r, marks=[pytest.mark.slow] * ("resnet18" in r or r == "cascade-cnn-a"))
        for r in ROWS
    ],
)
def test_every_row_runs_at_reduced_size(row, tiny, tmp_path, capsys):
    arguments = ["--quick", "--threads", "1", "--out", str(tmp_path), "--only", row]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    if "not measured" in printed:
        assert not list(tmp_path.glob("*.json"))
        pytest.skip(printed.strip())
    (found,) = report.read(tmp_path)
    assert found.quick and found.row == row and found.comparisons
    for comparison in found.comparisons:
        assert f"{comparison.longer} / {comparison.shorter}: " in printed
    assert (tmp_path / report.TABLE).read_text() == report.table([found])
    assert [bool(side.passes) for side in found.sides] == [row in cascade.ROWS] * len(found.sides)


def test_a_row_says_what_it_misses(tmp_path, capsys):
    arguments = ["--networks", str(tmp_path), "--out", str(tmp_path), "--only", "autoattack-cnn-a"]
    assert main(arguments) == 0
    assert "not measured" in (text := capsys.readouterr().out) and "--networks" in text
    assert main([*arguments, "--repetitions", "-1"]) == 2
    assert "must be at least 1" in capsys.readouterr().err


@pytest.mark.parametrize("row", ["autoattack-digits", "cascade-digits"])
def test_a_row_without_its_peer_is_left_out_with_the_reason(row, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(MODULES, "pyautoattack", "no_library_of_this_name")
    assert main(["--quick", "--threads", "1", "--out", str(tmp_path), "--only", row]) == 0
    assert "not measured: no_library_of_this_name cannot be imported" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_long_runs_want_to_be_confirmed_and_a_failed_measurement_is_no_result(
    tiny, tmp_path, monkeypatch, capsys
):
    def of_no_classifier(model, *examples, **settings):
        return measure(lambda x: torch.zeros(1), *examples, **settings)

    monkeypatch.setattr(timing, "estimate_seconds", lambda *_: 1e5)
    monkeypatch.setattr(attacks, "measure", of_no_classifier)
    arguments = ["--quick", "--threads", "1", "--out", str(tmp_path), "--only", "autoattack-digits"]
    assert main(arguments) == 2
    assert "--yes" in capsys.readouterr().err
    assert main([*arguments, "--yes"]) == 1
    assert "failed: expected logits" in capsys.readouterr().out
    assert not list(tmp_path.glob("*.json"))


# ---------------------------------------------------------------- peers do the same work
# Slow where a library is loaded first: it takes seconds.


def peer(name: str, column: str):
    """An adapter, or a skip where the library is not installed."""
    try:
        library(MODULES[name])
    except Unavailable as error:
        pytest.skip(str(error))
    return PEER_ATTACKS[name, column]


def test_every_peer_has_a_module_and_every_row_an_adapter():
    assert {name for name, _ in PEER_ATTACKS} == set(MODULES)
    assert set(NOTES) == {name for name, column in PEER_ATTACKS if column == "pgd20"}
    with pytest.raises(Unavailable, match="make bench-speed"):
        library("no_library_of_this_name")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "column"),
    [("torchattacks", "fgsm"), ("foolbox", "fgsm"),
     ("torchattacks", "pgd20"), ("foolbox", "pgd20"), ("foolbox", "cw")],
)  # fmt: skip
def test_last_iterate_of_a_peer_reaches_our_loss(name, column, net, labelled):
    x, y = labelled
    loss = margin if column == "cw" else cross_entropy
    settings = {} if column == "fgsm" else {"steps": 5, "start": "none"}
    theirs = peer(name, column)(net, x, y, THREAT, **settings)
    ours = fgsm if column == "fgsm" else partial(pgd, iterate="last", loss=loss.__name__)
    x_adv = ours(Problem(net, x, y, THREAT, Streams.for_images(x, 0)), **settings)
    assert torch.allclose(loss(net(theirs), y), loss(net(x_adv), y), rtol=1e-3, atol=1e-4)
    assert not torch.allclose(loss(net(x_adv), y), loss(net(x), y), atol=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(("column", "loss"), [("pgd20", "cross_entropy"), ("cw", "margin")])
def test_adv_lib_breaks_what_our_any_iterate_breaks(column, loss, net, labelled):
    """Its iterates are 0 to steps - 1, ours 1 to steps; iterate 0 of these images is right."""
    x, y = labelled
    right = net(x).argmax(1) == y
    x, y = x[right], y[right]
    threat = ThreatModel.parse("linf:0.02")
    theirs = peer("adv-lib", column)(net, x, y, threat, steps=6, start="none")
    problem = Problem(net, x, y, threat, Streams.for_images(x, 0))
    ours = pgd(problem, steps=5, start="none", loss=loss)
    broken = net(ours).argmax(1) != y
    assert 0 < broken.sum() < len(y)
    assert torch.equal(net(theirs).argmax(1) != y, broken)


def test_the_passes_of_pyautoattack_are_those_that_its_model_made(net, labelled):
    x, y = (part[4:10] for part in labelled)
    seen, threat = Seen(net), ThreatModel.parse("linf:0.5")  # the first attack breaks all
    found = cascade.counted(Subject(seen, x, y, threat))
    assert found.passes == seen.count.forward + seen.count.backward
    assert seen.count.forward > seen.count.backward >= 100 * len(x)


def test_pyautoattack_breaks_at_least_what_fgsm_breaks(net, labelled):
    x, y = (part[:8] for part in labelled)
    subject = Subject(net, x, y, THREAT)
    theirs = subject.broken(peer("pyautoattack", "autoattack")(net, x, y, THREAT))
    ours = subject.broken(fgsm(Problem(net, x, y, THREAT, Streams.for_images(x, 0))))
    assert theirs[ours].all() and theirs.any()
    assert not subject.broken(1 - x).any()  # outside the ball


# ---------------------------------------------------------------- the recipe written out plainly


@pytest.mark.parametrize("awp", [False, True])
def test_our_training_step_is_the_recipe(awp):
    config = small_configuration(awp=awp).model_copy(update={"lr": 0.01})
    batch = torch.rand(16, 1, 8, 8), torch.randint(10, (16,))
    assert training.update_cosine(config, build(config), *batch) > 0.9999


def test_the_recipe_moves_the_weights_for_awp_and_puts_them_back():
    x, y = torch.rand(16, 1, 8, 8), torch.randint(10, (16,))
    before = nn.utils.parameters_to_vector(build(small_configuration(awp=True)).parameters())

    def after(lr: float, gamma: float | None) -> torch.Tensor:
        awp = AwpConfig(gamma=gamma) if gamma else None
        config = small_configuration(awp=True).model_copy(update={"awp": awp, "lr": lr})
        model = build(config)
        training.plain_side(config, model, x, y, start=torch.zeros_like(x))()
        return nn.utils.parameters_to_vector(model.parameters())

    assert not torch.allclose(after(0.1, None), after(0.1, 0.5), atol=1e-4)
    assert torch.allclose(after(0.0, 0.1), before, rtol=0, atol=1e-6)


# ---------------------------------------------------------------- the board


def test_what_the_board_takes_stands_beside_its_targets_and_beside_the_rows(tmp_path):
    numbers = (
        board.Number(name="warm first page", unit="s", values=(0.5, 0.7, 0.6), target=1),
        board.Number(name="errors", unit="errors", values=(2,), target=0),
        board.Number(name="memory", unit="MB", values=(240.4,)),
    )
    taken = board.BoardSpeed(
        groups=2, rows=3, n=9, visitors=5, numbers=numbers, load=(0.1, 0.2),
        machine={"cores": "2"}, created="2026-11-24T12:00:00Z",
    )  # fmt: skip
    assert str(taken).splitlines()[:4] == [
        "6 records: 2 groups of 3, n = 9",
        "  warm first page: 0.60 s (0.50 to 0.70, 3 times); target 1 s: 0.60 of it",
        "  errors: 2 errors; target none",
        "  memory: 240 MB",
    ]
    write_atomic(tmp_path / report.BOARD, pretty_json(taken))
    write_atomic(tmp_path / "some-row.json", pretty_json(RESULT))
    assert report.read(tmp_path) == [RESULT]
    assert board.BoardSpeed.model_validate_json((tmp_path / report.BOARD).read_text()) == taken


@pytest.mark.parametrize("wrong", [{"groups": 26}, {"groups": 0}, {"rows": 201}, {"n": 0}])
def test_more_generated_records_than_there_are_is_refused(tmp_path, wrong):
    with pytest.raises(InvalidInput, match="expected 1 to 25 groups, 1 to 200 rows and n >= 1"):
        board.write_many(tmp_path, **wrong)
    (tmp_path / "x").touch()
    with pytest.raises(InvalidInput, match="is not empty"):
        board.write_many(tmp_path)


def test_the_time_of_a_command_is_the_median_of_its_rounds():
    found = {startup.HELP: [(0.3, 0.25), (0.9, 0.6), (0.4, 0.35)], "slow": [(2.0, 3.0)]}
    table = startup.lines(found)
    assert f"| `{startup.HELP}` | 0.40 | 0.30 to 0.90 | 0.35 |" in table
    assert table[-1].endswith("0.40 s, target 0.5 s: met")


def test_a_command_is_timed_as_a_process_of_its_own():
    wall, used = startup.timed(("-c", "sum(range(2_000_000))"))
    assert 0 < used < wall + 1
