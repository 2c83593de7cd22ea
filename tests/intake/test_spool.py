"""The spool: what was received is there whole or not at all, and within its limits."""

from __future__ import annotations

import hashlib
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from bench.intake.refusal import Refusal
from bench.intake.spool import DAY, Limits, Spool
from bench.schema import InvalidInput

MB = 2**20
SMALL = Limits(file=10 * MB, submitter=12 * MB, all=20 * MB, reserve=0)


def sha256(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def pieces(raw: bytes, step: int = 65_536):
    return (raw[k : k + step] for k in range(0, len(raw), step))


def files(root: Path, folder: str) -> list[str]:
    return sorted(p.name for p in (root / folder).rglob("*") if p.is_file())


@pytest.fixture
def spool(tmp_path) -> Spool:
    return Spool(tmp_path / "spool", SMALL)


@pytest.mark.parametrize("size", [1, 65_536, 9 * MB + 7])
def test_what_comes_is_kept_under_the_name_of_its_hash(spool, size):
    raw = os.urandom(size)
    kept = spool.receive(pieces(raw), submitter="ann", size=size, sha256=sha256(raw))
    assert kept.path.read_bytes() == raw and kept.path.name == kept.sha256 == sha256(raw)
    assert kept.new and kept.size == size and not files(spool.root, "incoming")


def test_nobody_else_may_read_it(spool):
    kept = spool.receive([b"weights"], submitter="ann")
    assert kept.path.stat().st_mode & 0o777 == 0o600
    assert {p.stat().st_mode & 0o077 for p in spool.root.rglob("*")} == {0}


def test_a_folder_that_is_open_to_others_is_not_used(tmp_path):
    tmp_path.chmod(0o755)
    with pytest.raises(InvalidInput, match="chmod 700"):
        Spool(tmp_path, SMALL).receive([b"weights"], submitter="ann")
    assert not list(tmp_path.iterdir())


def test_a_known_hash_is_answered_before_a_byte_is_asked_for(spool):
    spool.receive([b"weights"], submitter="ann")

    def never():
        raise AssertionError
        yield b""

    again = spool.receive(never(), submitter="bob", sha256=sha256(b"weights"))
    assert not again.new and again.size == 7
    assert not spool.receive([b"wei", b"ghts"], submitter="bob").new
    assert files(spool.root, "files") == [sha256(b"weights")] and not files(spool.root, "incoming")


@pytest.mark.parametrize("text", ["", "a" * 63, "A" * 64, "../" + "a" * 61, "a" * 64 + "\n"])
def test_what_is_no_hash_names_no_file(spool, text):
    with pytest.raises(InvalidInput, match="64 hexadecimal"):
        spool.receive([b"weights"], submitter="ann", sha256=text)


@pytest.mark.parametrize(
    ("chunks", "said", "code"),
    [
        (pieces(bytes(11 * MB)), {}, "too-large"),
        ([b"w"], {"size": 11 * MB}, "too-large"),
        ([b"weig"], {"size": 7}, "cut-off"),
        ([b"weights and more"], {"size": 7}, "cut-off"),
        ([b"weights"], {"sha256": sha256(b"other")}, "cut-off"),
        ([], {}, "cut-off"),
        ([b"", b""], {}, "cut-off"),
    ],
    ids=["longer", "said longer", "shorter", "longer than said", "another", "nothing", "empty"],
)  # fmt: skip
def test_what_is_refused_leaves_nothing(spool, chunks, said, code):
    with pytest.raises(Refusal) as caught:
        spool.receive(chunks, submitter="ann", **said)
    assert caught.value.code == code and caught.value.reason and caught.value.remedy
    assert not files(spool.root, "files") + files(spool.root, "incoming")


def test_a_sender_that_breaks_off_leaves_nothing_and_is_heard(spool):
    def breaks():
        yield bytes(MB)
        raise ConnectionResetError("gone")

    with pytest.raises(ConnectionResetError):
        spool.receive(breaks(), submitter="ann")
    assert not files(spool.root, "files") + files(spool.root, "incoming")


def test_quotas_are_of_a_submitter_and_of_all(spool):
    for name in ("ann", "bob"):
        spool.receive(pieces(os.urandom(9 * MB)), submitter=name)
    with pytest.raises(Refusal, match="your files together") as quota:
        spool.receive(pieces(os.urandom(4 * MB)), submitter="ann")
    with pytest.raises(Refusal, match="no room") as full:
        spool.receive(pieces(os.urandom(4 * MB)), submitter="eve")
    assert (quota.value.code, full.value.code) == ("quota", "no-room")
    assert not quota.value.ours and full.value.ours
    assert spool.receive([b"small"], submitter="eve").new and len(files(spool.root, "files")) == 3


def test_the_reserve_of_the_disk_stays_free(tmp_path):
    with pytest.raises(Refusal, match="no room"):
        Spool(tmp_path / "spool", Limits(reserve=2**62)).receive([b"weights"], submitter="ann")


def test_a_file_system_that_takes_no_more_is_no_fault_of_the_file(spool):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MB, before[1]))
    try:
        with pytest.raises(Refusal, match="no room") as caught:
            spool.receive(pieces(bytes(3 * MB)), submitter="ann")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.ours and not files(spool.root, "files") + files(spool.root, "incoming")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk")
