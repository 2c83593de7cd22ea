"""The steps of a worker: each done twice without harm, and only deaths count against a ticket."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time

import pytest

from bench.intake import backup, measuring, operating, worker
from bench.intake.admission import Admitted
from bench.intake.measuring import Said
from bench.intake.refusal import Refusal
from bench.intake.report import Seen
from bench.intake.store import Store
from bench.intake.worker import Broken, Hand, Job, Later, Over, unpublish
from bench.records import proven, store
from bench.records.lock import InUse
from bench.schema import BenchError, InvalidInput, MeasurementFailed
from tests.intake.hosted import RECORDS, committed, host, submitted


class Here(Hand):
    """A hand that works in the test's own process."""

    def __post_init__(self):
        pass

    def ask(self, what, task):
        told = []
        asked = {"what": what, "task": task.model_dump(mode="json")}
        yield from told
        yield from self.ended(measuring._answered(asked, _Nowhere()))

    def ended(self, said: Said):
        if said.refused is not None:
            raise Refusal("content", *said.refused)
        if said.later or said.broken:
            raise Later(said.later) if said.later else Broken(said.broken)
        yield said

    def end(self):
        pass


class _Nowhere:
    def write(self, text):
        pass


@pytest.fixture(scope="module")
def weights() -> bytes:
    return committed("digits-at-s0-last")


@pytest.fixture
def made(tmp_path, monkeypatch, weights):
    """Makes a job of a submission; admission is taken as done, in no child."""
    seen = Seen(
        container="safetensors", arch="small_cnn", n_parameters=47_610, mean=None, std=None, note="",
        arch_args={"in_channels": 1, "num_classes": 10, "image_size": 8, "width": 16},
    )  # fmt: skip
    monkeypatch.setattr(worker, "Hand", Here)
    monkeypatch.setattr(worker, "admit", lambda spool, kept, ask: Admitted(seen, kept.path, ""))

    def make(name: str = "mine", raw: bytes = weights, **changes) -> Job:
        settings = host(tmp_path, protocols=("gradient", "quick"))
        ticket, _ = submitted(settings, raw, name, **changes)
        return Job(settings, ticket.id, "gradient")

    return make


def walked(job: Job) -> str:
    """Takes every step of a ticket; the record's path below the results."""
    job.done("admit", job.admit)
    shards = job.done("examine", job.examine)
    job.done("begin", job.begin)
    for number in range(shards):
        job.done("shard", lambda number=number: job.shard(number, shards))
    measured = job.done("merge", job.merge)
    record = job.done("publish", lambda: job.publish(measured))
    job.done("rank", lambda: job.rank(record))
    job.end()
    return record


def state(job: Job) -> str:
    return job.store.read(job.id).now.state


def held(folder) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


# ---------------------------------------------------------------- the whole way


def test_every_step_is_done_twice_without_harm(made):
    job = made(claimed_clean=0.8, awp="none")
    record = walked(job)
    news, path = job.store.news(job.id), job.settings.out / record
    read, before = store.read(path), {p: p.stat().st_mtime_ns for p in path.parent.iterdir()}
    files = {p.name.partition(".")[2] for p in path.parent.iterdir()}
    assert files == {"json", "evidence.npz", "safetensors"} and not read.card.file_sha256
    assert state(job) == "ranked" and job.over()
    assert (news.clean, news.robust, news.n) == (read.clean_accuracy, read.worst_case, read.n)
    assert news.rank.startswith("1 of 1") and news.record == record and news.protocol == "gradient"
    assert read.card.states("awp") and read.card.awp is None and len(read.card.figures) == 1
    assert walked(Job(job.settings, job.id, "gradient")) == record
    assert {p: p.stat().st_mtime_ns for p in path.parent.iterdir()} == before
    assert store.sha256_of(path) in proven.read(job.settings.out)[0]


