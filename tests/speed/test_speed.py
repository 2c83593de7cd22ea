"""tests.speed: the arithmetic of ratios, rows that run, and sides that do the same work."""

from __future__ import annotations

import copy
import json
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from awp_train.recipes import fitted_arguments
from awp_train.train import build
from bench.attacks import Problem, fgsm, pgd
from bench.attacks.losses import cross_entropy, margin
from bench.measure.evaluate import measure
from bench.records import store
from bench.schema import AwpConfig, InvalidInput, ThreatModel, TrainConfig
from bench.streams import Streams
from tests.conftest import small_net
from tests.speed import board, contest, evaluation, gradient, many_records, report, training
from tests.speed.__main__ import RESULTS, ROWS, main
from tests.speed.networks import SUBJECTS, Subject, Unavailable
from tests.speed.peers import MODULES, PEER_ATTACKS, library
from tests.speed.plain_awp import plain_step, recipe
from tests.speed.report import Comparison, Result, SideResult, Target, agreement
from tests.speed.timing import Side, alternate, ratio

ROOT = Path(__file__).parents[2]
THREAT = ThreatModel.parse("linf:0.1")


def result(**changes: object) -> Result:
    """Two sides that broke 0, 1 and 1, 2 of 4 images."""
    plain = Result(
        row="some-row",
        what="something",
        n=4,
        threads=1,
        repetitions=3,
        quick=False,
        sides=(
            SideResult(name="ours", wall=(1.0, 2.0, 3.0), cpu=(1.0, 1.0, 1.0), broken=(0, 1)),
            SideResult(
                name="peer", version="9.8", wall=(4.0, 5.0, 9.0), cpu=(2.0, 2.0, 2.0), broken=(1, 2)
            ),
        ),
        comparisons=(
            Comparison(longer="peer", shorter="ours", target=Target(bound=">=", value=2.5)),
        ),
        machine=report.machine(),
        created="2020-01-01T00:00:00Z",
    )
    return plain.model_copy(update=changes)


# ---------------------------------------------------------------- timing and ratios


def test_sides_alternate_and_warm_up_outside_the_clock():
    now, log = [0.0], []

    def work(name: str, seconds: float) -> str:
        now[0] += seconds
        log.append(name)
        return name

    sides = [
        Side("a", partial(work, "a", 1.0), 1, warm_up=partial(work, "warm a", 50.0)),
        Side("b", partial(work, "b", 3.0), 1),
    ]
    timed = alternate(sides, 3, clock=lambda: (now[0], 2 * now[0]))
    assert log == ["warm a", "b", "a", "b", "b", "a", "a", "b"]
    assert timed["a"].wall == [1.0] * 3 and timed["b"].wall == [3.0] * 3
    assert timed["b"].cpu == [6.0] * 3
    assert timed["a"].answer == "a"


def test_alternate_refuses_no_repetition():
    with pytest.raises(InvalidInput, match="at least 1, got 0"):
        alternate([], 0)


def test_ratio_is_of_medians_with_the_range_of_repetitions():
    found = ratio([4.0, 5.0, 9.0], [1.0, 2.0, 3.0])
    assert found is not None
    assert (found.median, found.low, found.high) == (2.5, 2.5, 4.0)
    same = ratio([3.0, 1.0], [3.0, 1.0])
    assert same is not None
    assert same == (1.0, 1.0, 1.0)


def test_ratio_of_what_the_clock_did_not_see_is_none():
    assert ratio([1.0], [0.0]) is None
    with pytest.raises(InvalidInput, match="1 and 2"):
        ratio([1.0], [1.0, 1.0])


# ---------------------------------------------------------------- results


def test_agreement_parts_the_images():
    found = agreement(result(), result().comparisons[0])
    assert found == {"both": [1], "only ours": [0], "only peer": [2], "neither": [3]}


def test_agreement_needs_bits_on_both_sides():
    one = result()
    blind = one.sides[1].model_copy(update={"broken": None})
    assert agreement(result(sides=(one.sides[0], blind)), one.comparisons[0]) is None


def test_a_result_comes_back_from_its_file(tmp_path):
    report.write(result(), tmp_path)
    assert report.read(tmp_path) == [result()]


def test_a_damaged_result_is_named(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps({"row": "x"}))
    with pytest.raises(InvalidInput, match=r"x\.json is not a result"):
        report.read(tmp_path)


def test_ratios_are_shown_with_n_target_and_agreement():
    text = report.summary(result(absent=("foolbox: not here",)))
    for part in (
        "n = 4", "3 repetitions", "peer (9.8)", "peer / ours: 2.50x (2.50 to 4.00) wall",
        "2.00x CPU", "target >= 2.5", "both 1, only ours 1, only peer 1, neither 1",
        "left out: foolbox: not here",
    ):  # fmt: skip
        assert part in text, part
    assert "QUICK" in report.summary(result(quick=True))


def test_the_table_has_a_line_a_comparison():
    text = report.table([result()])
    assert "| `some-row` | 4 | 3 | 1 | peer (9.8) | ours | 2.50x (2.50 to 4.00) | 2.00x |" in text
    assert "| >= 2.5 | 1 / 1 / 1 / 1 |" in text
    assert "Nothing is measured yet" in report.table([])


