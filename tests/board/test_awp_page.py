"""The page about AWP: every method, pair, control and study."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench import table
from bench.board import awp, studies
from bench.records.store import pretty_json, write_atomic
from bench.schema import EvaluationRecord, TrainConfig
from bench.stats import contrasts
from bench.stats.contrasts import answers, controls
from bench.stats.intervals import compare_paired
from bench.stats.study_files import Finding, StudyFile, verdicts
from bench.table import WORST_CASE
from tests.board.board_pages import Open, columns, html, opener
from tests.board.board_records import make_card, make_record, matched_pair, write_all

HOSTILE = "<script>alert(1)</script>[x](javascript:alert(3)) \u202e=1+1" + "A" * 10_000


@pytest.fixture
def open_app(monkeypatch: pytest.MonkeyPatch) -> Open:
    return opener(monkeypatch)


# ---------------------------------------------------------------- did AWP help


def test_the_sentence_over_all_methods_also_says_no(tmp_path: Path) -> None:
    said = {}
    for name, gain in (("up", 0.1), ("none", 0.0), ("down", -0.1)):
        for seed in range(3):
            change = gain and gain + 0.01 * seed
            write_all(tmp_path / name, matched_pair(seed, "best", gain=change, n=400))
        said[name] = awp.overall(answers(table.build(tmp_path / name).groups[0]))
    assert said["up"] == "Best against best, AWP minus its twin: indication: better."
    assert said["down"] == "Best against best, AWP minus its twin: indication: worse."
    assert "nothing shown" in said["none"] or "too few" in said["none"]
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
    best, last = contrasts.methods(group)
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
    assert control.control == "equal-compute"
    assert control.seeds == 3
    assert [p.vanilla.card.control_of for p in control.pairs] == [
        p.awp.card.name for p in control.pairs
    ]
    for pair in control.pairs:
        expected = compare_paired(pair.awp.standing[WORST_CASE], pair.vanilla.standing[WORST_CASE])
        assert pair.comparisons[WORST_CASE] == expected
    (twin, against) = answers(group)
    assert (twin.control, against.control) == (None, against.control)
    assert against.sentence.startswith("Against equal-compute")
    assert against.verdict.family == twin.verdict.family  # one family a table
    assert [m.seeds for m in contrasts.methods(group)] == [3]  # twins are still the twins


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


def finding(
    kept: str, each: tuple[float, ...], crossed: tuple[float, float], **fields: object
) -> Finding:
    """What a study found of one contrast, on records that no table shows."""
    given = {"contrast": "a-awp minus a", "n": 1000, **fields}
    ids = tuple((f"t{kept}{seed}", f"c{kept}{seed}") for seed in range(len(each)))
    return Finding(
        kept=kept, seeds=tuple(range(len(each))), records=ids, crossed=crossed,
        differences={"worst case": each, "clean": each, "gap": each}, **given,
    )  # fmt: skip


def study_file(*findings: Finding, name: str = "one", primary: int = 0) -> StudyFile:
    return StudyFile(
        name=name, question="Does it?", primary=primary, networks=(), findings=findings
    )


LOW = (0.03, 0.02, 0.025, 0.03, 0.022, 0.021)


def test_a_line_of_a_study_has_the_colour_of_its_verdict_and_parses_no_text() -> None:
    """Both cells read `+2.5 [+2.0, +2.9]`; seeds x images decides."""
    shown = study_file(finding("best", LOW, (0.01, 0.04)), finding("last", LOW, (-0.001, 0.04)))
    found = verdicts(shown)
    assert [v.standing for v in found] == ["better", "nothing shown"]
    drawn = "".join(map(str, studies._whole(shown, found)))
    first, second = drawn.split("<tr>")[2:4]
    lines = [re.findall(r'class="board-line ([\w ]+)"', row) for row in (first, second)]
    assert lines == [["better", "open", "open"], ["open", "open", "open"]]  # worst case, gap, clean
    assert "<td>better</td>" in first and "<td>nothing shown</td>" in second
    text = "| a | gain |\n| --- | --- |\n| r | +1.8 [+0.5, +3.2] |\n"
    assert "board-line" not in str(studies.as_html(text))


def test_the_lines_of_a_column_share_one_scale_and_one_far_away_is_cut_off() -> None:
    near = [finding("best", LOW, (0.01, 0.04), contrast=f"c{k}") for k in range(3)]
    far = finding("best", (-0.9, -0.8, -0.9), (-0.95, -0.7), contrast="far")
    shown = study_file(*near, far)
    drawn = "".join(map(str, studies._whole(shown, verdicts(shown))))
    ends = re.findall(r"--at:([\d.]+)%;--low:([\d.]+)%;--high:([\d.]+)%", drawn)
    assert len(ends) == 3 * 4
    assert len(set(ends[:3])) == 1
    assert all(float(low) <= float(at) <= float(high) for at, low, high in ends)
    assert set(ends[-1]) == {"0.0"}


def test_hostile_text_of_a_study_file_is_text(open_app: Open, tmp_path: Path) -> None:
    write_all(tmp_path, matched_pair(0))
    shown = study_file(finding("best", LOW, (0.01, 0.04), contrast=HOSTILE[:1500]))
    path = tmp_path / "studies" / "one.json"
    write_atomic(path, pretty_json(shown))
    page = html(open_app(tmp_path, "awp"))
    assert "Does it?" in page and "&lt;script&gt;" in page
    assert not set(re.findall(r"<\s*(\w+)", page)) & {"script", "img", "iframe"}


@pytest.mark.parametrize("spoiled", ["{", "[]", '{"name": "one"}', "\x00", '{"name": 1e999}'])
def test_a_study_file_that_cannot_be_read_is_named_and_left(
    open_app: Open, tmp_path: Path, spoiled: str
) -> None:
    write_all(tmp_path, matched_pair(0))
    path = tmp_path / "studies" / "one.json"
    path.parent.mkdir()
    path.write_text(spoiled)
    assert open_app(tmp_path, "awp").title
    (note,) = table.build(tmp_path).notes
    assert "one.json is not a valid study" in note and "left in place" in note
    assert path.read_text() == spoiled


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