def test_no_more_is_published_than_was_agreed_to(made):
    job = made(consent="hashes only")
    path = job.settings.out / walked(job)
    record = store.read(path)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert record.card.file_sha256 == job.store.read(job.id).file_sha256
    private = job.settings.root / "measured" / path.relative_to(job.settings.out)
    assert record.evidence_sha256 == store.sha256_of(store.evidence_path(private, record))
    assert proven.known_among(job.settings.out, [path]) == {path}


@pytest.mark.parametrize("how", [pytest.param("withdrawn", marks=pytest.mark.slow), "removed"])
def test_what_is_taken_back_leaves_a_record_that_says_so(made, how):
    job = made()
    path = job.settings.out / walked(job)
    if how == "removed":
        ticket = operating.remove(job.settings, job.id, "not theirs")
    else:
        ticket = job.store.move(job.id, "withdrawn", "withdrawn by its submitter")
        unpublish(job.settings, job.store, ticket)
    unpublish(job.settings, job.store, ticket)  # again
    files = {p.name.partition(".")[2] for p in path.parent.iterdir()}
    assert files == {"json", "withdrawn.json"} and store.is_withdrawn(path)
    assert not list(job.settings.root.glob("files/*")) + list(job.settings.checkpoints.iterdir())
    assert job.store.read(job.id).now.state == how
    with pytest.raises(Over):
        job.done("rank", lambda: job.rank(""))


@pytest.mark.slow
def test_what_was_withdrawn_and_is_sent_again_counts_again(made, weights):
    job = made()
    path = job.settings.out / walked(job)
    ticket = job.store.move(job.id, "withdrawn", "withdrawn by its submitter")
    unpublish(job.settings, job.store, ticket)
    again, secret = submitted(job.settings, weights, "mine")
    assert again.id == job.id and secret
    walked(Job(job.settings, job.id, "gradient"))
    assert not store.is_withdrawn(path) and state(job) == "ranked"


def test_a_checkpoint_of_the_same_name_that_is_no_submission_stays(made):
    job = made()
    shutil.copytree(RECORDS / "digits-at-s0-last", job.settings.checkpoints / "mine")
    operating.remove(job.settings, job.id, "not theirs")
    assert len(held(job.settings.checkpoints)) >= 2


def test_another_protocol_comes_after_and_moves_no_ticket(made):
    job = made()
    for reached in ("checked", "waiting", "attacking", "verified", "ranked"):
        job.store.move(job.id, reached)
    other = Job(job.settings, job.id, "quick")
    with pytest.raises(Over):
        other.done("shard", lambda: (_ for _ in ()).throw(Refusal("content", "it broke", "mend")))
    assert state(job) == "ranked" and other.over() and "it broke" in other.failures()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"claimed_clean": 1.0}, "clean accuracy"),
        ({"name": "taken"}, "is called taken"),
        ({"dataset": "digits-0to4"}, "num_classes"),
    ],
)
def test_what_the_doctor_does_not_pass_is_rejected_with_a_remedy(made, changes, words):
    job = made(**({"name": "mine"} | changes))
    there = job.settings.out / "digits/linf-0.15/taken"
    shutil.copytree(RECORDS / "digits-at-awp-s0-last", there)
    job.done("admit", job.admit)
    with pytest.raises(Over):
        job.done("examine", job.examine)
    now = job.store.read(job.id).now
    assert now.state == "rejected" and words in now.reason and now.remedy and not now.ours
    assert not list(job.settings.root.glob("parts/*"))


# ---------------------------------------------------------------- what counts


def raising(*errors):
    """Work that meets one error after the other, then answers."""
    left = list(errors)

    def work():
        if left:
            raise left.pop(0)
        return "done"

    return work


