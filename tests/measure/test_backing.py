"""What backs a record is on disk before it; whatever stops a measurement, a rerun makes it whole."""

from __future__ import annotations

import dataclasses
import errno
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from bench import training_log
from bench.__main__ import main
from bench.measure import evaluate, keeping, shards, sweep
from bench.records import store
from bench.schema import BenchError, InvalidInput, TrainConfig
from bench.sources import checkpoint
from tests.conftest import network

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
FILES = (checkpoint.WEIGHTS, checkpoint.CARD, training_log.NAME)


def source_of(folder: Path, **card: object) -> Path:
    """A checkpoint folder with the log of a run."""
    curve = '{"epoch": 1, "train_n": 10}\n{"epoch": 2, "train_n": 10}\n'
    return network(folder, "toy", files={training_log.NAME: curve}, **card)


def job_of(source: Path, root: Path, **more: object) -> sweep.Job:
    return sweep.make_job(
        source, n=8, protocol="gradient", device="cpu", out=root / "r", work=root / "work", **more
    )


def measured(job: sweep.Job) -> sweep.Outcome:
    return sweep.measure(job, lambda share, text: None)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return source_of(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def recorded(source, tmp_path_factory) -> Path:
    """A root that holds the record of the source with everything beside it."""
    root = tmp_path_factory.mktemp("recorded")
    measured(job_of(source, root))
    return root


@pytest.fixture(scope="module")
def parts(source, tmp_path_factory) -> Path:
    """A root whose work folder holds every part of a measurement that is not written down."""

    def stopped(*arguments: object) -> None:
        raise KeyboardInterrupt

    root = tmp_path_factory.mktemp("parts")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sweep, "keep", stopped)
        with pytest.raises(KeyboardInterrupt):
            measured(job_of(source, root))
    assert list((root / "work").rglob("*.npz"))
    return root


@pytest.fixture
def finished(parts, tmp_path) -> Path:
    return shutil.copytree(parts, tmp_path / "finished")


def not_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards.Shards, "_attack", lambda *a: pytest.fail("attacked again"))


def assert_whole(path: Path, source: Path) -> None:
    record = store.read(path)
    evidence = path.with_suffix(".evidence.npz")
    assert store.sha256_of(evidence) == record.evidence_sha256
    for name in FILES:
        assert (path.parent / name).read_bytes() == (source / name).read_bytes()
    there = {file.name for file in path.parent.iterdir()}
    assert there == {path.name, evidence.name, *FILES}


# ---------------------------------------------------------------- interrupted


def in_a_fork(act: Callable[[], object]) -> int:
    """The exit code of a forked process that does something; negative where a signal ended it."""
    process = multiprocessing.get_context("fork").Process(target=act)
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


@forks
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_killed_at_any_write_the_record_is_last_and_a_rerun_is_whole(
    finished, source, tmp_path, monkeypatch
):
    not_again(monkeypatch)
    kills = 0
    while True:
        root = tmp_path / f"killed{kills}"
        shutil.copytree(finished, root)
        code = in_a_fork(lambda r=root, k=kills: _killed_at(k, job_of(source, r)))
        if code == 0:
            break
        assert code == -signal.SIGKILL
        kills += 1
        for path in store.record_files(root / "r"):
            if path.suffix == ".json" and path.name[0] != ".":
                assert_whole(path, source)
        outcome = measured(job_of(source, root))
        for draft in outcome.path.parent.glob(".*"):  # nobody could clear it away
            draft.unlink()
        assert_whole(outcome.path, source)
        assert not [p for p in (root / "work").iterdir() if p.is_dir()]
        assert not measured(job_of(source, root)).measured
    # Evidence, what lies beside it, the record's line as measured here, the record, its line as proven.
    assert kills == 1 + len(FILES) + 1 + 1 + 1


def _killed_at(write: int, job: sweep.Job) -> None:
    """Measures in a process that is killed as its write of that number is to take its name."""
    rename, left = os.replace, [write]

    def replace(old: str, new: Path) -> None:
        if "work" not in Path(new).parts:
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
        rename(old, new)

    store.os.replace = replace
    measured(job)


def test_a_full_disk_leaves_no_half_and_a_rerun_is_whole(finished, source, tmp_path, monkeypatch):
    not_again(monkeypatch)
    flush, job = os.fsync, job_of(source, finished)
    for write in range(3 + len(FILES)):
        left = [write]

        def full(descriptor: int, left: list[int] = left) -> None:
            if os.path.isdir(f"/proc/self/fd/{descriptor}"):
                return flush(descriptor)
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return flush(descriptor)

        shutil.rmtree(finished / "r", ignore_errors=True)
        with monkeypatch.context() as patched:
            patched.setattr(store.os, "fsync", full)
            with pytest.raises(BenchError, match=r"No space.*r/digits.*goes on from there"):
                measured(job)
        assert not any(p.name.count(".") == 1 for p in store.record_files(finished / "r"))
        assert not list((finished / "r").rglob(".*"))
        for name in FILES:
            kept = next((finished / "r").rglob(name), None)
            assert kept is None or kept.read_bytes() == (source / name).read_bytes()
    assert_whole(measured(job).path, source)


def test_where_nothing_can_be_written_nothing_is_measured(source, tmp_path, monkeypatch):
    """A file in the place of a folder: it stops root too."""
    monkeypatch.setattr(evaluate, "measure", lambda *a, **k: pytest.fail("measured"))
    (tmp_path / "r" / "digits" / "linf-0.15").mkdir(parents=True)
    (tmp_path / "r" / "digits" / "linf-0.15" / "toy").write_text("in the way")
    with pytest.raises(InvalidInput, match=r"no record can be written to .*--out"):
        measured(job_of(source, tmp_path))


