"""The page about AWP: every method, pair, control and study."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench import pairs, table
from bench.board import awp, studies
from bench.controls import controls
from bench.intervals import compare_paired
from bench.schema import EvaluationRecord, TrainConfig
from bench.table import WORST_CASE

from .board_pages import Open, columns, html, opener
from .board_records import make_card, make_record, matched_pair, write_all

HOSTILE = "<script>alert(1)</script>[x](javascript:alert(3)) \u202e=1+1" + "A" * 10_000


@pytest.fixture
def open_app(monkeypatch: pytest.MonkeyPatch) -> Open:
    return opener(monkeypatch)


# ---------------------------------------------------------------- did AWP help


def test_the_sentence_over_all_methods_also_says_no(tmp_path: Path) -> None:
    said = {}
    for name, gain in (("up", 0.1), ("none", 0.0), ("down", -0.1)):
        for seed in range(3):
            write_all(tmp_path / name, matched_pair(seed, "best", gain=gain, n=400))
        methods = pairs.methods(table.build(tmp_path / name).groups[0])
        said[name] = awp.overall(methods)
    assert said["up"] == "Best against best: AWP helped in these runs."
    assert said["down"] == "Best against best: AWP hurt in these runs."
    assert "no effect shown" in said["none"] or "too few" in said["none"]
    assert "no method can be judged" in awp.overall([])


def test_the_page_about_awp_lists_every_method_and_pair(open_app: Open, tmp_path: Path) -> None:
    for seed in range(2):
        for kept in ("best", "last"):
            write_all(tmp_path, matched_pair(seed, kept))
    app = open_app(tmp_path, "awp")
    page = html(app)
    assert "Demo data" in page
    assert "includes robust overfitting" in page
    by_method, by_pair = app.dataframe[0].value, app.dataframe[1].value
    assert list(by_method["method"]) == ["AT-AWP − AT, best", "AT-AWP − AT, last"]
    assert len(by_pair) == 4
    (group,) = table.build(tmp_path).groups
    best, last = pairs.methods(group)
    assert by_method["worst case"][0].startswith(
        f"{100 * best.differences[WORST_CASE].estimate:+.1f}"
    )
    chosen = open_app(tmp_path, "awp", compared="AT-AWP − AT, last")
    assert chosen.selectbox(key="compared").value == "AT-AWP − AT, last"
    assert last.name == "AT-AWP"
    assert "None in this table" in page  # no stronger control


def test_without_pairs_the_page_about_awp_says_what_to_do(open_app: Open, tmp_path: Path) -> None:
    write_all(tmp_path, [make_record(make_card("alone"))])
    app = open_app(tmp_path, "awp")
    assert "nothing can be said yet" in html(app)
    assert "make train-all" in app.code[0].value


def with_controls(seeds: int) -> list[EvaluationRecord]:
    """Pairs, and for each AWP model a control of its compute."""
    found = []
    for seed in range(seeds):
        vanilla, perturbed = matched_pair(seed)
        assert vanilla.card.train is not None
        train = vanilla.card.train.model_copy(update={"recipe": "equal-compute", "epochs": 220})
        card = make_card(
            f"digits-at-equal-compute-seed{seed}-last",
            train=TrainConfig.model_validate(train.model_dump()),
            seed=seed,
            control_of=perturbed.card.name,
        )
        found += [vanilla, perturbed, make_record(card, robust=0.53)]
    return found


def test_controls_are_gathered_over_seeds_and_compared_as_twins_are(tmp_path: Path) -> None:
    write_all(tmp_path, with_controls(3))
    (group,) = table.build(tmp_path).groups
    (control,) = controls(group)
    assert control.recipe == "equal-compute"
    assert control.method.seeds == 3
    assert [p.vanilla.card.control_of for p in control.method.pairs] == [
        p.awp.card.name for p in control.method.pairs
    ]
    for pair in control.method.pairs:
        expected = compare_paired(pair.awp.standing[WORST_CASE], pair.vanilla.standing[WORST_CASE])
        assert pair.comparisons[WORST_CASE] == expected
    assert control.sentence().startswith("Against equal-compute")
    assert [m.seeds for m in pairs.methods(group)] == [3]  # twins are still the twins


def test_a_control_of_nothing_is_no_control(tmp_path: Path) -> None:
    records = [r for r in with_controls(1) if r.card.awp is None]
    write_all(tmp_path, records)
    assert controls(table.build(tmp_path).groups[0]) == ()


def test_the_page_about_awp_shows_controls(open_app: Open, tmp_path: Path) -> None:
    write_all(tmp_path, with_controls(2))
    app = open_app(tmp_path, "awp")
    assert "Against equal-compute" in html(app)
    assert any("equal-compute" in str(name) for names in columns(app, "twin") for name in names)


# ---------------------------------------------------------------- studies


def test_a_study_is_shown_as_harmless_html() -> None:
    text = (
        f"# name\n\nWhat **is** it? {HOSTILE}\n\n| a | b |\n| --- | --- |\n| 1 | <b>2</b> |\n- x\n"
    )
    shown = str(studies.as_html(text))
    tags = set(re.findall(r"<\s*(\w+)", shown))
    assert tags == {"div", "h4", "p", "table", "tr", "th", "td", "ul", "li"}
    assert "\u202e" not in shown
    assert "<th>a</th><th>b</th>" in shown
    assert "<td>1</td><td>&lt;b&gt;2&lt;/b&gt;</td>" in shown
    assert len(shown) < 4000


def test_intervals_of_a_study_are_drawn_around_zero() -> None:
    rows = (
        "+1.8 [+0.5, +3.2]",
        "-1.0 [-4.0, +2.0]",
        "-2.0 [-3.0, -1.0]",
        "x",
        "-1.2 [no interval]",
    )
    text = "| a | gain |\n| --- | --- |\n" + "".join(f"| r | {cell} |\n" for cell in rows)
    shown = str(studies.as_html(text))
    styles = re.findall(r'class="board-line board-(\w+)" style="(.*?)"', shown)
    assert styles == [
        ("shown", "--at:72.5%;--low:56.2%;--high:90.0%"),
        ("open", "--at:37.5%;--low:0.0%;--high:75.0%"),
        ("shown", "--at:25.0%;--low:12.5%;--high:37.5%"),
    ]
    far = str(studies.as_html(text + "| r | -90.0 [-99.0, -80.0] |\n"))
    assert "--at:0.0%;--low:0.0%;--high:0.0%" in far  # cut off, so that the others can be seen
    assert far.count("board-line") == 4


def test_studies_are_listed_where_there_are_some(open_app: Open, tmp_path: Path) -> None:
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "digits-methods.md").write_text("# digits-methods\n\nDoes it help?\n")
    (tmp_path / "studies" / "broken.md").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "studies" / "README.md").write_text("# What the studies found\n")
    write_all(tmp_path, matched_pair(0))
    app = open_app(tmp_path, "awp")
    assert "Does it help?" in html(app)
    labels = [e.label for e in app.expander]
    first = labels.index("All studies in one table")
    assert labels[first + 1 :] == ["broken", "digits-methods"]