def test_three_deaths_in_a_row_set_a_ticket_aside(made):
    job = made()
    assert job.done("examine", raising(Broken("one"), Broken("two"))) == "done"
    assert state(job) == "received"
    with pytest.raises(Over):
        job.done("examine", raising(*(Broken(f"death {k}") for k in range(3))))
    now = job.store.read(job.id).now
    assert now.state == "rejected" and "3 times in a row" in now.reason and "operator" in now.remedy
    assert all(f"death {k}" in job.failures() for k in range(3)) and job.over()


def test_deaths_at_other_steps_or_with_something_finished_between_start_anew(made):
    job = made()
    part = job.settings.root / "parts" / "id-mine" / "1.npz"

    def dies_once_more_done():
        if not part.exists():
            part.parent.mkdir(parents=True)
            part.write_bytes(b"")
            raise Broken("with something finished")
        return "done"

    for step in ("admit", "examine"):
        with pytest.raises(Later):
            job.done(step, raising(Broken("one"), Broken("two"), Later("the disk is full")))
    assert job.done("examine", dies_once_more_done) == "done" and state(job) == "received"


@pytest.mark.parametrize(
    "error", [Refusal("no-room", "the disk is full", "later"), Later("locked"), OSError(28, "full")]
)
def test_what_is_nobodys_fault_is_tried_again_and_never_counted(made, error):
    job, pauses = made(), []
    for _ in range(9):
        with pytest.raises(Later):
            job.done("admit", raising(error))
        pauses.append(job.later()["after"] - time.time())
    assert [round(p / 60) for p in pauses] == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert state(job) == "received" and not job.over() and not job.failures()


def test_a_ticket_that_is_closed_meanwhile_stops_its_job(made):
    job = made()
    job.store.move(job.id, "withdrawn")
    with pytest.raises(Over):
        job.done("admit", lambda: pytest.fail("nothing is done"))


@pytest.mark.parametrize(
    ("number", "kind"),
    [(signal.SIGKILL, Broken), (signal.SIGSEGV, Broken), (signal.SIGTERM, Later)],
)
def test_only_a_death_that_nobody_asked_for_counts(number, kind):
    hand = Hand()
    try:
        os.kill(hand.process.pid, number)
        hand.process.wait()
        with pytest.raises(kind, match=r"SIG|outside"):
            list(hand.ask("examine", measuring.Task.model_construct()))
    finally:
        hand.end()


@pytest.mark.parametrize(
    ("error", "said", "words"),
    [
        (Refusal("misfit", "no such net", "send another"), "refused", "no such net"),
        (MeasurementFailed("NaN"), "refused", "the measurement failed: NaN"),
        (InUse("another process"), "later", "another process"),
        (OSError(28, "No space left on device"), "later", "No space"),
        (InvalidInput("no file at data"), "broken", "no file at data"),
        (BenchError("odd"), "broken", "odd"), (RuntimeError("a bug"), "broken", "a bug"),
        (MemoryError(), "broken", "MemoryError"),
    ],
)  # fmt: skip
def test_a_child_says_whose_fault_it_is(made, monkeypatch, error, said, words):
    def work(task, tell):
        raise error

    monkeypatch.setitem(measuring.WORK, "examine", work)
    task = made()._task().model_dump(mode="json")
    answer = measuring._answered({"what": "examine", "task": task}, _Nowhere())
    assert words in str(getattr(answer, said))
    assert answer.model_fields_set == {said}


# ---------------------------------------------------------------- the operator


def test_the_operator_sees_what_failed_and_tries_again(made):
    job = made()
    with pytest.raises(Over):
        job.done("examine", raising(*[Broken("Traceback of it")] * 3))
    seen = operating.overview(job.settings)
    assert seen["states"] == {"rejected": 1} and "Traceback of it" in seen["failures"][0]["words"]
    assert seen["disk"]["files"] > 0
    assert operating.retry(job.settings, job.id[:8]).now.state == "received"
    again = Job(job.settings, job.id, "gradient")
    assert not again.over() and again.done("admit", again.admit) is None
    assert operating.reject(job.settings, job.id, "no", "none").now.reason == "no"
    with pytest.raises(InvalidInput, match="is rejected already"):
        operating.reject(job.settings, job.id, "no", "another")
    operating.remove(job.settings, job.id, "not theirs")
    with pytest.raises(InvalidInput, match="nothing of it is left"):
        operating.retry(job.settings, job.id)