def test_the_committed_table_is_that_of_the_committed_results():
    folder = ROOT / RESULTS
    assert (folder / report.TABLE).read_text(encoding="utf-8") == report.table(report.read(folder))


def test_committed_results_are_whole_measurements_of_rows_that_exist():
    for one in report.read(ROOT / RESULTS):
        assert one.row in ROWS and not one.quick, one.row


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
    monkeypatch.setattr(
        training,
        "configuration",
        lambda *, awp, half=False: small_configuration(awp=awp, half=half, dataset="svhn"),
    )


def small_configuration(*, awp: bool, half: bool = False, dataset: str = "digits") -> TrainConfig:
    return TrainConfig(
        dataset=dataset,
        arch="small_cnn",
        arch_args=fitted_arguments("small_cnn", dataset, width=4),
        threat=THREAT,
        attack_steps=2,
        awp=AwpConfig(gamma=0.01) if awp else None,
        craft_mode="train",
        precision="bf16" if half else "float32",
    )


@pytest.mark.parametrize(
    "row", [pytest.param(r, marks=[pytest.mark.slow] * (r in gradient.ROWS)) for r in ROWS]
)
def test_every_row_runs_at_reduced_size(row, tiny, tmp_path, capsys):
    arguments = ["--quick", "--threads", "1", "--out", str(tmp_path), "--only", row]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    if "not measured" in printed:
        assert not list(tmp_path.glob("*.json"))
        pytest.skip(printed.strip())
    (found,) = report.read(tmp_path)
    assert found.quick and found.row == row
    names = {side.name for side in found.sides}
    assert found.comparisons
    for comparison in found.comparisons:
        assert {comparison.longer, comparison.shorter} <= names
        assert f"{comparison.longer} / {comparison.shorter}: " in printed
    assert (tmp_path / report.TABLE).read_text() == report.table([found])


def test_a_row_says_what_it_misses(tmp_path, capsys):
    arguments = ["--networks", str(tmp_path), "--out", str(tmp_path), "--only", "autoattack-cnn-a"]
    assert main(arguments) == 0
    assert "not measured" in (text := capsys.readouterr().out) and "--networks" in text


def test_long_runs_want_to_be_confirmed(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(contest, "estimate_seconds", lambda *_: 1e5)
    arguments = ["--quick", "--threads", "1", "--out", str(tmp_path), "--only", "verify-digits"]
    assert main(arguments) == 2
    assert "--yes" in capsys.readouterr().err
    assert main([*arguments, "--yes"]) == 0


def test_a_measurement_that_fails_is_no_result(tiny, tmp_path, monkeypatch, capsys):
    def of_no_classifier(model, *examples, **settings):
        return measure(lambda x: torch.zeros(1), *examples, **settings)

    monkeypatch.setattr(evaluation, "measure", of_no_classifier)
    arguments = ["--quick", "--threads", "1", "--out", str(tmp_path)]
    assert main([*arguments, "--only", "autoattack-digits"]) == 1
    assert "failed: expected logits" in capsys.readouterr().out
    assert not list(tmp_path.glob("*.json"))


# ---------------------------------------------------------------- peers do the same work
# Slow where a library is loaded first: it takes seconds.


def peer(name: str, attack: str):
    """An adapter, or a skip where the library is not installed."""
    try:
        library(MODULES[name])
    except Unavailable as error:
        pytest.skip(str(error))
    return PEER_ATTACKS[name, attack]


def test_every_peer_has_a_module_and_every_row_an_adapter():
    assert {name for name, _ in PEER_ATTACKS} == set(MODULES)
    assert set(gradient.NOTES) == {name for name, attack in PEER_ATTACKS if "pgd" in attack}


def test_a_library_that_is_not_there_is_unavailable():
    with pytest.raises(Unavailable, match="make bench-speed"):
        library("no_library_of_this_name")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["torchattacks", "foolbox"])