def test_the_exit_status_tells_a_closed_folder_from_a_full_one(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call = ["evaluate", str(source), "--n", "8", "--protocol", "gradient", "--device", "cpu"]
    (tmp_path / "closed").write_text("")
    assert main([*call, "--out", "closed"]) == 2

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "a file")

    monkeypatch.setattr(sweep, "keep", full)
    assert main([*call, "--out", "full"]) == 1


# ---------------------------------------------------------------- lost since


def damage(path: Path, name: str, how: str) -> None:
    file = path.with_suffix(".evidence.npz") if name == "evidence" else path.parent / name
    raw = file.read_bytes()
    if how == "gone":
        file.unlink()
    else:
        file.write_bytes(raw[: len(raw) // 2] if how == "cut off" else b"\x00{" + raw[2:])


def copied(recorded: Path, tmp_path: Path) -> tuple[Path, Path]:
    """(root, record) of a copy of what is recorded."""
    root = shutil.copytree(recorded, tmp_path / "copy")
    (path,) = (p for p in store.record_files(root / "r") if p.name.count(".") == 1)
    return root, path


@pytest.mark.parametrize("how", ["gone", "cut off", "another"])
@pytest.mark.parametrize("name", ["evidence", *FILES])
def test_what_is_lost_beside_a_record_comes_back(
    name, how, recorded, source, tmp_path, monkeypatch
):
    root, path = copied(recorded, tmp_path)
    job, record = job_of(source, root), path.read_bytes()
    damage(path, name, how)
    if name != "evidence":
        not_again(monkeypatch)
    assert sweep.answered(job) == (name != "evidence")
    outcome = measured(job)
    assert outcome.measured == (name == "evidence")
    assert_whole(path, source)
    assert path.read_bytes() == record
    assert not list((root / "work").iterdir())


def test_evidence_made_again_takes_its_hash_to_the_record(recorded, source, tmp_path, monkeypatch):
    """Elsewhere the same answer may be proven by other adversarial images."""
    root, path = copied(recorded, tmp_path)
    job = job_of(source, root)
    real = evaluate.Measurement
    monkeypatch.setattr(
        evaluate, "Measurement", lambda record, raw, plain: real(record, raw + b"other")
    )
    before = store.read(path)
    damage(path, "evidence", "cut off")
    measured(job)
    assert_whole(path, source)
    after = store.read(path)
    assert after.evidence_sha256 != before.evidence_sha256
    assert after == before.model_copy(update={"evidence_sha256": after.evidence_sha256})
    raw = path.with_suffix(".evidence.npz").read_bytes()
    monkeypatch.undo()
    assert measured(dataclasses.replace(job, again=True)).measured
    assert path.with_suffix(".evidence.npz").read_bytes() == raw  # whole evidence stays


@pytest.mark.parametrize(
    ("seed", "kept", "bare"),
    [(0, "last", False), (1, "last", True)],
)
def test_what_a_study_does_not_keep_is_not_made_again(seed, kept, bare, tmp_path, monkeypatch):
    run = TrainConfig(dataset="digits", seed=seed)
    source = source_of(tmp_path, selected_on=kept, train=run, seed=seed)
    job = job_of(source, tmp_path)
    path = measured(job).path
    assert_whole(path, source)
    for name in ("evidence", checkpoint.WEIGHTS):
        damage(path, name, "gone")
    if bare:
        not_again(monkeypatch)
        assert not measured(job).measured
        assert {file.name for file in path.parent.iterdir()} == {path.name, *FILES[1:]}
        monkeypatch.undo()
        job = dataclasses.replace(job, again=True)
    measured(job)
    assert_whole(path, source)


def test_files_of_another_network_of_that_name_stay(recorded, source, tmp_path):
    root, first = copied(recorded, tmp_path)
    other = source_of(tmp_path / "trained again", seed=1)
    (other / training_log.NAME).write_text('{"epoch": 1}\n')
    job = job_of(other, root)
    second = measured(job).path
    assert second != first
    assert not measured(job).measured
    for name in FILES:
        assert (first.parent / name).read_bytes() == (source / name).read_bytes()


def test_a_readable_file_is_not_replaced_by_another_version(recorded, source, tmp_path):
    root, path = copied(recorded, tmp_path)
    (path.parent / training_log.NAME).write_text('{"epoch": 1, "train_n": 12}\n')
    before = (path.parent / training_log.NAME).read_bytes()
    measured(job_of(source, root))
    assert (path.parent / training_log.NAME).read_bytes() == before


@forks
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_parts_that_a_killed_run_left_go_once_the_record_is_whole(
    finished, source, tmp_path, monkeypatch
):
    root = tmp_path / "kept"
    shutil.copytree(finished, root)
    not_again(monkeypatch)

    def killed() -> None:
        evaluate.discard = lambda folder: os.kill(os.getpid(), signal.SIGKILL)
        measured(job_of(source, root))

    assert in_a_fork(killed) == -signal.SIGKILL
    assert list((root / "work").rglob("*.npz"))
    outcome = measured(job_of(source, root))
    assert not outcome.measured
    assert_whole(outcome.path, source)
    assert not [p for p in (root / "work").iterdir() if p.is_dir()]


def test_large_evidence_lies_elsewhere_and_is_missed_there(source, finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(keeping, "LARGEST_KEPT", 10)
    job = job_of(source, finished)
    path = measured(job).path
    (evidence,) = Path("var/evidence").iterdir()
    assert evidence.stem == store.read(path).evidence_sha256
    assert not measured(job).measured
    evidence.unlink()
    assert not sweep.answered(job)
