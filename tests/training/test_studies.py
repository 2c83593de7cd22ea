"""Studies: what they train can be trained, and what they say is what the counts say."""

from __future__ import annotations

import csv
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from awp_train import choice
from awp_train.__main__ import main
from awp_train.checks import check_settings
from awp_train.findings import (
    Measured,
    compared,
    conclusion,
    counts,
    found,
    overview,
    sentence,
    summary,
)
from awp_train.plan import asked_for
from awp_train.presets import METHODS, find, run_name
from awp_train.retell import PAGE
from awp_train.run_study import run_study
from awp_train.spaces import ARMS
from awp_train.studies import KEPT, STUDIES, Arm, Contrast, Study, is_settled, split_of, tuned
from bench import datasets
from bench.notation import points
from bench.records import proven, store
from bench.schema import BenchError, InvalidInput
from bench.stats.intervals import seed_interval
from bench.stats.study_files import GAP, WORST_CASE, Finding, StudyFile, verdicts
from tests.board.board_records import BETTER, finding

ROOT = Path(__file__).parents[2]


@pytest.fixture
def chosen(tmp_path, monkeypatch):
    """Lists in which every draw of every arm was tried: the later, the better."""
    monkeypatch.setattr(choice, "FOLDER", tmp_path / "choices")
    for name, arm in ARMS.items():
        rows = [
            [*map(str, setting), seed, 1000, 500 + place, 800, 200, 150, 0]
            for place, setting in enumerate(arm.settings)
            for seed in arm.seeds
        ]
        lines = [[*arm.columns, "seed", *choice.COUNTS], *rows]
        path = tmp_path / f"choices/{name}.csv"
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(",".join(map(str, line)) + "\n" for line in lines))
    return tmp_path / "choices"


@pytest.mark.parametrize("name", STUDIES)
def test_what_a_study_trains_can_be_trained_and_compared(name, chosen):
    study = STUDIES[name]
    names = set()
    for arm in study.arms:
        assert is_settled(arm)
        config = arm.config(3)
        check_settings(config)
        asked_for(arm.preset, config)
        assert config.seed == 3
        names.add(run_name(arm.preset, config))
    assert len(names) == len(study.arms)
    for contrast in study.contrasts:
        a, b = contrast.treated.config(0), contrast.control.config(0)
        assert a.threat == b.threat and a.dataset == b.dataset
        differing = {k for k, v in a if v != getattr(b, k)}
        if contrast.treated.drawn:
            drawn = {"weight_decay", "awp", "averaging", "averaging_horizon", "craft_folded"}
            assert "weight_decay" in differing <= drawn
        elif b.recipe == "matched":
            assert len(differing) == 1  # the perturbation, or the precision
        else:
            assert "recipe" in differing and a.awp and not b.awp


def test_a_tuned_arm_is_trained_with_what_was_chosen_and_not_before(chosen):
    arm = tuned("fashion_mnist-subset-trades-robust-wp-tuned")
    config, best = arm.config(4), ARMS[str(arm)].settings[-1]
    assert (config.weight_decay, config.awp.gamma, config.awp.threshold) == best
    assert (config.awp.steps, config.awp.norm, config.awp.warm_up) == (10, "global", 13)
    assert (config.seed, config.objective, config.log_every) == (
        4,
        "trades",
        5,
    )  # as the preset looks
    path = chosen / f"{arm}.csv"
    path.write_text(path.read_text().rpartition("\n0")[0] + "\n")  # a try less
    assert not is_settled(arm)
    with pytest.raises(InvalidInput, match=f"{arm} is not chosen yet: .* choose {arm}"):
        arm.config(4)


def test_four_contrasts_are_primary_and_what_is_published_stands_beside_them():
    """Declared before anything is measured: a change of these is a change of the question."""
    primary = [(str(contrast), kept) for contrast, kept in STUDIES["tuned"].primary]
    assert primary == [
        (f"{name}-awp-tuned minus {name}-tuned", "last")
        for name in ("digits-at", "digits-trades", "fashion_mnist-subset-at",
                     "fashion_mnist-subset-trades")
    ]  # fmt: skip
    said = {str(contrast) for contrast in STUDIES["tuned"].contrasts}
    assert "digits-at-tuned minus digits-at" in said
    assert "digits-at-awp-tuned minus digits-at-awp" in said
    assert "digits-trades-ema-awp-tuned minus digits-trades-ema-tuned" in said
    assert "fashion_mnist-2000-at-awp-tuned minus fashion_mnist-2000-at-tuned" in said
    assert len(said) == 4 * 7 + 1
    # What tables show, twins and controls, keeps the verdict it has there.
    for study in STUDIES.values():
        if study.primary:
            assert all(c.treated.drawn for c in study.contrasts)


