"""README on AWP: every figure is that of a study or a table, and none is written by hand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from awp_train import readme
from awp_train.__main__ import main
from awp_train.readme import BEGIN, END, Every, OfStudy, OfTable, Sentence
from bench import table
from bench.records.store import pretty_json, write_atomic
from bench.schema import InvalidInput
from bench.stats.contrasts import answers
from bench.stats.study_files import StudyFile
from tests.board.board_records import finding, matched_pair, write_all

ROOT = Path(__file__).parents[2]
AROUND = f"# Mine\n\n12.5 % of mine\n{BEGIN}\n{END}\nand +9.9 points of mine\n"
QUOTED = Sentence(
    "AWP: {best} ({best.said}); all: {every}.",
    {"best": OfStudy("small", "a-awp minus a", "best"), "every": Every("small", "-awp")},
)
TOLD = "* AWP: +2.5 points [+2.0, +2.9] (better; n = 1,000, 6 seeds); all: better for 1 of 1 contrasts."


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A results folder with one study, beside a README that quotes it."""
    monkeypatch.setattr(readme, "SENTENCES", (QUOTED,))
    study = StudyFile(name="small", question="?", primary=0, networks=(), findings=(finding(),))
    write_atomic(tmp_path / "results/studies/small.json", pretty_json(study))
    (tmp_path / "README.md").write_text(AROUND)
    return tmp_path / "results"


def retell(out: Path, *flags: str) -> int:
    return main(["retell", "--out", str(out), *flags])


def test_the_figures_are_those_of_the_study_and_the_rest_of_the_file_stays(out: Path) -> None:
    assert retell(out, "--check") == 1
    assert retell(out) == 0
    text = (out.parent / "README.md").read_text()
    assert text.split(BEGIN)[0] == AROUND.split(BEGIN)[0]
    assert text.split(END)[1] == AROUND.split(END)[1]
    assert TOLD in " ".join(text.split())
    assert retell(out, "--check") == 0
    assert retell(out) == 0
    assert (out.parent / "README.md").read_text() == text


@pytest.mark.parametrize(
    ("hand", "written"), [("+2.5", "+5.2"), ("6 seeds", "8 seeds"), ("better", "much better")]
)
def test_what_is_written_by_hand_makes_the_check_fail(
    out: Path, capsys: pytest.CaptureFixture[str], hand: str, written: str
) -> None:
    retell(out)
    path = out.parent / "README.md"
    text = path.read_text()
    path.write_text(text.replace(hand, written, 1))
    capsys.readouterr()
    assert retell(out, "--check") == 1
    assert capsys.readouterr().err.startswith(f"stale: {path}; write it again with")
    assert retell(out) == 0
    assert path.read_text() == text


@pytest.mark.parametrize(
    ("figure", "reason"),
    [
        (OfStudy("gone", "a-awp minus a", "best"), "of the study gone, .*make study NAME=gone"),
        (
            OfStudy("small", "a-awp minus b", "best"),
            "quotes a-awp minus b, best, of the study small",
        ),
        (
            OfStudy("small", "a-awp minus a", "last"),
            "quotes a-awp minus a, last, of the study small",
        ),
        (Every("small", "-rwp"), "contrasts of …-rwp of the study small"),
        (OfTable("digits", "linf:0.15", "standard", 200, "digits-at-awp", "last"), "measure it"),
    ],
)
def test_a_figure_that_is_gone_is_named_and_the_other_files_are_written(
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    figure: readme.Source,
    reason: str,
) -> None:
    monkeypatch.setattr(readme, "SENTENCES", (QUOTED, Sentence("{x}", {"x": figure})))
    for flags in (["--check"], []):
        assert retell(out, *flags) == 2
        err = capsys.readouterr().err
        assert re.search(reason, " ".join(err.split()))
        assert "take the sentence out of awp_train/readme.py" in " ".join(err.split())
    assert (out / "studies/small.md").exists()
    assert (out.parent / "README.md").read_text() == AROUND


@pytest.mark.parametrize(
    "text", [BEGIN, END, f"{END}\n{BEGIN}\n", f"{BEGIN}\n{END}\n{BEGIN}\n{END}\n"]
)
def test_half_a_place_is_refused(out: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    (out.parent / "README.md").write_text(text)
    assert retell(out) == 2
    assert "expected one line" in capsys.readouterr().err
    assert (out.parent / "README.md").read_text() == text


@pytest.mark.parametrize("text", [None, "# Mine\n"])
def test_a_readme_without_a_place_is_left_alone(out: Path, text: str | None) -> None:
    path = out.parent / "README.md"
    path.unlink()
    if text is not None:
        path.write_text(text)
    assert retell(out) == 0
    assert retell(out, "--check") == 0
    assert (path.read_text() if path.exists() else None) == text


def test_a_figure_of_a_table_is_its_answer_over_the_seeds_of_one_run(tmp_path: Path) -> None:
    write_all(tmp_path, [r for seed in range(2) for r in matched_pair(seed)])
    others = [r for seed in range(2) for r in matched_pair(seed, n_train=100, gain=0.2)]
    write_all(tmp_path, others)
    groups = table.build(tmp_path).groups
    answer = next(a for a in answers(groups[0]) if "200 training images" in a.what)
    quoted = OfTable("digits", "linf:0.15", "standard", 200, "digits-at-awp", "last")
    found = quoted.found((), groups)
    assert str(found) == answer.difference.split(", seeds x images")[0]
    assert found.said == f"{answer.verdict.standing}; n = 200, 2 seeds"
    with pytest.raises(InvalidInput, match="no such figure"):
        OfTable("digits", "linf:0.15", "gradient", 200, "digits-at-awp", "last").found((), groups)


def test_the_committed_readme_has_no_figure_but_these() -> None:
    """That they are those of the results is held by the test of retell's files."""
    text = (ROOT / "README.md").read_text()
    section = text.partition("## What AWP did here")[2].partition("\n## ")[0]
    block = section.partition(BEGIN)[2].partition(END)[0]
    outside = section.replace(block, "")
    assert re.findall(r"[-+]?\d+[\d.,]*", re.sub(r"CIFAR-\d+", "", outside)) == []
    bullets = [" ".join(each.split()) for each in block.split("\n* ")[1:]]
    assert len(bullets) == len(readme.SENTENCES)
    for bullet in bullets:
        effects = re.findall(r"[-+]\d+\.\d points( \[[-+]\d+\.\d, [-+]\d+\.\d\])?", bullet)
        assert effects
        assert all(effects), "a difference without its interval"
        assert "n = " in bullet


def test_no_template_holds_a_result() -> None:
    sizes = {"500", "2,000", "10,000", "59,000"}  # training images, in the names of the contrasts
    for sentence in readme.SENTENCES:
        typed = re.sub(r"\{[^}]*\}", "", sentence.text)
        assert {n.rstrip(".,") for n in re.findall(r"\d[\d.,]*", typed)} <= sizes
        for name, source in sentence.figures.items():
            if isinstance(source, OfStudy | OfTable):
                assert f"{{{name}.said}}" in sentence.text
