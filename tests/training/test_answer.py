"""The answer of a study of tuned arms says what its file and its lists of tries say, and no more."""

from __future__ import annotations

import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from awp_train import choice
from awp_train.__main__ import main
from awp_train.answer import answered, drawn
from awp_train.choice import expected_best
from awp_train.findings import found
from awp_train.spaces import ARMS, KINDS
from awp_train.studies import STUDIES, Arm, Contrast, tuned
from bench.notation import points
from bench.schema import InvalidInput
from bench.sources import checkpoint
from bench.stats.intervals import detectable
from bench.stats.study_files import StudyFile, verdicts
from tests.training.test_studies import carried_out, chosen, measured

__all__ = ["carried_out", "chosen"]  # fixtures: a study carried out; every draw of every arm listed

AWP, AT = tuned("digits-at-awp-tuned"), tuned("digits-at-tuned")
GAINS = [46, 42, 27, 19, 20, 31]


def networks(gains: list[int], *, gap: int = 20) -> list:
    """Of AT tuned and AWP tuned, at the last epoch; the gap between training and validation in %."""
    each = [(AWP, seed, 600 + gain) for seed, gain in enumerate(gains)]
    each += [(AT, seed, 600) for seed in range(len(gains))]
    return [
        replace(measured(*one), train_robust_correct=100 + 2 * gap, validation_robust_correct=50)
        for one in each
    ]


def told(file: StudyFile, folder) -> dict[str, str]:
    return answered(file, verdicts(file), folder)


def test_the_paragraph_names_the_family_the_effort_and_what_could_be_seen(chosen):
    file = found("tuned", networks(GAINS))
    text = told(file, chosen)["tuned-answer.md"]
    quoted = next(line for line in text.splitlines() if line.startswith("Robust test accuracy"))
    assert "digits-at-awp-tuned minus digits-at-tuned: +3.1 points [+1.9, +4.3], seeds x" in quoted
    assert ", better." in quoted and "8 settings an arm" in quoted and "6 seeds, mean" in quoted
    assert (
        "the 4 contrasts that were declared beforehand, under Holm's procedure; 3 of them" in quoted
    )
    seen = detectable([gain / 1000 for gain in GAINS], level=0.05 / 4)
    assert f"four times in five is {100 * seen:.1f} points" in quoted
    assert "images of the tuned controls is 20.0 points" in quoted
    row = next(line for line in text.splitlines() if line.startswith("| digits-at-awp-tuned"))
    best = dict(zip(ARMS[str(AWP)].columns, ARMS[str(AWP)].settings[-1], strict=True))
    assert f"| 8 | weight decay {best['weight_decay']:g}, gamma {best['awp.gamma']:g}" in row
    assert f"| better | {100 * seen:.1f} |" in row
    # What is not measured has its row too, with what was chosen and no number.
    assert re.search(r"\| fashion_mnist-2000-at-tuned \| 4 \| weight decay .* \|  \|  \|", text)
    assert "| digits-at |  | as published |  |" in text


def test_everything_but_the_primary_contrasts_describes(chosen):
    other = [replace(m, arm=Arm("digits-at")) if m.arm == AT else m for m in networks(GAINS)]
    file = found("tuned", [replace(m, arm=AT) if m.arm == AWP else m for m in other])
    text = told(file, chosen)["tuned-answer.md"]
    assert "None of the 4 primary contrasts is measured yet." in text
    row = next(line for line in text.splitlines() if "| digits-at | +3.1" in line)
    assert row.startswith("| digits-at-tuned | 8 | weight decay")
    assert "| +3.1 [+1.9, +4.3] |" in row and "| descriptive |" in row


@pytest.mark.parametrize(
    ("gap", "standing"), [(20, "better"), (5, "better"), (4, "no verdict"), (-3, "no verdict")]
)
def test_where_nothing_overfits_there_is_no_verdict(gap, standing, chosen):
    file = found("tuned", networks(GAINS, gap=gap))
    (verdict,) = verdicts(file)
    assert verdict.standing == standing and verdict.family == "the 4 primary contrasts of tuned"
    assert StudyFile.model_validate_json(file.model_dump_json()) == file
    text = told(file, chosen)["tuned-answer.md"]
    said = f"the gap of the control is {points(gap / 100)} points, and below +5.0 nothing overfits"
    assert (said in text) == (standing == "no verdict")
    unknown = [replace(m, train_n=0) for m in networks(GAINS)]
    assert verdicts(found("tuned", unknown))[0].words == (
        "no verdict: the gap of the control is not known, and below +5.0 nothing overfits"
    )