def test_what_is_put_off_is_hurried(made):
    job = made()
    job.wait("the disk is full")
    assert operating.overview(job.settings)["open"][0]["put_off"] == "the disk is full"
    operating.retry(job.settings, job.id)
    assert job.later()["after"] == 0 and job.later()["tries"] == 2


def test_a_backup_is_gone_on_from_in_an_empty_folder(made, tmp_path):
    done, begun = made("first"), made("second", raw=committed("digits-at-awp-s0-last"))
    record = walked(done)
    begun.done("admit", begun.admit)
    begun.done("examine", begun.examine)
    file = tmp_path / "backup.tar.gz"
    assert backup.write(done.settings, file) == 2
    there = host(tmp_path / "elsewhere", protocols=("gradient",))
    assert backup.read(there, file) == 2
    assert Store(there.root).all() == done.store.all()
    assert held(there.out) == held(done.settings.out)
    assert {p.stat().st_mode & 0o077 for p in there.root.rglob("*")} == {0}
    known = proven.known_among(there.out, [there.out / record])
    assert known == {there.out / record}
    job = Job(there, begun.id, "gradient")
    path = there.out / walked(job)
    assert state(job) == "ranked" and store.read(path).card.name == "second"
    with pytest.raises(InvalidInput, match="holds tickets"):
        backup.read(there, file)
    with pytest.raises(InvalidInput, match="is there already"):
        backup.write(there, file)


@pytest.mark.parametrize("what", ["text", "outside", "a link", "cut off"])
def test_what_is_no_backup_leaves_nothing(tmp_path, what):
    import io
    import tarfile

    file, there = tmp_path / "b.tar.gz", host(tmp_path / "there")
    with tarfile.open(file, "w:gz") as archive:
        member = tarfile.TarInfo("tickets/../../x" if what == "outside" else "tickets/x.json")
        member.size = 0 if what == "a link" else 2
        if what == "a link":
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(member, io.BytesIO(b"{}"))
    if what == "text":
        file.write_text("no archive")
    if what == "cut off":
        file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(InvalidInput, match="backup"):
        backup.read(there, file)
    assert not held(there.root) and not (tmp_path / "x").exists()


def test_a_job_that_was_put_off_is_due_again_later(made):
    pytest.importorskip("dbos", reason="the extra host is not installed")
    from bench.intake.jobs import CHECKS, MEASUREMENTS, due

    job, now = made(), time.time()

    def asked(seconds: float = 0):
        ticket = job.store.read(job.id)
        return [each[1:3] for each in due(job.settings, ticket, now + seconds)]

    first = next(iter(due(job.settings, job.store.read(job.id), now)))[0]
    assert asked() == [(CHECKS, "gradient")]
    job.wait("the disk is full")
    assert asked() == [] and asked(100) == [(CHECKS, "gradient")]
    assert next(iter(due(job.settings, job.store.read(job.id), now + 100)))[0] != first
    job.hurry()
    for reached in ("checked", "waiting", "attacking", "verified"):
        job.store.move(job.id, reached)
        queue = CHECKS if reached == "checked" else MEASUREMENTS
        assert asked() == [(queue, "gradient")]
    job.store.move(job.id, "ranked")
    assert asked() == [(MEASUREMENTS, "quick")]
    other = Job(job.settings, job.id, "quick")
    other.folder.mkdir(parents=True)
    (other.folder / "over.json").write_text(json.dumps({}))
    assert asked() == []
    job.store.move(job.id, "withdrawn")
    assert asked(1e6) == []