def test_the_questions_are_asked_in_full():
    methods = {(c.treated.preset, c.control.preset) for c in STUDIES["digits-methods"].contrasts}
    assert methods == {
        (f"digits-{m}-{kind}", f"digits-{m}") for m in METHODS for kind in ("awp", "rwp")
    }
    sizes = [(c.control.config(0), c.treated.config(0)) for c in STUDIES["fashion-size"].contrasts]
    assert [(at.n_train, at.epochs, awp.awp.warm_up) for at, awp in sizes] == [
        (500, 80, 13), (2000, 60, 10), (10_000, 30, 5), (59_000, 15, 2),
    ]  # fmt: skip
    rst = STUDIES["fashion-rst"].arms[0]
    assert rst.config(0).n_train == 1000 and find(rst.preset).extra_n == 20_000
    assert STUDIES["bf16-parity"].arms[1].config(0).precision == "bf16"
    controls = [c.control.config(0).recipe for c in STUDIES["fashion-controls"].contrasts]
    assert controls == ["matched", "equal-compute", "best-vanilla"]


@pytest.mark.parametrize(
    ("dataset", "split"),
    [
        ("digits", "test[0:1000]"),
        ("digits-5to9", "test[0:499]"),
        # Settings were sought on the first 1,000.
        ("fashion_mnist", "test[1000:2000]"),
        ("fashion_mnist-5to9", "test[1000:2000]"),
    ],
)
def test_images_that_settings_were_sought_on_are_left_out(dataset, split):
    assert split_of(dataset, 1000) == split


# ---------------------------------------------------------------- comparing

AWP, AT = Arm("digits-at-awp"), Arm("digits-at")
STUDY = Study("Does it?", (Contrast(AWP, AT),), seeds=5)


def measured(arm: Arm, seed: int, standing: int, *, n: int = 1000, images: str = "a") -> Measured:
    """A network that gets the first `standing` of n images right, under attack and without."""
    bits = np.arange(n) < standing
    record = SimpleNamespace(
        id=f"{seed:016x}",
        n=n,
        examples_sha256=images,
        protocol=SimpleNamespace(columns=(SimpleNamespace(name="pgd20"),)),
        standing=lambda column: bits,
        worst_case_standing=bits,
        clean_correct=bits,
        card=SimpleNamespace(epoch_kept=7),
    )
    return Measured(arm, seed, "last", record, 200, 180, 100, 60)


def file_of(*findings: Finding) -> StudyFile:
    return StudyFile(name="one", question="Does it?", primary=0, networks=(), findings=findings)


def told(networks: list[Measured]) -> str:
    """The summary of these networks, in a study that no table shows."""
    file = found("one", networks)
    return summary(file, verdicts(file))


def runs(gains: list[int], **given: object) -> list[Measured]:
    each = [(AWP, s, 600 + gain) for s, gain in enumerate(gains)]
    each += [(AT, s, 600) for s in range(len(gains))]
    return [measured(*one, **given) for one in each]


def test_the_seed_is_the_unit():
    """Per-seed differences of 4.6, 4.2, 2.7, 1.9 and 2.0 points are +3.1 [1.5, 4.6]."""
    (finding,) = compared(STUDY, runs([46, 42, 27, 19, 20]))
    assert finding.differences[WORST_CASE] == pytest.approx((0.046, 0.042, 0.027, 0.019, 0.020))
    assert finding.interval(WORST_CASE) == seed_interval(finding.differences[WORST_CASE])
    low, high = finding.crossed
    assert 0 < low < finding.effect.over_seeds.estimate < high
    (verdict,) = verdicts(file_of(finding))
    assert sentence(finding, verdict) == (
        "digits-at-awp minus digits-at, last epoch, n = 1,000, 5 seeds (fewer than 6): "
        f"+3.1 points [+1.5, +4.6] worst case, seeds x images [{points(low)}, {points(high)}], "
        "indication: better (5 seeds; a headline needs 6); clean +3.1 points [+1.5, +4.6]."
    )


