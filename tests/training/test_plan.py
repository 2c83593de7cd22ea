"""Runs that need others: what is trained first, what it is made into, what happens when it fails."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from awp_train import plan
from awp_train.flags import configured
from awp_train.plan import asked_for, bring_back, is_finished, job_of, prepared, stages
from awp_train.presets import find
from awp_train.run_files import card_of
from awp_train.step import build
from bench.schema import ExtraData, InvalidInput, TrainConfig
from bench.sources import checkpoint

TINY = {"n_train": "60", "n_validation": "20", "batch": "20", "epochs": "2", "arch_args": "width=4"}


def make(home: Path, preset: str, **given: str):
    texts = TINY | ({"awp.warm_up": "1"} if "-awp" in preset else {}) | given
    config = configured(find(preset).config, texts)
    return job_of(preset, config, out=home / "checkpoints", runs=home / "runs")


def fake_train(
    config: TrainConfig, *, name, pair, control_of, places, out, runs, **_
) -> list[Path]:
    """Writes checkpoints of fresh weights, and keeps what it was told."""
    fake_train.calls.append((name, config, places))
    if name in fake_train.broken:
        raise fake_train.broken[name]
    written = []
    for which in ("best", "last"):
        card = card_of(config, name, pair, which, config.epochs, control_of=control_of)
        checkpoint.save(out / card.name, build(config), card, files={"train.jsonl": "{}\n"})
        written.append(out / card.name)
    return written


@pytest.fixture
def trained(monkeypatch):
    """The names trained, in order, by a trainer that makes fresh weights."""
    fake_train.calls, fake_train.broken = [], {}
    monkeypatch.setattr(plan, "train", fake_train)
    monkeypatch.setattr(plan, "estimated_seconds", lambda config: 1.0)
    monkeypatch.setattr("awp_train.extra_images.pseudo_label", fake_pseudo_label)
    monkeypatch.setattr(
        "awp_train.extra_images.describe_extra",
        lambda path: ExtraData(file=path.name, sha256="1" * 64, n=9),
    )
    return fake_train.calls


def fake_pseudo_label(teacher: Path, *, out: Path, n: int, source=None) -> Path:
    assert teacher.exists(), "the teacher comes first"
    assert n == 797 - 60 - 20  # what the teacher did not take
    file = out / f"{teacher.name}-pseudo.npz"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("labels")
    return file


def run(jobs, **changed):
    given = {"workers": 1, "longest": None, "again": "the call"} | changed
    return plan.train_jobs(jobs, **given)


def test_stages_hold_every_run_once_after_what_it_needs(tmp_path):
    jobs = [
        job_of(name, configured(find(name).config, {"seed": seed}), out=tmp_path, runs=tmp_path)
        for seed in ("0", "1")
        for name in ("digits-rst-awp", "digits-rst", "digits-at", "digits-natural")
    ]
    assert [sorted(job.name for job in stage) for stage in stages(jobs)] == [
        ["digits-at-s0", "digits-at-s1", "digits-natural-s0", "digits-natural-s1"],
        ["digits-rst-awp-s0", "digits-rst-awp-s1", "digits-rst-s0", "digits-rst-s1"],
    ]
    teachers = {id(job.teacher.config) for job in jobs if job.teacher}
    assert len(teachers) == 4  # equal, not the same: recognised by name
    assert stages([]) == []


def test_needs_are_trained_first_and_their_results_named(tmp_path, trained):
    jobs = [make(tmp_path, n) for n in ("digits-rst-awp", "digits-rst", "digits-pretrain")]
    done = run(jobs)
    order = [call[0] for call in trained]
    assert sorted(order[:2]) == sorted(job.needs[0].name for job in (jobs[0], jobs[2]))
    assert order[2:] == [job.name for job in jobs] == [job.name for job in done]
    (_, awp, awp_places), (_, rst, places), (_, tuned, start_places) = trained[2:]
    assert rst.extra == awp.extra == ExtraData(
        file=f"{jobs[0].teacher.name}-last-pseudo.npz", sha256="1" * 64, n=9
    )  # fmt: skip
    assert places == awp_places
    assert places.extra.parent == tmp_path / "extra"
    assert tuned.start.name == start_places.start.name == f"{jobs[2].start.name}-last"
    assert checkpoint.read_card(done[0].last).pair == f"{jobs[1].name}-last"
    # Again: everything is there.
    trained.clear()
    assert [job.name for job in run(jobs)] == [job.name for job in jobs]
    assert not trained


def test_what_needs_a_failed_run_is_left_out_and_the_others_go_on(tmp_path, trained, capsys):
    jobs = [make(tmp_path, n) for n in ("digits-rst", "digits-at", "digits-pretrain")]
    fake_train.broken = {jobs[0].teacher.name: InvalidInput("no luck")}
    done = run(jobs)
    assert [job.name for job in done] == [job.name for job in jobs[1:]]
    said = capsys.readouterr().err
    assert f"error: {jobs[0].teacher.name}: no luck" in said
    assert f"error: {jobs[0].name}: needs {jobs[0].teacher.name}, which failed" in said
    assert "3 runs and 2 that they need, 0 of them finished already" in said


@pytest.mark.parametrize(
    ("given", "longest", "message"),
    [
        ({"mixup": "1"}, None, "mixup"),
        # 1 s, and 1 s of its teacher.
        ({}, 1.5, "over 2 s. To start it: the call --yes"),
    ],
)
def test_impossible_and_long_runs_are_refused_before_anything_is_trained(
    given, longest, message, tmp_path, trained
):
    with pytest.raises(InvalidInput, match=message):
        run([make(tmp_path, "digits-rst", **given)], longest=longest)
    assert not trained


@pytest.mark.parametrize("which", ["out", "runs"])
def test_a_folder_that_takes_no_files_is_named_before_anything_is_trained(which, tmp_path, trained):
    job = replace(make(tmp_path, "digits-at"), **{which: Path("/proc/nowhere")})
    with pytest.raises(InvalidInput, match="the folder /proc/nowhere cannot be made"):
        run([job])
    assert not trained


def test_seeds_cost_the_same_whatever_their_extra_images(tmp_path):
    one, other = (make(tmp_path, "digits-rst", seed=seed).config for seed in "01")
    assert plan.as_costly(one) == plan.as_costly(other)
    assert plan.as_costly(one).extra is not None
    assert plan.as_costly(make(tmp_path, "digits-at").config).extra is None


def test_a_changed_need_does_not_pass_for_finished(tmp_path, trained):
    job = make(tmp_path, "digits-rst")
    run([job])
    assert is_finished(job)
    made = prepared(job)
    assert made.config.extra is not None
    stale = replace(job, config=made.config.model_copy(update={"epochs": 3}))
    with pytest.raises(InvalidInput, match="epochs 2 -> 3"):
        is_finished(stale)


def test_a_run_whose_record_was_kept_is_not_trained_again(tmp_path, trained):
    first = make(tmp_path / "first", "digits-at")
    run([first])
    results = tmp_path / "results"
    where = results / "digits" / "linf-0.15"
    where.mkdir(parents=True)
    for which in ("best", "last"):
        (first.out / f"{first.name}-{which}").rename(where / f"{first.name}-{which}")
    trained.clear()
    again = make(tmp_path / "second", "digits-at")
    assert run([again], recorded=results) and not trained
    assert (again.last / "train.jsonl").is_file()
    # Other settings under that name are another run: not taken.
    other = replace(again, config=again.config.model_copy(update={"lr": 0.5}), out=tmp_path / "x")
    bring_back(other, results)
    assert not other.last.exists()


def test_files_that_only_the_user_has_are_asked_for():
    with pytest.raises(InvalidInput, match="cifar10-rst needs --extra FILE: the 500,000"):
        asked_for("cifar10-rst", find("cifar10-rst").config)
    with pytest.raises(InvalidInput, match="needs --start FOLDER"):
        asked_for("cifar10-wrn28-pretrain-paper", find("cifar10-wrn28-pretrain-paper").config)
    for name in ("digits-rst", "digits-pretrain", "cifar10-pretrain", "cifar10-at"):
        asked_for(name, find(name).config)
