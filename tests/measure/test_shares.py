"""Shares of a measurement, made anywhere and in any order, merge to the record of a plain run."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.__main__ import main
from bench.measure import question as questions
from bench.measure import shards, shares
from bench.measure.share import Share
from bench.protocols import protocol as named
from bench.records import store
from bench.schema import InvalidInput, MeasurementFailed, OutOfTime, Protocol
from tests.conftest import network, small_net
from tests.measure.short_protocols import AUDITED, QUICK, run, shortened

ROOT = Path(__file__).parents[2]


def question(net: Any, x: Any, protocol: Protocol = QUICK, **more: Any) -> questions.Question:
    y = net(x).argmax(1)
    y[:10] = (y[:10] + 1) % 10
    asked = {
        "seed": 0, "card": None, "note": "", "dataset": "unnamed", "split": "", "engine": "ours",
        "precision": "float32", "audit": "sample", "batch": None,
    }  # fmt: skip
    return questions.question(net, x, y, threat="linf:0.02", protocol=protocol, **asked | more)


def make(asked: questions.Question, share: str, work: Path, **more: Any) -> shares.Made:
    settings = {"workers": 1, "until": math.inf, "report": lambda *news: None}
    return shares.make(asked, Share.parse(share), work, **settings | more)


def dies(*arguments: object) -> None:
    raise AssertionError("an attack ran, though every part was there")


# ---------------------------------------------------------------- the same record


@pytest.mark.parametrize("order", [["1/1"], ["2/2", "1/2"], ["1/3", "3/3", "2/3"], [*"abc"]])
def test_shares_merge_to_the_record_of_a_plain_run(
    order, whole, net, images, tmp_path, monkeypatch
):
    if order[0] == "a":  # more workers than there is work for
        order = [f"{i}/9" for i in range(9, 0, -1)]
    asked = question(net, images)
    made = [make(asked, share, tmp_path) for share in order]
    assert sum(each.parts for each in made) == 2 * 4  # shards x attacks
    assert [each.new for each in made] == [each.parts for each in made]
    assert make(asked, order[0], tmp_path).new == 0
    monkeypatch.setattr(shards.Shards, "_attack", dies)
    merged = run(net, images, work=tmp_path)
    assert store.same_answer(merged.record, whole.record)
    assert merged.record.flags == whole.record.flags
    assert merged.evidence == whole.evidence
    assert not list(tmp_path.iterdir())


FAST, STANDARD = (shortened(named(name, norm="linf", classes=10)) for name in ("fast", "standard"))


@pytest.mark.parametrize(
    ("protocol", "audit"),
    [
        (AUDITED, "sample"),
        *(pytest.param(FAST, audit, marks=pytest.mark.slow) for audit in ("sample", "all", "none")),
        pytest.param(STANDARD, "sample", marks=pytest.mark.slow),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_what_follows_earlier_attacks_comes_out_the_same(protocol, audit, net, images, tmp_path):
    """Cascades, AutoAttack on what stands, and audits of what every share left."""
    plain = run(net, images[:40], protocol, audit=audit)
    asked = question(net, images[:40], protocol, audit=audit)
    for share in ("2/2", "1/2"):
        make(asked, share, tmp_path)
    merged = run(net, images[:40], protocol, audit=audit, work=tmp_path)
    assert store.same_answer(merged.record, plain.record)
    assert merged.evidence == plain.evidence


def test_shares_in_processes_leave_the_same_parts(whole, net, images, tmp_path, monkeypatch):
    make(question(net, images), "1/1", tmp_path, workers=2)
    monkeypatch.setattr(shards.Shards, "_attack", dies)
    assert run(net, images, work=tmp_path).evidence == whole.evidence


def test_every_unit_is_one_shares(net, images, tmp_path):
    at = question(net, images).shards(tmp_path)
    costs = [unit.cost for unit in shares.units(at)]
    for of in (1, 2, 3, 5, 100):
        dealt = shares.dealt(costs, of)
        assert sorted(k for mine in dealt for k in mine) == list(range(len(costs)))
        assert max(map(len, dealt)) - min(map(len, dealt)) <= 1


# ---------------------------------------------------------------- what a share refuses


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0/8", "i must be 1 to 8, got 0"), ("9/8", "i must be 1 to 8, got 9"),
        ("1/0", "N must be 1 to 100,000, got 0"), ("1/999999", "got 999999"),
        *((text, "written i/N") for text in (
            "", "1", "1/", "/2", "a/b", "-1/2", "1/-2", "1.0/2", "1/2/3", "1 2", "٣/٨", "1/9999999",
        )),
    ],
)  # fmt: skip
def test_bad_shares_are_refused_by_name(text, said, capsys):
    with pytest.raises(InvalidInput, match="--shard") as refused:
        Share.parse(text)
    assert said in str(refused.value)
    assert main(["evaluate", f"--shard={text}", "--n", "10"]) == 2  # before anything is looked for
    assert said in capsys.readouterr().err


def test_a_folder_of_another_models_parts_is_left(net, images, tmp_path):
    asked = question(net, images)
    made = make(asked, "1/2", tmp_path)
    before = {path.name: path.read_bytes() for path in made.folder.iterdir()}
    other = questions.Question(**vars(asked) | {"model": small_net(seed=5)})
    with pytest.raises(InvalidInput, match="another model's"):
        make(other, "2/2", tmp_path)
    assert {path.name: path.read_bytes() for path in made.folder.iterdir()} == before


def test_a_share_that_is_late_goes_on(whole, net, images, tmp_path, monkeypatch):
    asked = question(net, images)
    with pytest.raises(OutOfTime, match="the time allowed is over"):
        make(asked, "1/1", tmp_path, until=-1.0)
    assert make(asked, "1/1", tmp_path).new == 8


def test_a_model_that_fails_makes_no_share(images, tmp_path, net):
    asked = question(net, images)
    failed = questions.Question(**vars(asked) | {"failure": "it raised"})
    with pytest.raises(MeasurementFailed, match="it raised"):
        make(failed, "1/1", tmp_path)


# ---------------------------------------------------------------- the commands


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A checkpoint, the arguments that measure it, and the record of a plain run."""
    root = tmp_path_factory.mktemp("plain")
    folder = network(root, "net")
    words = [str(folder), "--protocol", "only-pgd", "--n", "20", "--workers", "1"]
    assert main(["evaluate", *words, "--out", str(root / "out"), "--parts", str(root / "w")]) == 0
    (path,) = (root / "out").glob("*/*/net/????????????????.json")
    return words, path