@pytest.mark.parametrize(
    ("gains", "standing"),
    [
        ([10, -10, 5, -5], "nothing shown"),
        ([-10, -12, -14], "indication: worse"),
        ([-10, -12, -14, -11, -15, -12], "worse"),
        ([30], "one seed shows nothing"),
        ([20, 20], "too few seeds and images to tell"),
        ([0, 0], "nothing shown"),
    ],
)
def test_verdicts_say_no_more_than_the_seeds_allow(gains, standing):
    (verdict,) = verdicts(file_of(*compared(STUDY, runs(gains))))
    assert verdict.standing == standing


# ---------------------------------------------------------------- primary contrasts


@pytest.mark.parametrize(
    ("declared", "families", "outcomes"),
    [
        ((), ["the 2 contrasts that only one makes"] * 2, ["better", "better"]),
        (("best",), ["the 1 primary contrast of one", ""], ["better", "descriptive"]),
    ],
)
def test_primary_contrasts_are_judged_among_themselves_and_the_others_describe(
    declared, families, outcomes, monkeypatch
):
    primary = tuple((STUDY.contrasts[0], kept) for kept in declared)
    monkeypatch.setitem(STUDIES, "one", replace(STUDY, primary=primary))
    gains = [46, 42, 27, 19, 20, 31]
    file = found("one", [replace(m, kept=kept) for kept in KEPT for m in runs(gains)])
    judged = verdicts(file)
    assert [verdict.family for verdict in judged] == families
    assert [verdict.standing for verdict in judged] == outcomes
    assert StudyFile.model_validate_json(file.model_dump_json()) == file
    describes = "descriptive, no primary contrast of its study" in summary(file, judged)
    assert describes == bool(declared)


@pytest.mark.parametrize(("others", "standing"), [(0, "better"), (2, "nothing shown")])
def test_a_primary_contrast_that_is_not_measured_yet_counts(others, standing, monkeypatch):
    """p = 0.022 alone; with 3 declared it would have to be below 0.0167."""
    arms = [Arm("digits-at-awp", (("awp.gamma", gamma),)) for gamma in ("0.01", "0.02")]
    contrasts = (*STUDY.contrasts, *(Contrast(arm, AT) for arm in arms[:others]))
    primary = tuple((contrast, "last") for contrast in contrasts)
    study = Study("Does it?", contrasts, seeds=6, primary=primary)
    monkeypatch.setitem(STUDIES, "declared", study)
    (verdict,) = verdicts(found("declared", runs([30, 1, 20, 40, 5, 31])))
    assert 0.0167 < verdict.effect.p_value < 0.05
    assert verdict.standing == standing


def test_only_contrasts_of_the_study_can_be_declared_once_as_primary():
    (contrast,) = STUDY.contrasts
    for wrong in (
        ((Contrast(AT, AWP), "best"),),
        ((contrast, "first"),),
        ((contrast, "best"), (contrast, "best")),
    ):
        with pytest.raises(ValueError, match="primary"):
            replace(STUDY, primary=wrong)


def test_what_both_arms_share_is_said_once():
    size, warm_up = ("n_train", "2000"), ("awp.warm_up", "10")
    contrast = Contrast(Arm("digits-at-awp", (size, warm_up)), Arm("digits-at", (size,)))
    assert str(contrast) == "digits-at-awp awp.warm_up=10 minus digits-at, both n_train=2000"


def test_gaps_are_paired_by_seed_where_every_log_has_counts(monkeypatch):
    """Training minus validation: 30 points of AT, and 28, 27, 26 of AT-AWP: -3.0 [-5.5, -0.5]."""
    monkeypatch.setitem(STUDIES, "one", STUDY)
    every = [
        replace(m, train_robust_correct=176 - 2 * m.seed) if m.arm == AWP else m
        for m in runs([10, 20, 30])
    ]
    (finding,) = compared(STUDY, every)
    assert finding.differences[GAP] == pytest.approx((-0.02, -0.03, -0.04))
    row = next(line for line in told(every).splitlines() if "minus digits-at | last" in line)
    assert "| +2.0 [-0.5, +4.5] |" in row and "| -3.0 [-5.5, -0.5] |" in row
    (finding,) = compared(STUDY, [*every[:-1], replace(every[-1], train_n=0)])
    assert GAP not in finding.differences


