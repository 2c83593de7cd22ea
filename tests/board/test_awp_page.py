"""The page about AWP: every method, pair, control and study, its gap and training curves."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import parse_qsl

import pytest

from bench import table
from bench.board import awp, studies, training
from bench.gap import NAME
from bench.records.store import pretty_json
from bench.schema import AttackSpec
from bench.stats import contrasts
from bench.stats.contrasts import answers, controls
from bench.stats.intervals import compare_paired
from bench.stats.study_files import verdicts
from bench.table import WORST_CASE
from tests.board.board_pages import Open, columns, headers, html
from tests.board.board_records import (
    a_gap,
    finding,
    make_card,
    make_record,
    matched_pair,
    study_file,
    with_controls,
    write_all,
    write_curve,
)


def test_every_method_and_pair_is_listed_with_its_gap_and_curves(
    open_app: Open, tmp_path: Path
) -> None:
    for seed in range(2):
        for kept in ("best", "last"):
            for record in matched_pair(seed, kept):
                (path,) = write_all(tmp_path, [record])
                write_curve(path.parent, seed)
                gap = a_gap(record.card, test=600 if record.card.awp is None else 650)
                (path.parent / NAME).write_text(pretty_json(gap))
    app = open_app(tmp_path, "awp", compared="AT-AWP − AT, last")
    assert app.selectbox(key="compared").value == "AT-AWP − AT, last"
    page = html(app)
    for text in (
        "Demo data",
        "Best against best",
        "Last against last: with robust overfitting",
        "No stronger baseline in this table",
        "AT-AWP − AT, digits</a>",  # on the axis of all tables
        "Robust generalisation gap (PGD-20; n = 200 training and 1,000 test images)",
        "AT +39.0, AT-AWP +34.0; difference -5.0 points",
        "means over 2 seeds",
    ):
        assert text in page
    assert len(app.get("plotly_chart")) == 2  # attacks and seeds, curves
    by_method = app.dataframe[0].value
    assert list(by_method["method"]) == ["AT-AWP − AT, best", "AT-AWP − AT, last"]
    (group,) = table.build(tmp_path).groups
    best, last = (method.differences[WORST_CASE] for method in contrasts.methods(group))
    for said, difference in zip(by_method["worst case"], (best, last), strict=True):
        assert said.startswith(f"{100 * difference.estimate:+.1f}")
    assert [len(names) for names in columns(app, "twin")] == [4]
    gaps = next(frame.value for frame in app.dataframe if "n train" in frame.value)
    assert list(gaps["gap"]) == pytest.approx([39, 34, 39, 34])
    assert set(gaps["n test"]) == {1000}
    page = html(open_app(tmp_path, "model", name="digits-at-seed0-last"))
    for text in ("robust on training images", "+39.0 points", "only 2 of the last 6 epochs"):
        assert text in page


def test_without_pairs_it_says_what_to_do(open_app: Open, tmp_path: Path) -> None:
    write_all(tmp_path, [make_record(make_card("alone"))])
    app = open_app(tmp_path, "awp")
    assert "Not measured yet" in html(app)
    assert "make train-all" in app.code[0].value


def test_the_sentence_of_a_gap_compares_seed_by_seed():
    cards = [make_card(f"m{i}", seed=i) for i in range(3)]
    compared = [
        (a_gap(card, test=600 + 10 * i), a_gap(card, test=640 + 10 * i)) for i, card in enumerate(cards)
    ]  # fmt: skip
    assert all(training.alike(*both) for both in compared)
    said = training.gap_sentence("AT", "AT-AWP", compared)
    assert "n = 200 training and 1,000 test images" in said
    assert "AT +38.0, AT-AWP +34.0; difference -4.0 points [-4.0, -4.0] over 3 seeds" in said
    assert "[no interval] over 1 seed." in training.gap_sentence("AT", "AT-AWP", compared[:1])
    assert not training.alike(a_gap(cards[0]), a_gap(cards[1]))  # other images
    other = a_gap(cards[0]).model_copy(update={"attack": AttackSpec(name="fgsm")})
    assert not training.alike(a_gap(cards[0]), other)


# ---------------------------------------------------------------- controls


def test_controls_are_gathered_over_seeds_and_compared_as_twins_are(tmp_path: Path) -> None:
    write_all(tmp_path, [record for seed in range(3) for record in with_controls(seed)])
    (group,) = table.build(tmp_path).groups
    (control,) = controls(group)
    assert control.control == "equal-compute"
    assert control.seeds == 3
    for pair in control.pairs:
        assert pair.vanilla.card.control_of == pair.awp.card.name
        expected = compare_paired(pair.awp.standing[WORST_CASE], pair.vanilla.standing[WORST_CASE])
        assert pair.comparisons[WORST_CASE] == expected
    (twin, against) = answers(group)
    assert (twin.control is None, against.control is None) == (True, False)
    assert against.sentence.startswith("Against equal-compute")
    assert against.verdict.family == twin.verdict.family  # one family a table
    assert [m.seeds for m in contrasts.methods(group)] == [3]  # twins are still the twins


def test_a_control_of_nothing_is_no_control(tmp_path: Path) -> None:
    write_all(tmp_path, [r for r in with_controls(0) if r.card.awp is None])
    assert controls(table.build(tmp_path).groups[0]) == ()


def test_controls_of_best_and_last_of_several_methods_are_shown_with_all_that_follows(
    open_app: Open, tmp_path: Path
) -> None:
    """A recipe of a control has one a method and kept epoch."""
    recipes = ("equal-compute", "best-vanilla")
    for n_train in (200, 500):
        for kept in ("best", "last"):
            write_all(tmp_path, with_controls(0, recipes, kept, n_train=n_train))
    (group,) = table.build(tmp_path).groups
    assert len(controls(group)) == 2 * 2 * len(recipes)
    app = open_app(tmp_path, "awp")
    for recipe in recipes:
        assert html(app).count(f"Against {recipe}") == 4
        assert any(recipe in str(name) for names in columns(app, "twin") for name in names)
    assert len(columns(app, "twin")) == 1 + 2 * 2 * len(recipes)  # of twins, and of each control


# ---------------------------------------------------------------- studies


def test_a_line_of_a_study_has_the_colour_of_its_verdict() -> None:
    """Both cells read `+2.5 [+2.0, +2.9]`; seeds x images decides."""
    shown = study_file(finding("best"), finding("last", crossed=(-0.001, 0.04)))
    found = verdicts(shown)
    assert [v.standing for v in found] == ["better", "nothing shown"]
    drawn = "".join(map(str, studies.whole(shown, found)))
    first, second = drawn.split("<tr>")[2:4]
    lines = [re.findall(r'class="board-line ([\w ]+)"', row) for row in (first, second)]
    assert lines == [["better", "open", "open"], ["open", "open", "open"]]  # worst case, gap, clean
    assert "<td>better</td>" in first and "<td>nothing shown</td>" in second


def test_the_lines_of_a_column_share_one_scale_and_one_far_away_is_cut_off() -> None:
    near = [finding(contrast=f"c{k}") for k in range(3)]
    far = finding("best", (-0.9, -0.8, -0.9), (-0.95, -0.7), contrast="far")
    shown = study_file(*near, far)
    drawn = "".join(map(str, studies.whole(shown, verdicts(shown))))
    ends = re.findall(r"--at:([\d.]+)%;--low:([\d.]+)%;--high:([\d.]+)%", drawn)
    assert len(ends) == 3 * 4
    assert len(set(ends[:3])) == 1
    assert all(float(low) <= float(at) <= float(high) for at, low, high in ends)
    assert set(ends[-1]) == {"0.0"}


def test_a_study_file_that_cannot_be_read_is_named_and_left(open_app: Open, tmp_path: Path) -> None:
    write_all(tmp_path, matched_pair(0))
    spoiled = ["{", "[]", '{"name": "one"}', "\x00", '{"name": 1e999}']
    (tmp_path / "studies").mkdir()
    paths = [tmp_path / "studies" / f"{place}.json" for place in range(len(spoiled))]
    for path, text in zip(paths, spoiled, strict=True):
        path.write_text(text)
    app = open_app(tmp_path, "awp")
    assert "Studies" not in headers(app)
    notes = table.build(tmp_path).notes
    assert len(notes) == len(spoiled)
    assert all("left in place" in note for note in notes)
    assert all("is not a valid study" in note or "is not JSON" in note for note in notes)
    assert [path.read_text() for path in paths] == spoiled


# ---------------------------------------------------------------- one table


def test_every_line_of_a_table_leads_to_its_method_in_detail(
    open_app: Open, tmp_path: Path
) -> None:
    """Two methods of one name at two epochs: four lines, four addresses, four labels."""
    for n_train in (200, 500):
        for kept in ("best", "last"):
            write_all(tmp_path, matched_pair(0, kept, n_train=n_train))
    page = html(open_app(tmp_path, "awp"))
    links = re.findall(r'href="did-awp-help\?([^"]*compared[^"]*)"[^>]*>([^<]+)</a>', page)
    of_both = [f"AT-AWP − AT ({n} training images)" for n in (200, 500)]
    assert [text for _, text in links] == 2 * of_both
    asked = [dict(parse_qsl(address.replace("&amp;", "&")))["compared"] for address, _ in links]
    assert len(set(asked)) == 4
    for name in asked[1:3]:
        app = open_app(tmp_path, "awp", compared=name)
        assert app.selectbox(key="compared").value == name
        assert not app.info
    assert open_app(tmp_path, "awp", compared="of nothing").info


def test_the_table_says_which_epoch_and_which_baseline(tmp_path: Path) -> None:
    recipes = ("equal-compute", "best-vanilla")
    for kept in ("best", "last"):
        write_all(tmp_path, with_controls(0, recipes, kept))
    (group,) = table.build(tmp_path).groups
    found = answers(group)
    names = awp.labels([a.method for a in found if a.control is None])
    drawn = re.sub(r"<i .*?</i>|<[^>]+>", "|", awp.table_of(group, found, names))
    said = [text for text in drawn.split("|") if text.strip()]
    assert [
        text for text in said if "AT-AWP" in text or " against " in text or "Beside" in text
    ] == [
        "Best against best: epochs chosen on validation images",
        "AT-AWP − AT",
        "Last against last: with robust overfitting, which AWP also delays",
        "AT-AWP − AT",
        "Beside stronger baselines",
        "AT-AWP − AT tuned as much, best",
        "AT-AWP − AT with its compute, best",
        "AT-AWP − AT tuned as much, last",
        "AT-AWP − AT with its compute, last",
    ]
    assert said.count("one seed shows nothing") == 6
