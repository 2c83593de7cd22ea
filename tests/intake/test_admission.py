"""The corpus of hostile files, and honest ones, through the intake: refused or converted as today."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from bench.catalogue import ARCHITECTURES
from bench.intake import admission, child
from bench.intake.refusal import Refusal
from bench.intake.report import Ask, Seen
from bench.intake.spool import Limits, Spool
from bench.schema import InvalidInput
from bench.sources import checkpoint
from tests.hostile import archives
from tests.hostile.corpus import CORPUS
from tests.hostile.member import CANARY, Member

ASK = Ask(arch="small_cnn", arch_args={"width": 4}, dataset="digits")
NAMES = ("net.pt", "net.safetensors")
WEIGHTS = [m for m in CORPUS if m.kind == "weights" and not m.needs_a_user]
SHORT = [m for m in WEIGHTS if m.short and "100,000" not in m.name]  # which is slow to build
LARGEST = 2**28
OLD = "before version 1.6"
SUMS = "does not match its checksum"


def built(member: Member, folder: Path, monkeypatch) -> Path | None:
    """The file of a member, in the working folder; None where no upload can be such a thing."""
    monkeypatch.chdir(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, on tensors that it no longer makes
        member.build(Path())
    for name in NAMES:
        if Path(name).is_file():
            return Path(name)
    return None


def today(file: Path) -> bytes | str:
    """The weights that `bench import` makes of a file, or why it does not."""
    try:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("bench.records.one_read.LARGEST", LARGEST)
            model, _ = checkpoint.foreign(
                file, name="mine", arch="small_cnn", dataset="digits", arch_args={"width": 4}
            )
        return checkpoint.as_safetensors(model)
    except InvalidInput as why:
        return str(why)


def here(raw: bytes, ask: Ask) -> tuple[bytes, Seen]:
    """What both children do, in this process and without their lock. Raises Refusal."""
    made = io.BytesIO()
    child._look(io.BytesIO(raw), made, ask)
    seen = child._convert(io.BytesIO(raw), made, ask)
    return made.getvalue(), seen


def agrees(came: bytes | Refusal, expected: bytes | str) -> bool:
    if isinstance(came, bytes):
        return came == expected
    if isinstance(expected, bytes):  # a format of which damage is not noticed is not taken here
        return OLD in came.reason
    same = came.reason.rstrip(".") == expected.rstrip(".")
    return same or OLD in came.reason or SUMS in came.reason


@pytest.mark.parametrize("member", SHORT, ids=lambda m: m.name)
def test_a_file_is_converted_or_refused_as_bench_import_does(member, tmp_path, monkeypatch):
    file = built(member, tmp_path, monkeypatch)
    if file is None or file.stat().st_size > LARGEST:
        pytest.skip("no upload")
    try:
        came: bytes | Refusal = here(
            file.read_bytes(), ASK.model_copy(update={"file_name": file.name})
        )[0]
    except Refusal as why:
        came = why
    assert agrees(came, today(file)), (came, today(file))
    assert not (tmp_path / CANARY).exists()


def _some(members: list[Member]) -> list[Any]:
    """Every tenth with the slow tests, the others where all hostile files are handed in."""
    marks = (pytest.mark.slow if k % 10 == 0 else pytest.mark.hostile for k in range(len(members)))
    return [pytest.param(m, marks=mark) for m, mark in zip(members, marks, strict=True)]


@pytest.mark.parametrize("member", _some(WEIGHTS), ids=lambda m: m.name)
def test_a_hostile_file_is_refused_by_a_locked_child(member, tmp_path, monkeypatch):
    """Ten seconds and a gigabyte beyond the imports are what a child has; one that needs more dies."""
    monkeypatch.setattr(admission, "_SECONDS", {"look": (10, 10, 200), "convert": (10, 10, 200)})
    (tmp_path / "files").mkdir()
    file = built(member, tmp_path / "files", monkeypatch)
    if file is None:
        pytest.skip("no upload")
    size, spool = file.stat().st_size, Spool(tmp_path / "spool", Limits(reserve=0, file=LARGEST))
    ask = ASK.model_copy(update={"file_name": file.name})
    try:
        with file.open("rb") as opened:
            kept = spool.receive(iter(lambda: opened.read(2**20), b""), submitter="a", size=size)
        admitted = admission.admit(spool, kept, ask)
        came: bytes | Refusal = admitted.path.read_bytes()
    except Refusal as why:
        came = why
    assert not (tmp_path / "files" / CANARY).exists()
    assert not list(spool.root.rglob("*.part"))
    if isinstance(came, Refusal) and came.code in ("too-large", "cut-off"):
        assert size > LARGEST or size == 0
        return
    assert isinstance(came, bytes) or came.code in ("unreadable", "content", "misfit")
    assert agrees(came, today(file)), (came, today(file))


def test_the_architecture_is_found_and_said():
    raw = archives.saved(archives.weights())
    made, seen = here(raw, Ask(file_name="net.pt"))
    assert seen.sentence == f"fits small_cnn, width 4, {seen.n_parameters:,} parameters"
    assert seen.arch_args == {"in_channels": 1, "image_size": 8, "num_classes": 10, "width": 4}
    assert (made, seen) == here(raw, ASK)


def test_what_fits_another_one_is_told_which():
    with pytest.raises(Refusal, match="It fits small_cnn, width 4") as caught:
        here(archives.saved(archives.weights()), Ask(arch="cnn_a", dataset="digits"))
    assert caught.value.code == "misfit" and "pull request" in caught.value.remedy


def test_what_fits_none_is_told_what_there_is():
    import torch

    with pytest.raises(Refusal, match="fits no architecture") as caught:
        here(archives.saved({"a.weight": torch.ones(2, 2)}), Ask())
    assert "small_cnn" in caught.value.remedy


def test_an_honest_file_is_converted_once_and_remembered(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    file = tmp_path / "net.pt"
    file.write_bytes(archives.saved(archives.weights()))
    spool = Spool(tmp_path / "spool", Limits(reserve=0))
    kept = spool.receive([file.read_bytes()], submitter="ann")
    admitted = admission.admit(spool, kept, Ask(file_name="net.pt"))
    assert admitted.path.read_bytes() == today(file)
    assert admitted.path.stat().st_mode & 0o777 == 0o600
    assert admitted.seen.sentence.startswith("fits small_cnn, width 4, ")
    assert sum("held by" in r.getMessage() for r in caplog.records) == 2
    monkeypatch.setattr(admission, "_run", None)  # no child is asked again
    assert admission.admit(spool, kept, Ask(file_name="other.pt")) == admitted
    admitted.path.write_bytes(b"other")
    os.unlink(admitted.path)
    with pytest.raises(TypeError):
        admission.admit(spool, kept, Ask())


@pytest.mark.parametrize(
    "made", [b"", b"PK\x03\x04", b"\x80\x04}.", bytes(8) + b"{}"],
    ids=["nothing", "a zip", "a pickle", "no tensors"],
)  # fmt: skip
def test_what_a_child_leaves_instead_of_weights_is_not_taken(made, tmp_path):
    seen = Seen(
        container="zip", arch="small_cnn", arch_args={}, n_parameters=9, mean=None, std=None, note=""
    )  # fmt: skip
    (tmp_path / "x.part").write_bytes(made)
    kept = Spool(tmp_path / "spool", Limits(reserve=0)).receive([b"weights"], submitter="a")
    with pytest.raises(Refusal, match="something else than weights"):
        admission._check(tmp_path / "x.part", seen, kept)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("../../net.pt", "net.pt"), ("C:\\a\\net.pt", "net.pt"),
        ("a\x1b[2J.pt", "a\\x1b[2J.pt"), ("/", "the file"),
    ],
)  # fmt: skip
def test_the_name_of_a_file_is_text_for_messages(name, shown):
    assert Ask(file_name=name).file_name == shown


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_architecture_is_found_and_converted_by_a_locked_child(arch, tmp_path):
    """What one of them imports late would be missing in a child that is locked."""
    import torch

    from bench import models

    arguments = {name: argument.default for name, argument in ARCHITECTURES[arch].arguments.items()}
    if "width" in arguments:
        arguments["width"] = 4
    model = models.build(arch, arguments).eval()
    torch.save(model.net.state_dict(), tmp_path / "net.pt")
    spool = Spool(tmp_path / "spool", Limits(reserve=0))
    kept = spool.receive([(tmp_path / "net.pt").read_bytes()], submitter="a")
    admitted = admission.admit(spool, kept, Ask())
    assert (admitted.seen.arch, admitted.seen.arch_args) == (arch, arguments)
    assert admitted.path.read_bytes() == checkpoint.as_safetensors(model)


def test_the_web_process_and_the_first_look_load_no_torch(tmp_path):
    (tmp_path / "net.pt").write_bytes(archives.saved(archives.weights()))
    code = """
import io, sys
from pathlib import Path
from bench.intake import admission, child, spool, ticket
from bench.intake.report import Ask
child._look(io.BytesIO(Path(sys.argv[1]).read_bytes()), io.BytesIO(), Ask())
sys.exit("torch" in sys.modules)
"""
    root = Path(__file__).parents[2]
    ran = subprocess.run([sys.executable, "-c", code, tmp_path / "net.pt"], cwd=root, check=False)
    assert ran.returncode == 0