def test_only_equal_seeds_and_images_are_compared():
    few = [m for m in runs([10, 20, 30]) if (m.arm, m.seed) != (AT, 1)]
    (finding,) = compared(STUDY, few)
    assert finding.seeds == (0, 2)
    assert compared(STUDY, few[:1]) == []
    with pytest.raises(InvalidInput, match="other images"):
        compared(STUDY, [measured(AWP, 0, 600), measured(AT, 0, 600, images="b")])


def test_the_counts_are_what_the_summary_is_made_of(monkeypatch):
    monkeypatch.setitem(STUDIES, "one", STUDY)
    every = runs([46, 42, 27, 19, 20])
    rows = list(csv.DictReader(counts(every).splitlines()))
    assert [int(r["worst_case"]) for r in rows][:5] == [646, 642, 627, 619, 620]
    assert {r["run"] for r in rows} == {"digits-at", "digits-at-awp"}
    assert rows[0]["train_robust_correct"] == "180" and rows[0]["epoch"] == "7"
    text = told(every)
    better = "Indication: better: digits-at-awp minus digits-at."
    assert f"\n* Last epoch, worst case. {better}\n" in text
    assert "Epoch chosen" not in text  # nothing of it was measured
    assert "| digits-at-awp | last | 5 | 1,000 | 63.1 | 63.1 | +30.0 |" in text
    assert "| 5 | indication: better | +3.1 [+1.5, +4.6] | [" in text
    assert "| +0.0 [+0.0, +0.0] | +3.1 [+1.5, +4.6] | +4.6, +4.2, +2" in text
    (finding,) = compared(STUDY, every)
    assert text.endswith(f"* {sentence(finding, *verdicts(file_of(finding)))}\n")


# ---------------------------------------------------------------- all of them


@pytest.mark.parametrize(
    ("changed", "gap"), [({}, "+0.0 [+0.0, +0.0]"), ({"train_n": 0}, "")], ids=["gap", "no gap"]
)
def test_the_table_of_all_says_what_the_comparison_says(changed, gap, monkeypatch):
    monkeypatch.setitem(STUDIES, "one", STUDY)
    monkeypatch.setitem(STUDIES, "none yet", STUDY)
    networks = [replace(m, **changed) for m in runs([46, 42, 27, 19, 20])]
    file = found("one", [*networks, measured(AWP, 9, 600)])
    text = overview([(file, verdicts(file))])
    assert text.count("## ") == 1 and "Does it?" in text
    cells = f"5 |  |  | +3.1 [+1.5, +4.6] | indication: better | {gap} |"
    assert f"| digits-at-awp minus digits-at | {cells}" in text


@pytest.mark.parametrize(
    ("findings", "said"),
    [
        ([("best", "a", 1)], "Best epoch: better in the only contrast (better: a)."),
        (
            [("best", "a", -1), ("best", "b", 0), ("last", "a", 0), ("last", "b", 0)],
            "Best epoch: worse in 1 of 2 contrasts, nothing shown in 1 (worse: a). Last epoch: "
            "nothing shown in both contrasts.",
        ),
        (
            [("last", "a", 1), ("last", "b", -1), ("last", "c", 1)],
            "Last epoch: better in 2 of 3 contrasts, worse in 1 (better: a; worse: b; better: c).",
        ),
        ([], "Nothing is measured yet."),
    ],
)
def test_a_study_is_concluded_in_a_line_that_counts_every_contrast(findings, said):
    each, (low, high) = BETTER
    ends = {1: (low, high), -1: (-high, -low), 0: (-0.01, 0.05)}
    made = [
        finding(kept, tuple((way or 1) * x for x in each), ends[way], contrast=name)
        for kept, name, way in findings
    ]
    file = StudyFile(name="one", question="Does it?", primary=0, networks=(), findings=made)
    line = f"**one**: Does it? {said}"
    assert conclusion(file, verdicts(file)) == line
    assert overview([(file, verdicts(file))]).startswith(f"# What the studies found\n\n* {line}\n")