def test_a_full_disk_is_no_fault_of_the_file(tmp_path):
    root = tmp_path / "spool"
    root.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m,mode=0700", "none", root], capture_output=True
    )
    if made.returncode:
        pytest.skip("this host mounts nothing")
    try:
        spool = Spool(root, SMALL)
        with pytest.raises(Refusal, match="no room"):
            spool.receive(pieces(os.urandom(3 * MB)), submitter="ann")
        assert not files(root, "files") + files(root, "incoming")
        assert spool.receive(pieces(os.urandom(MB)), submitter="ann").new
    finally:
        subprocess.run(["umount", root], check=True)


def test_two_writers_of_the_same_bytes_and_of_others_make_one_file_each(tmp_path):
    spool = Spool(tmp_path / "spool", Limits(reserve=0))
    same, answers, gate = os.urandom(3 * MB), [], threading.Barrier(6)

    def send(k: int) -> None:
        raw = same if k < 4 else same[k:]
        gate.wait()
        answers.append(spool.receive(pieces(raw), submitter=f"s{k}"))

    threads = [threading.Thread(target=send, args=(k,)) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(a.new for a in answers) == [False] * 3 + [True] * 3
    assert files(spool.root, "files") == sorted({sha256(same), sha256(same[4:]), sha256(same[5:])})
    assert not files(spool.root, "incoming")


_WRITER = """
import sys, time
from pathlib import Path
from bench.intake.spool import Limits, Spool
def slow():
    yield bytes(1000)
    print("on", flush=True)
    time.sleep(60)
Spool(Path(sys.argv[1]), Limits(reserve=0)).receive(slow(), submitter="ann")
"""


def test_a_killed_writer_leaves_a_part_that_goes_after_a_day(tmp_path):
    spool = Spool(tmp_path / "spool", SMALL)
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", _WRITER, spool.root], cwd=root, stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout is not None and writer.stdout.readline() == b"on\n"
        writer.send_signal(signal.SIGKILL)
    assert len(files(spool.root, "incoming")) == 1 and not files(spool.root, "files")
    assert spool.sweep(time.time()) == []
    assert len(spool.sweep(time.time() + DAY + 60)) == 1 and not files(spool.root, "incoming")
    assert spool.receive([b"weights"], submitter="ann").new  # and no lock is left


def test_what_is_removed_is_gone_with_all_that_was_made_of_it(spool):
    first, other = (spool.receive([raw], submitter="ann") for raw in (b"weights", b"others"))
    (spool.root / "weights").mkdir()
    for kept in (first, other):
        spool.weights(f"{kept.sha256}-x").write_bytes(b"made")
    spool.remove(first.sha256)
    left = [p for p in spool.root.rglob("*") if first.sha256 in p.name]
    assert not left and spool.known(first.sha256) is None
    assert spool.known(other.sha256) and spool.weights(f"{other.sha256}-x").exists()
    spool.remove(first.sha256)


def test_who_sent_a_file_cannot_be_read_from_the_folder(spool):
    spool.receive([b"weights"], submitter="ann@example.org")
    text = " ".join(str(p.relative_to(spool.root)) for p in spool.root.rglob("*"))
    assert "ann" not in text and (spool.root / "salt").stat().st_size == 32