def test_what_is_not_tried_yet_is_said_and_what_has_no_tuned_arm_has_no_answer(tmp_path):
    file = found("tuned", networks(GAINS[:1]))
    texts = told(file, tmp_path)
    assert set(texts) == {"tuned-answer.md"}  # no curve yet
    assert "one seed shows nothing" in texts["tuned-answer.md"]
    assert "not tried yet" in texts["tuned-answer.md"] and "inf" not in texts["tuned-answer.md"]
    plain = found("digits-controls", [])
    assert told(plain, tmp_path) == told(plain.model_copy(update={"name": "gone"}), tmp_path) == {}


def test_a_choice_at_an_edge_or_half_tried_is_said_in_the_table(chosen):
    path = chosen / "digits-at-tuned.csv"
    head, *rows = path.read_text().splitlines()
    edge = min(rows, key=lambda row: float(row.split(",")[0]))
    path.write_text("\n".join([head, edge]) + "\n")
    row = next(
        line
        for line in told(found("tuned", networks(GAINS)), chosen)["tuned-answer.md"].splitlines()
        if line.startswith("| digits-at-tuned |")
    )
    assert "weight_decay at the low edge" in row and "not all tried yet" in row


def test_the_figure_draws_the_expected_best_of_every_arm():
    rates = {f"digits-at-{kind}": (0.5, 0.6, 0.55) for kind in KINDS}
    rates["digits-trades-tuned"] = (0.7,)
    svg = drawn(rates)
    root = ElementTree.fromstring(svg)
    text = [each.text for each in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {*KINDS, "digits-at", "digits-trades"} <= set(text)
    assert svg.count("stroke-width='2'") == len(rates) + len(KINDS)  # and the legend
    best = expected_best((0.5, 0.6, 0.55))
    low, high = best[0] - 0.005, best[-1] + 0.005
    assert {f"{100 * low:.1f}", f"{100 * high:.1f}"} <= set(text)
    assert drawn(rates) == svg


@pytest.mark.slow
def test_a_study_of_tuned_arms_is_carried_out_once_they_are_chosen(
    tmp_path, monkeypatch, chosen, carried_out
):
    small = (("n_train", "40"), ("batch", "20"), ("n_validation", "20"), ("epochs", "2"),
             ("attack_steps", "1"), ("arch_args", "width=4"))  # fmt: skip
    for arm in (AT, AWP):
        warm_up = (("awp.warm_up", "1"),) if arm == AWP else ()
        monkeypatch.setitem(
            ARMS, arm.drawn, replace(ARMS[arm.drawn], fixed=(*small, *warm_up), n_validation=None)
        )
    contrast = Contrast(AWP, AT)
    of_others = Contrast(tuned("digits-trades-awp-tuned"), tuned("digits-trades-tuned"))
    small_study = replace(
        STUDIES["tuned"],
        contrasts=(contrast, of_others),
        primary=((contrast, "last"),),
        seeds=1,
        n=8,
    )
    monkeypatch.setitem(STUDIES, "small", small_study)
    lists = tmp_path / "results/choices"
    (tmp_path / "results").mkdir()
    chosen.rename(lists)
    monkeypatch.setattr(choice, "FOLDER", lists)
    for path in lists.glob("digits-trades-*"):
        path.unlink()
    with pytest.raises(InvalidInput, match="digits-trades-tuned is not chosen yet"):
        carried_out("small")
    carried_out("small", only="at")
    table = (tmp_path / "results/studies/small.csv").read_text()
    assert {line.split(",")[0] for line in table.splitlines()[1:]} == {str(AT), str(AWP)}
    # The networks are those of the chosen settings.
    decays = {
        checkpoint.read_card(path.parent).train.weight_decay
        for path in (tmp_path / "results").rglob("card.json")
    }
    assert decays == {dict(zip(ARMS[str(a)].columns, ARMS[str(a)].settings[-1], strict=True))
                      ["weight_decay"] for a in (AT, AWP)}  # fmt: skip
    answer = tmp_path / "results/studies/small-answer.md"
    assert "digits-at-awp-tuned minus digits-at-tuned: " in answer.read_text()
    retell = ["retell", "--out", str(tmp_path / "results")]
    assert main([*retell, "--check"]) == 0
    for path in (answer, answer.with_suffix(".svg")):
        before = path.read_text()
        path.write_text("something else")
        assert main([*retell, "--check"]) == 1 and main(retell) == 0
        assert path.read_text() == before


def test_every_study_of_tuned_arms_asks_for_overfitting():
    for study in STUDIES.values():
        assert (study.least_gap is not None) == any(arm.drawn for arm in study.arms)
    assert choice.FOLDER.parts == ("results", "choices")