def test_committed_findings_have_a_row_each():
    """That they are what the records give is `make check`'s to say: retell --check."""
    rows = re.findall(r"^\| .* minus .* \|$", (ROOT / "results/studies" / PAGE).read_text(), re.M)
    assert len(rows) >= 20


def test_the_readme_quotes_what_the_tables_and_the_studies_say():
    words = (ROOT / "README.md").read_text().split("## What AWP did here")[1].split("\n## ")[0]
    table = (ROOT / "results" / "LEADERBOARD.md").read_text().replace("\\", "")
    studies = (ROOT / "results" / "studies" / PAGE).read_text()  # of gaps too
    quoted = re.findall(r"([+-]\d+\.\d)(?: points)? (\[[+-]\d+\.\d, [+-]\d+\.\d\])", words)
    assert len(quoted) >= 3
    for estimate, interval in quoted:
        assert f"{estimate} points {interval}" in table or f"{estimate} {interval}" in studies


# ---------------------------------------------------------------- carried out


def tiny(n_train: str, warm_up: str) -> Contrast:
    small = (("n_train", n_train), ("batch", "20"), ("n_validation", "20"), ("epochs", "2"),
             ("attack_steps", "1"), ("arch_args", "width=4"))  # fmt: skip
    return Contrast(
        Arm("digits-at-awp", (*small, ("awp.warm_up", warm_up))), Arm("digits-at", small)
    )


@pytest.mark.parametrize("call", ["study digits-methods", "choose digits-at-awp-tuned"])
def test_results_that_cannot_be_written_are_named_before_training(call, monkeypatch, capsys):
    for place in ("run_study.train_jobs", "run_choice.train_stage", "run_choice.train_one"):
        monkeypatch.setattr(f"awp_train.{place}", lambda *a, **k: pytest.fail("trained"))
    assert main([*call.split(), "--out", "/proc/nowhere", "--yes"]) == 2
    assert "the folder /proc/nowhere cannot be made" in capsys.readouterr().err


@pytest.fixture
def carried_out(tmp_path, monkeypatch):
    """Carries out a study under a folder."""
    monkeypatch.chdir(tmp_path)  # shards of a measurement lie under var

    def call(name: str, checkpoints: str = "c", **part: object) -> str:
        given = {"seeds": None, "workers": 1, "longest": None, "again": "again"} | part
        folders = {"checkpoints": tmp_path / checkpoints, "runs": tmp_path / "r"}
        return run_study(name, out=tmp_path / "results", **folders, **given)

    return call


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_a_study_is_carried_out_and_goes_on_from_what_is_there(
    tmp_path, monkeypatch, capsys, carried_out
):
    small = Study("Does it?", (tiny("40", "1"),), seeds=1, n=8)
    monkeypatch.setitem(STUDIES, "small", small)
    out = tmp_path / "results"
    text = carried_out("small")
    assert (out / "studies/small.md").read_text() == text
    rows = rows_of(out / "studies/small.csv")
    assert len(rows) == 2 * len(KEPT) and {row["n"] for row in rows} == {"8"}

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("everything is there")

    monkeypatch.setattr("awp_train.plan.train", refuse)
    monkeypatch.setattr("bench.measure.evaluate.measure", refuse)
    assert carried_out("small") == text
    # On another machine the records are enough: without checkpoints, weights and evidence.
    for path in [*out.rglob("*.safetensors"), *out.rglob("*.npz")]:
        path.unlink()
    assert carried_out("small", "elsewhere", seeds=[0]) == text
    # Those of other settings are not.
    assert len(cards := sorted(out.rglob("card.json"))) == 2 * len(KEPT)
    card = cards[0].read_text()
    cards[0].write_text(re.sub(r'"weight_decay": [^,\n]*', '"weight_decay": 0.125', card))
    with pytest.raises(AssertionError, match="everything is there"):
        carried_out("small", "elsewhere")
    cards[0].write_text(card)
    # Its files are written again from the records alone, to the byte, and are told where they are not.
    retell = ["retell", "--out", str(out)]
    assert main([*retell, "--check"]) == 0
    for kind in ("csv", "json", "md"):
        path = out / f"studies/small.{kind}"
        whole = path.read_text()
        if kind == "csv":  # the counts name the records
            path.write_text(whole.replace(",8,", ",9,", 1))
        else:
            path.unlink()
        capsys.readouterr()
        assert main([*retell, "--check"]) == 1
        assert f"stale: {path}" in capsys.readouterr().err
        assert main(retell) == 0
        assert path.read_text() == whole
    # What nothing vouches for beside known records is told, and not compared; nor is it in the place of
    # one that is known.
    (record,) = (p for p in cards[0].parent.glob("*.json") if store.of_a_record(str(p)))
    sound = record.read_bytes()
    copied = out / "digits/linf-0.15" / f"zz-{record.parent.name}" / record.name
    copied.parent.mkdir()
    copied.write_bytes(sound + b" ")
    assert main([*retell, "--check"]) == 0
    shutil.rmtree(copied.parent)
    record.write_bytes(sound + b" ")
    capsys.readouterr()
    carried_out("small", "elsewhere")
    assert f"{record} is neither measured here nor proven" in capsys.readouterr().err
    assert len(rows_of(out / "studies/small.csv")) == 2 * len(KEPT) - 1
    listed = (out / proven.NAME).rename(tmp_path / "listed")
    assert carried_out("small", "elsewhere") == text  # of records without a list all are equals
    listed.rename(out / proven.NAME)
    record.write_bytes(sound)
    # What was withdrawn is told, and not compared.
    store.withdraw(record, "measured on other images")
    capsys.readouterr()
    carried_out("small", "elsewhere")
    assert f"{record} was withdrawn" in capsys.readouterr().err
    assert len(rows_of(out / "studies/small.csv")) == 2 * len(KEPT) - 1
    assert main([*retell, "--check"]) == 0


