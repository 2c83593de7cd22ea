"""One verdict a contrast: its family, what studies declare, and the same words wherever it is shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from awp_train import findings
from awp_train.findings import summary
from bench import table
from bench.board import charts, palette
from bench.board.article import verdict_class
from bench.exports import render
from bench.exports.data import json_text
from bench.records import store
from bench.records.store import pretty_json, write_atomic
from bench.schema import EvaluationRecord
from bench.stats.contrasts import Answer, answers, of_studies
from bench.stats.study_files import Finding, StudyFile, verdicts
from bench.stats.verdicts import DESCRIPTIVE, NOTHING
from bench.table import Group
from tests.board.board_pages import Open, html, opener
from tests.board.board_records import make_record, matched_pair, sha, write_all

GAIN = (0.030, 0.012, 0.041, 0.022, 0.052, 0.028)  # p = 0.003


@pytest.fixture
def open_app(monkeypatch: pytest.MonkeyPatch) -> Open:
    return opener(monkeypatch)


def over_seeds(
    kept: str, gains: tuple[float, ...], *, n_train: int = 200
) -> list[EvaluationRecord]:
    """A method of its own for every size of the training set."""
    pairs = (
        matched_pair(seed, kept, gain=gain, n_train=n_train, n=1000, protocol="gradient")
        for seed, gain in enumerate(gains)
    )
    return [record for pair in pairs for record in pair]


def against_control(records: list[EvaluationRecord], robust: float) -> list[EvaluationRecord]:
    """A control for every AWP model among the records."""
    found = []
    for record in records:
        if record.card.awp is None:
            continue
        vanilla = record.card.model_copy(update={"awp": None, "pair": None})
        assert vanilla.train is not None
        train = vanilla.train.model_copy(update={"recipe": "equal-compute", "awp": None})
        name = f"{record.card.name}-control"
        update = {
            "name": name,
            "train": train,
            "weights_sha256": sha(name),
            "control_of": record.card.name,
        }
        card = vanilla.model_copy(update=update)
        found.append(make_record(card, robust=robust, n=1000, protocol="gradient"))
    return found


def group_of(root: Path, *records: EvaluationRecord) -> Group:
    write_all(root, list(records))
    (group,) = table.build(root).groups
    return group


def by_kept(found: tuple[Answer, ...]) -> dict[tuple[str | None, bool], Answer]:
    """Epoch kept, and whether it is against a control -> the answer."""
    return {(a.method.pairs[0].awp.card.selected_on, a.control is not None): a for a in found}


def test_methods_and_controls_of_best_and_last_are_one_family(tmp_path: Path) -> None:
    twins = over_seeds("best", GAIN) + over_seeds("last", GAIN)
    found = answers(group_of(tmp_path, *twins, *against_control(twins, 0.53)))
    assert len(found) == 4
    of = "of digits, linf:0.15, gradient, n = 1,000"
    assert {answer.verdict.family for answer in found} == {f"the 4 contrasts {of}"}


def test_contrasts_beside_it_can_take_a_headline_away(tmp_path: Path) -> None:
    """p = 0.0143 alone passes; as the smallest of 4 it would have to be below 0.0125."""
    gains = (0.030, 0.002, 0.031, 0.012, 0.042, 0.018)
    (alone,) = answers(group_of(tmp_path / "alone", *over_seeds("best", gains)))
    assert 0.0125 < alone.verdict.effect.p_value < 0.05
    assert alone.verdict.headline
    others = [
        record for n in (300, 400, 500) for record in over_seeds("last", (0.01, -0.01), n_train=n)
    ]
    among = answers(group_of(tmp_path / "among", *over_seeds("best", gains), *others))
    assert len(among) == 4
    (same,) = (a for a in among if a.method.pairs[0].awp.card.selected_on == "validation")
    assert same.verdict.effect == alone.verdict.effect
    assert same.verdict.standing == NOTHING
    assert "not by Holm over the 4 contrasts" in same.sentence


# ---------------------------------------------------------------- what a study declares


def told(answer: Answer, kept: str, **fields: object) -> Finding:
    """What a study that trained these networks writes of a contrast of the table."""
    effect, pairs = answer.verdict.effect, answer.method.pairs
    return Finding(
        contrast="digits-at-awp minus digits-at",
        kept=kept,
        n=1000,
        seeds=tuple(range(effect.seeds)),
        records=tuple((p.awp.record.id, p.vanilla.record.id) for p in pairs),
        differences={"worst case": effect.each, "clean": effect.each},
        crossed=(effect.crossed.low, effect.crossed.high),
        **fields,
    )


def made_up(root: Path, *findings: Finding, primary: int, name: str = "made-up") -> StudyFile:
    study = StudyFile(
        name=name, question="Does it?", primary=primary, networks=(), findings=findings
    )
    write_atomic(root / "studies" / f"{name}.json", pretty_json(study))
    return study


def test_a_primary_contrast_carries_its_verdict_everywhere(open_app: Open, tmp_path: Path) -> None:
    twins = over_seeds("best", GAIN) + over_seeds("last", GAIN)
    group = group_of(tmp_path, *twins, *against_control(over_seeds("best", GAIN), 0.53))
    before = by_kept(answers(group))
    best, last = before["validation", False], before["last", False]
    study = made_up(tmp_path, told(best, "best", primary=True), told(last, "last"), primary=40)

    after = by_kept(answers(table.build(tmp_path).groups[0]))
    verdict = after["validation", False].verdict
    assert verdict.family == "the 40 primary contrasts of made-up"
    # 0.05 / 40: what was declared counts, measured or not.
    assert best.verdict.headline and not verdict.headline
    assert after["last", False].verdict.standing == DESCRIPTIVE
    assert "the 1 contrast of digits" in after["validation", True].verdict.family
    assert after["validation", True].verdict.effect == before["validation", True].verdict.effect

    (judged,) = findings.judge_all([study], table.build(tmp_path).groups)
    assert [v.words for v in judged[1]] == [
        after[kept, False].verdict.words for kept in ("validation", "last")
    ]
    shown = {
        "study": summary(*judged),
        "Markdown": render.markdown(table.build(tmp_path)).replace("\\", ""),
        "terminal": render.terminal_table(table.build(tmp_path)),
        "board": html(open_app(tmp_path, "awp")),
        "JSON": json_text(table.build(tmp_path).groups),
    }
    for where, text in shown.items():
        for answer in (after["validation", False], after["last", False]):
            assert answer.verdict.words in text, where
        assert best.verdict.words == "better" and "by Holm over the 40 primary" in text, where


def test_what_is_no_longer_all_there_is_not_carried(tmp_path: Path) -> None:
    group = group_of(tmp_path, *over_seeds("best", GAIN))
    (best,) = answers(group)
    made_up(tmp_path, told(best, "best", primary=True), primary=1)
    (carried,) = answers(table.build(tmp_path).groups[0])
    assert carried.verdict.family == "the 1 primary contrast of made-up"
    store.withdraw(best.method.pairs[0].awp.path, "measured on other images")
    (left,) = answers(table.build(tmp_path).groups[0])
    assert left.method.seeds == len(GAIN) - 1
    assert "of digits, linf:0.15, gradient" in left.verdict.family


def test_of_two_studies_that_declare_the_same_the_more_cautious_is_carried(tmp_path: Path) -> None:
    (best,) = answers(group_of(tmp_path, *over_seeds("best", GAIN)))
    for name, size in (("a", 1), ("b", 40), ("c", 2)):
        made_up(tmp_path, told(best, "best", primary=True), primary=size, name=name)
    made_up(tmp_path, told(best, "best"), primary=1, name="d")  # only describes it
    (answer,) = answers(table.build(tmp_path).groups[0])
    assert answer.verdict.family == "the 40 primary contrasts of b"


def test_a_study_on_part_of_the_seeds_has_the_verdict_of_its_table(tmp_path: Path) -> None:
    group = group_of(tmp_path, *over_seeds("best", GAIN))
    (answer,) = answers(group)
    whole = told(answer, "best")
    part = whole.model_copy(
        update={
            "seeds": whole.seeds[:3],
            "records": whole.records[:3],
            "differences": {k: v[:3] for k, v in whole.differences.items()},
        }
    )
    study = made_up(tmp_path, part, primary=0)
    found = verdicts(study, of_studies([group], [study]))
    assert found == (answer.verdict,)
    assert "| best | 3 | better (6 seeds in its table) |" in summary(study, found)


def test_a_best_epoch_that_is_the_last_is_not_taken_for_the_other_contrast(tmp_path: Path) -> None:
    """Then two records have one id; seed 0 alone would tell the wrong contrast."""
    best, last = over_seeds("best", GAIN), over_seeds("last", (GAIN[0], *[0.01, -0.01] * 2, 0.0))
    same = {r.card.name.replace("-best", "-last"): r.card.weights_sha256 for r in best[:2]}
    last = [
        make_record(
            r.card.model_copy(update={"weights_sha256": same[r.card.name]}),
            robust=r.worst_case, n=1000, protocol="gradient",
        ) if r.card.name in same else r
        for r in last
    ]  # fmt: skip
    assert {r.id for r in best} & {r.id for r in last}
    group = group_of(tmp_path, *best, *last)
    found = by_kept(answers(group))
    both = [found["validation", False], found["last", False]]
    study = made_up(tmp_path, told(both[0], "best"), told(both[1], "last"), primary=0)
    assert verdicts(study, of_studies([group], [study])) == tuple(a.verdict for a in both)
    assert both[0].verdict != both[1].verdict
    made_up(tmp_path, told(both[0], "best", primary=True), primary=1)
    after = by_kept(answers(table.build(tmp_path).groups[0]))
    assert "primary" in after["validation", False].verdict.family
    assert "primary" not in after["last", False].verdict.family


# ---------------------------------------------------------------- colours


@pytest.mark.parametrize("gains", [GAIN, tuple(-g for g in GAIN), GAIN[:3], (0.02, -0.02), (0.1,)])
def test_a_row_has_one_colour(tmp_path: Path, gains: tuple[float, ...]) -> None:
    (answer,) = answers(group_of(tmp_path, *over_seeds("best", gains)))
    verdict, method = answer.verdict, answer.method
    line = charts.ForestLine("a", method.differences["worst_case"], verdict)
    overview = charts.forest([line], "points").data[-1].marker
    detail = charts.by_attack(method, verdict).data[1].marker  # the worst case, after its seeds
    colour = charts.mark(verdict)[0]
    assert overview.color == detail.color == colour
    assert overview.symbol == detail.symbol
    way = {palette.BETTER: "better", palette.WORSE: "worse", palette.NOTHING: "open"}[colour]
    assert verdict_class(verdict).split()[0] == way
    assert overview.symbol.endswith("-open") == (bool(verdict.sign) and not verdict.headline)
    others = [trace.marker.color for trace in charts.by_attack(method, verdict).data[3::2]]
    assert set(others) == {palette.NOTHING}  # only the worst case has a verdict


def test_verdicts_of_an_export_are_data_too(tmp_path: Path) -> None:
    twins = over_seeds("best", GAIN)
    group = group_of(tmp_path, *twins, *against_control(twins, 0.53))
    (exported,) = json.loads(json_text([group]))
    for answer in answers(group):
        (row,) = exported["controls" if answer.control else "methods"]
        assert row["verdict"] == answer.verdict.standing
        assert row["p_value"] == answer.verdict.effect.p_value
        assert row["family"] == answer.verdict.family
        assert row["rejected_by_holm"] == answer.verdict.rejected
