"""Training curves and gaps on the pages: bands over seeds, vanilla beside AWP, kind to bad files."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import table
from bench.board import charts, curves, gaps
from bench.board.curves import band, robust_loss, robust_percent
from bench.gap import NAME, GapPart, RobustGap
from bench.records.store import pretty_json
from bench.schema import AttackSpec, ModelCard, ThreatModel
from bench.stats.contrasts import answers
from bench.training_log import Line
from tests.board.board_pages import Open, checked, html, opener
from tests.board.board_records import (
    make_card,
    make_record,
    matched_pair,
    sha,
    write_all,
    write_curve,
)


def log(rates: dict[int, float], *, part: str = "validation", losses: bool = True) -> list[Line]:
    """Robust accuracy by epoch on 200 images of a part and, a little higher, of training."""
    return [
        {"epoch": epoch, f"{part}_n": 200, f"{part}_robust_correct": round(200 * rate),
         "train_n": 100, "train_robust_correct": round(100 * min(1, rate + 0.2))}
        | ({f"{part}_robust_loss": 2 - rate, "train_robust_loss": 1 - rate} if losses else {})
        for epoch, rate in rates.items()
    ]  # fmt: skip


def a_gap(card: ModelCard, *, train: int = 198, test: int = 640) -> RobustGap:
    def part(name: str, right: int, n: int, loss: float) -> GapPart:
        return GapPart(
            split=f"{name}[0:{n}]", examples_sha256=sha(f"{name} {card.seed}"), n=n, clean_correct=n,
            robust_correct=right, robust_loss=loss,
        )  # fmt: skip

    return RobustGap(
        weights_sha256=card.weights_sha256, dataset=card.dataset, epoch=card.epoch_kept,
        threat=ThreatModel.parse("linf:0.15"), attack=AttackSpec(name="pgd"), seed=0,
        training=part("train", train, 200, 0.1), test=part("test", test, 1000, 1.9),
    )  # fmt: skip


# ---------------------------------------------------------------- bands


@given(
    st.lists(
        st.dictionaries(st.integers(1, 9), st.integers(0, 200), min_size=1), min_size=1, max_size=4
    )
)
def test_a_band_holds_every_run_at_the_epochs_they_share(runs):
    logs = [log({epoch: right / 200 for epoch, right in run.items()}) for run in runs]
    shared = sorted(set.intersection(*map(set, runs)))
    found = band(logs, "validation", robust_percent)
    if not shared:
        assert found is None
        return
    assert found is not None
    assert found.epochs == shared
    rates = np.array([[run[epoch] / 2 for epoch in shared] for run in runs])
    assert found.mean == pytest.approx(rates.mean(0))
    assert found.low == pytest.approx(rates.min(0))
    assert found.high == pytest.approx(rates.max(0))
    assert found.runs == len(runs)


def test_a_value_that_no_log_holds_has_no_band():
    assert band([log({1: 0.5}, losses=False)], "validation", robust_loss) is None
    assert band([], "validation", robust_percent) is None
    assert band([log({1: 0.5})], "test", robust_percent) is None


# ---------------------------------------------------------------- charts

VANILLA = [log({1: 0.3, 2: 0.5, 3: 0.45}), log({1: 0.32, 2: 0.48, 3: 0.41})]
AWP = [log({1: 0.3, 2: 0.49, 3: 0.52}), log({1: 0.31, 2: 0.5, 3: 0.53})]


def test_vanilla_and_awp_share_a_plot_and_differ_in_more_than_colour():
    figure = charts.training_curves({"AT": VANILLA, "AT-AWP": AWP})
    assert figure is not None
    lines = [trace for trace in figure.data if trace.name]
    assert [line.name for line in lines if line.showlegend] == [
        "AT, train", "AT, validation", "AT-AWP, train", "AT-AWP, validation",
    ]  # fmt: skip
    accuracy = {line.name: line for line in lines if line.showlegend}
    assert list(accuracy["AT, validation"].y) == pytest.approx([31, 49, 43])
    looks = {(line.line.dash, line.marker.symbol, line.line.color) for line in accuracy.values()}
    assert len(looks) == 4
    for one, other in itertools.combinations(accuracy.values(), 2):  # without any colour too
        assert (one.line.dash, one.marker.symbol) != (other.line.dash, other.marker.symbol)
    shaded = [trace for trace in figure.data if trace.fill == "tonexty"]
    assert len(shaded) == len(lines) == 8
    titles = {axis.title.text for axis in (figure.layout.yaxis, figure.layout.yaxis2)}
    assert titles == {"robust accuracy, %", "robust loss, nats"}


def test_one_run_has_no_band_and_old_logs_no_loss():
    figure = charts.training_curves({"AT": [log({1: 0.3, 5: 0.5}, losses=False)]}, kept=5)
    assert figure is not None
    assert [trace.name for trace in figure.data] == ["training images", "validation images"]
    assert not any(trace.fill for trace in figure.data)
    assert "yaxis2" not in figure.layout
    assert charts.training_curves({"AT": [[]]}) is None
    assert charts.training_curves({}) is None


def test_test_images_are_drawn_where_every_run_logged_them():
    tested = {"AT": [log({1: 0.3}, part="test")], "AT-AWP": [log({1: 0.4}, part="test")]}
    assert curves.shown_parts(tested) == ("train", "test")
    assert "200 test images" in curves.caption(tested)
    mixed = {**tested, "AT": VANILLA}
    assert curves.shown_parts(mixed) == ("train", "validation")


# ---------------------------------------------------------------- gaps


def test_the_sentence_of_a_method_compares_seed_by_seed():
    cards = [make_card(f"m{i}", seed=i) for i in range(3)]
    compared = [
        (a_gap(card, test=600 + 10 * i), a_gap(card, test=640 + 10 * i)) for i, card in enumerate(cards)
    ]  # fmt: skip
    assert all(gaps.alike(*both) for both in compared)
    said = gaps.sentence("AT", "AT-AWP", compared)
    assert "n = 200 training and 1,000 test images" in said
    assert "AT +38.0, AT-AWP +34.0; difference -4.0 points [-4.0, -4.0] over 3 seeds" in said
    assert "[no interval] over 1 seed." in gaps.sentence("AT", "AT-AWP", compared[:1])
    assert not gaps.alike(a_gap(cards[0]), a_gap(cards[1]))  # other images
    other = a_gap(cards[0]).model_copy(update={"attack": AttackSpec(name="fgsm")})
    assert not gaps.alike(a_gap(cards[0]), other)


@pytest.fixture
def open_app(monkeypatch: pytest.MonkeyPatch) -> Open:
    return opener(monkeypatch)


@pytest.fixture
def measured_pairs(tmp_path: Path) -> Path:
    """Two seeds of a pair with logs and gaps beside their records; one gap of other weights."""
    for seed in range(2):
        for record in matched_pair(seed):
            (path,) = write_all(tmp_path, [record])
            write_curve(path.parent, seed)
            gap = a_gap(record.card, test=600 if record.card.awp is None else 650)
            (path.parent / NAME).write_text(pretty_json(gap))
    return tmp_path


def test_the_page_about_awp_shows_curves_and_gaps_of_a_method(
    open_app: Open,
    measured_pairs: Path,
) -> None:
    app = open_app(measured_pairs, "awp")
    page = html(app)
    assert "Robust generalisation gap (PGD-20; n = 200 training and 1,000 test images)" in page
    assert "AT +39.0, AT-AWP +34.0; difference -5.0 points" in page
    assert "means over 2 seeds" in page
    assert len(app.get("plotly_chart")) == 4  # all methods, attacks, seeds, curves
    shown = next(frame.value for frame in app.dataframe if "n train" in frame.value)
    assert list(shown["gap"]) == pytest.approx([39, 34, 39, 34])
    assert set(shown["n test"]) == {1000}


def test_the_model_page_shows_the_gap_and_the_mean_of_the_last_epochs(
    open_app: Open,
    measured_pairs: Path,
) -> None:
    page = html(open_app(measured_pairs, "model", name="digits-at-seed0-last"))
    assert "robust on training images" in page
    assert "+39.0 points" in page
    assert "only 2 of the last 6 epochs logged: 95, 100" in page


@pytest.mark.parametrize("text", ["{", "[" * 70_000, '{"weights_sha256": "<script>"}'])
def test_a_broken_gap_is_named_and_the_rest_shown(
    open_app: Open,
    tmp_path: Path,
    text: str,
) -> None:
    (path,) = write_all(tmp_path, [make_record(make_card("a"))])
    (path.parent / NAME).write_text(text)
    app = checked(open_app(tmp_path, "model", name="a"))
    assert "is not a valid gap" in html(app) or "is larger than" in html(app)
    assert "<script>" not in html(app)


def test_a_gap_of_other_weights_is_not_shown(open_app: Open, tmp_path: Path) -> None:
    record = make_record(make_card("a"))
    (path,) = write_all(tmp_path, [record])
    other = a_gap(record.card).model_copy(update={"weights_sha256": sha("other")})
    (path.parent / NAME).write_text(pretty_json(other))
    assert "generalisation gap" not in html(open_app(tmp_path, "model", name="a"))


def test_pairs_without_logs_or_gaps_are_shown_as_before(tmp_path: Path) -> None:
    write_all(tmp_path, matched_pair(0))
    (answer,) = answers(table.build(tmp_path).groups[0])
    assert charts.paired_differences(answer.method, answer.verdict).data