@pytest.mark.slow
def test_a_part_of_a_study_is_carried_out_and_told_with_what_was_there(
    tmp_path, monkeypatch, carried_out
):
    parts = Study("Does it?", (tiny("20", "0"), tiny("40", "0")), seeds=2, n=8)
    monkeypatch.setitem(STUDIES, "parts", parts)

    def told(**part: object) -> set[tuple[str, str]]:
        carried_out("parts", **part)
        rows = rows_of(tmp_path / "results/studies/parts.csv")
        return {(row["run"].split()[1], row["seed"]) for row in rows}

    assert told(seeds=[1], only="n_train=40") == {("n_train=40", "1")}
    assert told(seeds=[0], only="n_train=20") == {("n_train=40", "1"), ("n_train=20", "0")}
    with pytest.raises(InvalidInput, match="no arm named 'n_train=4'"):
        carried_out("parts", only="n_train=4")


def test_a_study_says_how_long_it_takes_and_what_failed(monkeypatch, carried_out):
    monkeypatch.setattr("awp_train.plan.estimated_seconds", lambda config: 3600.0)
    with pytest.raises(InvalidInput, match="again --yes"):
        carried_out("fashion-rst", seeds=[0], longest=7200)
    monkeypatch.setattr("awp_train.run_study.train_jobs", lambda jobs, **_: [])
    with pytest.raises(BenchError, match="2 runs and 0 measurements failed"):
        carried_out("fashion-rst", seeds=[0])


@pytest.fixture(scope="module")
def committed(tmp_path_factory):
    """A copy of the committed records, cards and curves, without weights and evidence."""
    out = tmp_path_factory.mktemp("committed") / "results"
    heavy = shutil.ignore_patterns("*.safetensors", "*.npz", "agreement", "published", "speed")
    shutil.copytree(Path(__file__).parents[2] / "results", out, ignore=heavy)
    return out


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES)
def test_committed_summaries_are_made_again_of_the_committed_records(
    name, committed, tmp_path, monkeypatch
):
    try:
        for arm in filter(is_settled, STUDIES[name].arms):
            datasets.load(arm.config(0).dataset, "test[0:1]")
    except BenchError as error:
        pytest.skip(str(error))
    files = [committed / "studies" / f"{name}.{kind}" for kind in ("md", "csv", "json")]
    if not files[1].exists():
        pytest.skip("not measured yet")
    before = [file.read_text() for file in files]
    for file in files:
        file.unlink()
    monkeypatch.setattr("awp_train.run_study.train_jobs", lambda jobs, **_: [])
    run_study(
        name, seeds=None, out=committed, checkpoints=tmp_path / "c", runs=tmp_path / "r",
        workers=1, longest=None, again="again",
    )  # fmt: skip
    assert [file.read_text() for file in files] == before
