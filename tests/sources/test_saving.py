"""A checkpoint is there, whole, at every moment of a save; what a killed save leaves is nobody's."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from awp_train import plan
from bench import gap, training_log
from bench.measure import keeping, sweep
from bench.records import cards, store
from bench.schema import InvalidInput
from bench.sources import checkpoint
from tests.conftest import network
from tests.records.hostile import FILES, SECRET

STEPS = (
    (os, "rename"), (os, "replace"), (os, "fsync"), (os, "mkdir"), (os, "rmdir"), (os, "unlink"),
    (checkpoint, "_exchanged"),
)  # fmt: skip


def save(folder: Path, seed: int) -> str:
    """Saves another network there; the sha256 of its weights."""
    network(folder.parent, folder.name, seed=seed, files={"train.jsonl": f'{{"epoch": {seed}}}\n'})
    return checkpoint.read_card(folder).weights_sha256


def in_a_fork(act: Callable[[], object]) -> int:
    child = os.fork()
    if not child:
        try:
            act()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_at(step: int, act: Callable[[], object]) -> None:
    """Does something in this process, which ends at once before its step of that number."""
    left = [step]

    def ending(real):
        def call(*arguments, **named):
            if not left[0]:
                os._exit(9)
            left[0] -= 1
            return real(*arguments, **named)

        return call

    for module, name in STEPS:
        setattr(module, name, ending(getattr(module, name)))
    act()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("exchanges", [True, False])
def test_killed_at_any_step_the_old_or_the_new_checkpoint_is_there(
    exchanges, tmp_path, monkeypatch
):
    monkeypatch.setattr(cards, "_BETWEEN", 0)
    if not exchanges:
        monkeypatch.setattr(checkpoint, "_exchanged", lambda a, b: False)
    folder = tmp_path / "net"
    new = save(folder, 2)
    shutil.rmtree(folder)
    step, seen = 0, set()
    while True:
        old = save(folder, 1)
        code = in_a_fork(lambda k=step: killed_at(k, lambda: save(folder, 2)))
        if exchanges:
            assert cards.folders(tmp_path) == [folder]  # a draft is no checkpoint
        model, card = checkpoint.load(folder)
        assert checkpoint.weights_sha256(model) == card.weights_sha256
        epoch = {old: 1, new: 2}[card.weights_sha256]
        assert training_log.read_log(folder / "train.jsonl") == [{"epoch": epoch}]
        assert cards.folders(tmp_path) == [folder]
        seen.add(epoch)
        if code == 0:
            break
        assert code == 9
        step += 1
    assert step > 8 and seen == {1, 2}
    assert checkpoint.read_card(folder).weights_sha256 == new


def test_drafts_are_no_checkpoints_and_old_ones_go(tmp_path):
    save(tmp_path / "net", 1)
    for name in (".net.abcd_123", ".net.abcd_124", ".net.abcd_125.old", ".other.abcd_123"):
        shutil.copytree(tmp_path / "net", tmp_path / name)
    for name in (".net.abcd_123", ".net.abcd_125.old", ".other.abcd_123"):
        os.utime(tmp_path / name, (time.time() - 4000,) * 2)
    (tmp_path / "link").symlink_to("net")
    assert sweep.checkpoints(tmp_path, problems := []) == [tmp_path / "net"]
    assert not problems
    save(tmp_path / "net", 2)
    there = {path.name for path in tmp_path.iterdir()}  # a young one may be being written
    assert there == {"net", "link", ".net.abcd_124", ".other.abcd_123"}


def test_old_drafts_of_a_file_go_when_it_is_written_again(tmp_path):
    for name, age in (
        (".a.json.abcd_123", 4000),
        (".a.json.abcd_124", 10),
        (".b.json.abcd_123", 4000),
    ):
        (tmp_path / name).write_text("half")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    store.write_atomic(tmp_path / "a.json", "whole")
    there = {path.name for path in tmp_path.iterdir()}
    assert there == {"a.json", ".a.json.abcd_124", ".b.json.abcd_123"}


def test_a_folder_that_a_user_linked_is_replaced_where_it_lies(tmp_path):
    save(tmp_path / "elsewhere" / "net", 1)
    (tmp_path / "net").symlink_to("elsewhere/net")
    new = save(tmp_path / "net", 2)
    assert (tmp_path / "net").is_symlink()
    assert checkpoint.read_card(tmp_path / "elsewhere" / "net").weights_sha256 == new
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InvalidInput, match="is in the way"):
        save(tmp_path / "file", 1)
    assert (tmp_path / "file").read_text() == "mine"


# ---------------------------------------------------------------- what is copied


@pytest.mark.parametrize("form", [*FILES, "a secret", "another's"])
@pytest.mark.parametrize("name", keeping.COPIED)
def test_only_valid_regular_files_are_copied(name, form, tmp_path, caplog):
    save(tmp_path / "net", 1)
    assert keeping.copied(tmp_path / "net", checkpoint.WEIGHTS)
    place = tmp_path / "net" / name
    place.unlink(missing_ok=True)
    if form in FILES:
        FILES[form][0](place, b"{}\n")
    else:
        place.write_text(SECRET if form == "a secret" else '{"n": 1}x\n')
    assert keeping.copied(tmp_path / "net", name) is None
    if form != "8 GB of holes":  # large files stay where they are, without a word
        assert "it is not copied" in caplog.text
    assert SECRET[:5] not in caplog.text


def test_what_is_whole_is_copied_as_it_is_a_hard_link_too(tmp_path):
    save(tmp_path / "net", 1)
    os.link(tmp_path / "net" / "train.jsonl", tmp_path / "second name")
    for name in (checkpoint.WEIGHTS, checkpoint.CARD, training_log.NAME):
        assert keeping.copied(tmp_path / "net", name) == (tmp_path / "net" / name).read_bytes()
    assert keeping.copied(tmp_path / "net", gap.NAME) is None


def test_a_run_is_not_brought_back_with_a_log_that_leads_elsewhere(tmp_path):
    from awp_train.presets import find

    job = plan.job_of("digits-at", find("digits-at").config, out=tmp_path / "out", runs=tmp_path)
    for kept in ("best", "last"):
        folder = tmp_path / "results/digits/linf-0.15" / f"{job.name}-{kept}"
        network(
            folder.parent, folder.name, files={"train.jsonl": '{"epoch": 1}\n'}, train=job.config
        )
    log = folder / "train.jsonl"
    log.unlink()
    log.symlink_to("/etc/hostname")
    plan.bring_back(job, tmp_path / "results")
    assert not (tmp_path / "out").exists()
    log.unlink()
    log.write_text('{"epoch": 2}\n')
    plan.bring_back(job, tmp_path / "results")
    assert (job.last / "train.jsonl").read_text() == '{"epoch": 2}\n'
    assert plan.is_finished(job)