@pytest.fixture
def call(plain, tmp_path, monkeypatch, capsys):
    """Calls a command on the same network, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def called(*words: str) -> tuple[int, str]:
        status = main([*words])
        said = capsys.readouterr()
        return status, said.out + said.err

    return called


def shared_out(call, words, of: int, *numbers: int, parts: str = "var/work") -> Path:
    for number in numbers:
        status, said = call("evaluate", *words, "--shard", f"{number}/{of}", "--parts", parts)
        assert status == 0 and f"share {number}/{of}" in said
    (folder,) = (p for p in Path(parts).iterdir() if p.is_dir())
    return folder


def the_record(root: str = "results") -> Path:
    (path,) = Path(root).glob("*/*/net/????????????????.json")
    return path


def same(path: Path, other: Path) -> None:
    assert store.same_answer(store.read(path), store.read(other))
    evidence = [each.with_suffix(".evidence.npz").read_bytes() for each in (path, other)]
    assert evidence[0] == evidence[1]


@pytest.mark.parametrize("by", ["folder", "arguments"])
def test_merge_makes_the_record_once(by, plain, call):
    words, path = plain
    folder = shared_out(call, words, 3, 3, 1, 2)
    asked = [str(folder)] if by == "folder" else words
    status, _ = call("merge", *asked)
    assert status == 0
    same(the_record(), path)
    assert not folder.exists()
    status, said = call("merge", *words)
    assert status == 0 and "recorded before" in said
    status, said = call("evaluate", *words, "--shard", "1/3")
    assert status == 0 and "the record is there" in said


def test_merge_names_what_is_missing(plain, call):
    words, _ = plain
    folder = shared_out(call, words, 2, 1)
    status, said = call("merge", str(folder))
    assert status == 1 and "missing" in said and "--shard 2/2" in said
    assert not Path("results").exists() or not list(Path("results").rglob("*.json"))
    status, said = call("merge", "var/nothing")
    assert status == 2
    status, said = call("merge", *words, "--parts", "elsewhere")
    assert status == 1 and "no share was made" in said


def test_parts_come_from_several_machines(plain, call):
    words, path = plain
    a = shared_out(call, words, 2, 1, parts="a")
    b = shared_out(call, words, 2, 2, parts="b")
    status, _ = call("merge", str(a), str(b))
    assert status == 0
    same(the_record(), path)
    assert a.exists() and b.exists()  # what was given is left


def test_overlapping_shares_agree_or_are_named(plain, call):
    words, path = plain
    a = shared_out(call, words, 2, 1, 2, parts="a")
    b = shared_out(call, words, 3, 1, parts="b")
    status, _ = call("merge", str(a), str(b), "--out", "one")
    assert status == 0
    same(the_record("one"), path)
    part = sorted(b.glob("*.npz"))[0]
    raw = shards.from_bytes(shards.unsealed(part))
    if raw.standing.any():
        changed = raw.standing.copy()
        changed[np.flatnonzero(changed)[0]] = False
        raw.standing = changed
    else:
        raw.standing = ~raw.standing
    part.write_bytes(shards.sealed(part, shards.to_bytes(raw)))
    status, said = call("merge", str(a), str(b), "--out", "two")
    assert status == 2 and "different answers" in said and part.name in said


def damaged(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


@pytest.mark.parametrize("where", ["in place", "from elsewhere"])
def test_a_damaged_part_is_named(where, plain, call):
    words, _ = plain
    folder = shared_out(call, words, 1, 1, parts="there")
    part = sorted(folder.glob("*.npz"))[0]
    damaged(part)
    parts = ["--parts", "there"] if where == "in place" else []
    status, said = call("merge", str(folder), *parts)
    assert (
        status == 1 and part.name in said and "checksum differs" in said and "--shard 1/1" in said
    )
    assert part.exists()


@pytest.mark.parametrize("other", ["seed", "renamed"])
def test_a_folder_of_another_request_is_named(other, plain, call):
    words, _ = plain
    a = shared_out(call, words, 2, 1, parts="a")
    if other == "seed":
        b = shared_out(call, [*words, "--seed", "1"], 2, 2, parts="b")
    else:
        b = a.with_name("my-copy")
        shutil.copytree(a, b)
    status, said = call("merge", str(a), str(b), *words)
    assert status == 2 and str(b) in said and "another measurement" in said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"source": None}, "model of your own"),
        ({"source": "/nowhere/net"}, "which is not here"),
        ({"seed": -1}, "is not a valid description"),
        ({"extra": 1}, "is not a valid description"),
        ({"of": 0}, "is not a valid description"),
        ({"protocol": "none"}, "no protocol named"),
        ({"seed": 3}, "another measurement"),
    ],
    ids=str,
)
def test_what_was_asked_is_read_strictly(change, said, plain, call):
    words, _ = plain
    folder = shared_out(call, words, 2, 1)
    asked = json.loads((folder / "asked.json").read_text())
    (folder / "asked.json").write_text(json.dumps(asked | change))
    status, told = call("merge", str(folder))
    assert status == 2 and said in told and "Traceback" not in told


@pytest.mark.slow
def test_the_loop_of_the_page_makes_the_record(plain, tmp_path):
    """Of docs/scaling.md, as it is printed there."""
    words, path = plain
    page = (ROOT / "docs/scaling.md").read_text()
    (loop,) = [b for b in re.findall(r"```bash\n(.*?)```", page, re.DOTALL) if "for i in" in b]
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    environment = os.environ | {
        "CHECKPOINT": words[0], "SHARED": str(tmp_path), "PYTHONPATH": str(ROOT),
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
    }  # fmt: skip
    subprocess.run(["bash", "-euc", loop], cwd=tmp_path, env=environment, check=True)
    same(the_record(str(tmp_path / "results")), path)