def test_fgsm_of_a_peer_reaches_our_loss(name, net, labelled):
    x, y = labelled
    theirs = peer(name, "fgsm")(net, x, y, THREAT)
    ours = fgsm(Problem(net, x, y, THREAT, Streams.for_images(x, 0)))
    torch.testing.assert_close(
        cross_entropy(net(theirs), y), cross_entropy(net(ours), y), rtol=1e-3, atol=1e-4
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "attack"),
    [("torchattacks", "pgd"), ("foolbox", "pgd"), ("foolbox", "margin-pgd")],
)
def test_last_iterate_of_a_peer_reaches_our_loss(name, attack, net, labelled):
    x, y = labelled
    theirs = peer(name, attack)(net, x, y, THREAT, steps=5, start="none")
    loss = "margin" if attack == "margin-pgd" else "cross_entropy"
    problem = Problem(net, x, y, THREAT, Streams.for_images(x, 0))
    ours = pgd(problem, steps=5, start="none", iterate="last", loss=loss)
    measure = margin if loss == "margin" else cross_entropy
    torch.testing.assert_close(measure(net(theirs), y), measure(net(ours), y), rtol=1e-3, atol=1e-4)
    assert not torch.allclose(measure(net(ours), y), measure(net(x), y), atol=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("attack", ["pgd", "margin-pgd"])
def test_adv_lib_breaks_what_our_any_iterate_breaks(attack, net, labelled):
    """Its iterates are 0 to steps - 1, ours 1 to steps; iterate 0 of these images is right."""
    x, y = labelled
    right = net(x).argmax(1) == y
    x, y = x[right], y[right]
    threat = ThreatModel.parse("linf:0.02")
    theirs = peer("adv-lib", attack)(net, x, y, threat, steps=6, start="none")
    loss = "margin" if attack == "margin-pgd" else "cross_entropy"
    problem = Problem(net, x, y, threat, Streams.for_images(x, 0))
    ours = pgd(problem, steps=5, start="none", loss=loss)
    broken = net(ours).argmax(1) != y
    assert 0 < broken.sum() < len(y)
    assert torch.equal(net(theirs).argmax(1) != y, broken)


def test_pyautoattack_breaks_at_least_what_fgsm_breaks(net, labelled):
    x, y = labelled
    x, y = x[:8], y[:8]
    subject = Subject(net, x, y, THREAT)
    theirs = gradient.broken_images(subject, peer("pyautoattack", "autoattack")(net, x, y, THREAT))
    ours = gradient.broken_images(
        subject, fgsm(Problem(net, x, y, THREAT, Streams.for_images(x, 0)))
    )
    assert theirs[ours].all() and theirs.any()


def test_an_image_outside_the_ball_is_not_broken(net, labelled):
    x, y = labelled
    subject = Subject(net, x, y, THREAT)
    assert not gradient.broken_images(subject, 1 - x).any()


# ---------------------------------------------------------------- the recipe written out plainly


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    return torch.rand(16, 1, 8, 8), torch.randint(10, (16,))


@pytest.mark.parametrize("awp", [False, True])
def test_our_training_step_is_the_recipe(awp, batch):
    config = small_configuration(awp=awp).model_copy(update={"lr": 0.01})
    assert training.update_cosine(config, build(config), *batch) > 0.9999


def test_the_recipe_differs_with_and_without_awp(batch):
    model = build(small_configuration(awp=True)).train()
    weights = []
    for gamma in (None, 0.5):
        one = copy.deepcopy(model)
        state = recipe(one, lr=0.1, momentum=0.9, weight_decay=0.0)
        start = torch.zeros_like(batch[0])
        plain_step(state, *batch, eps=0.1, step=0.05, steps=2, gamma=gamma, start=start)
        weights.append(nn.utils.parameters_to_vector(one.parameters()))
    assert not torch.allclose(*weights, atol=1e-4)


def test_the_recipe_puts_the_weights_back(batch):
    model = build(small_configuration(awp=True)).train()
    before = nn.utils.parameters_to_vector(model.parameters()).clone()
    state = recipe(model, lr=0.0, momentum=0.9, weight_decay=5e-4)
    plain_step(state, *batch, eps=0.1, step=0.05, steps=2, gamma=0.1)
    torch.testing.assert_close(
        nn.utils.parameters_to_vector(model.parameters()), before, rtol=0, atol=1e-6
    )


# ---------------------------------------------------------------- the board


def test_a_number_of_the_board_stands_beside_its_target():
    number = board.Number(name="warm first page", unit="s", values=(0.5, 0.7, 0.6), target=1)
    assert str(number) == "warm first page: 0.60 s (0.50 to 0.70, 3 times); target 1 s: 0.60 of it"
    assert str(board.Number(name="errors", unit="errors", values=(2,), target=0)) == (
        "errors: 2 errors; target none"
    )
    assert str(board.Number(name="memory", unit="MB", values=(240.4,))) == "memory: 240 MB"


def test_what_the_board_takes_lies_beside_the_rows_and_is_none(tmp_path):
    taken = board.BoardSpeed(
        groups=2, rows=3, n=9, visitors=5, numbers=(), load=(0.1, 0.2),
        machine={"cores": "2"}, created="2026-11-24T12:00:00Z",
    )  # fmt: skip
    store.write_atomic(tmp_path / report.BOARD, store.pretty_json(taken))
    assert report.read(tmp_path) == []
    assert board.BoardSpeed.model_validate_json((tmp_path / report.BOARD).read_text()) == taken
    assert str(taken).startswith("6 records: 2 groups of 3, n = 9\n")


@pytest.mark.parametrize("wrong", [{"groups": 26}, {"groups": 0}, {"rows": 201}, {"n": 0}])
def test_more_generated_records_than_there_are_is_refused(tmp_path, wrong):
    with pytest.raises(InvalidInput, match="expected 1 to 25 groups, 1 to 200 rows and n >= 1"):
        many_records.write_many(tmp_path, **wrong)
    (tmp_path / "x").touch()
    with pytest.raises(InvalidInput, match="is not empty"):
        many_records.write_many(tmp_path)
