"""Challenges that are refused, and those that were tampered with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bench import challenge, table
from bench.__main__ import main
from bench.challenge import hand_in
from bench.records import challenges, proven
from bench.schema import InvalidInput
from tests.verify.challenged import N, attack, handed

# ---------------------------------------------------------------- what is refused


def _scattered(n: int) -> Tensor:
    return torch.zeros(n, 1, 8, 8)


WRONG = {
    "an index too large": (lambda: handed([N], _scattered(1)), "names example 48; expected 0 to 47"),
    "a negative index": (lambda: handed([-1], _scattered(1)), "names example -1"),
    "an index twice": (lambda: handed([3, 1, 3], _scattered(3)), "names example 3 twice"),
    "no image": (lambda: handed(torch.zeros(0).long(), _scattered(0)), "expected 1 to 48"),
    "too many": (
        lambda: handed(torch.zeros(N + 1).long(), _scattered(N + 1)), "expected 1 to 48",
    ),
    "fewer indices": (lambda: handed([1], _scattered(2)), "expected (K,) and (K, 1, 8, 8)"),
    "another shape": (lambda: handed([1], torch.zeros(1, 3, 8, 8)), "(1, 3, 8, 8)"),
    "no channel": (lambda: handed([1], torch.zeros(1, 8, 8)), "(1, 8, 8)"),
    "indices in rows": (lambda: handed([[1]], _scattered(1)), "(1, 1)"),
    "int32 indices": (
        lambda: handed(torch.tensor([1], dtype=torch.int32), _scattered(1)), "is int32",
    ),
    "float indices": (lambda: handed(torch.tensor([1.0]), _scattered(1)), "is float32"),
    "float64 images": (lambda: handed([1], _scattered(1).double()), "is float64"),
    "bfloat16 images": (lambda: handed([1], _scattered(1).bfloat16()), "is bfloat16"),
    "labels too": (lambda: handed([1], _scattered(1), labels=torch.zeros(1)), "and nothing else"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_files_of_another_form_are_refused_by_name(name, board, capsys):
    build, said = WRONG[name]
    path = build()
    with pytest.raises(InvalidInput) as refused:
        hand_in(board.folder, path, by="Eve")
    assert said in str(refused.value) and str(path) in str(refused.value)
    assert not list(board.root.rglob("*challenge*"))


def test_ten_million_images_are_refused_before_a_number_is_read(board):
    """A sparse file: its header says what it holds, and nobody reads on."""
    count = 10_000_000
    size = count * 64
    header = json.dumps({
        "indices": {"dtype": "I64", "shape": [count], "data_offsets": [0, 8 * count]},
        "images": {"dtype": "U8", "shape": [count, 1, 8, 8], "data_offsets": [8 * count, 72 * count]},
    }).encode()  # fmt: skip
    with open("many.safetensors", "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 8 * count + size)
    with pytest.raises(InvalidInput, match=r"holds 10,000,000 images, expected 1 to 48"):
        hand_in(board.folder, Path("many.safetensors"), by="Eve")


@pytest.mark.parametrize(
    "kind", ["pickle", "zip", "npz", "text", "empty", "folder", "link", "gone"]
)
def test_what_is_no_safetensors_file_is_refused(kind, board):
    path = Path("file.safetensors")
    if kind in ("pickle", "zip"):
        torch.save([1], path, _use_new_zipfile_serialization=kind == "zip")
    elif kind == "npz":
        np.savez("file.npz", images=np.zeros(1))
        path = Path("file.npz")
    elif kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to("/dev/zero")
    elif kind != "gone":
        path.write_text("text" if kind == "text" else "")
    with pytest.raises(InvalidInput, match=str(path)):
        hand_in(board.folder, path, by="Eve")


def test_a_file_cut_or_flipped_anywhere_is_refused_or_judged(board):
    """Never anything but InvalidInput, or counts that add up."""
    places = np.flatnonzero(board.broken)
    raw = handed(places, board.pgd[places]).read_bytes()
    random = np.random.default_rng(0)
    refused = 0
    for trial in range(60):
        changed = bytearray(raw)
        if trial % 3 == 0:
            del changed[random.integers(len(raw)) :]
        else:
            at = random.integers(200 if trial % 3 == 1 else len(raw))
            changed[at] ^= 1 << random.integers(8)
        Path("fuzzed.safetensors").write_bytes(changed)
        try:
            found = challenge.adversarial.read(Path("fuzzed.safetensors"), n=N, shape=(1, 8, 8))
        except InvalidInput:
            refused += 1
            continue
        assert len(found.indices) == len(places) == len(found.images)
    assert 20 <= refused < 60


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"by": ""}, "--by must be a name"), ({"by": "\u202e\u200b"}, "--by must be a name"),
        ({"by": "x" * 101}, "got 101"), ({"link": "javascript:alert(1)"}, "--link must be"),
        ({"link": "example.org"}, "--link must be"),
    ],
    ids=repr,
)  # fmt: skip
def test_bad_credits_are_refused_by_name(words, said, board):
    with pytest.raises(InvalidInput, match="--") as refused:
        attack(board, **words)
    assert said in str(refused.value)


def test_a_network_that_is_not_on_the_board_is_named(board, capsys):
    path = handed([0], board.x[:1])
    for place in ("nobody", str(board.folder.parent / "nobody")):
        assert main(["challenge", place, str(path), "--by", "E", "--results", str(board.root)]) == 2
        assert "nobody" in capsys.readouterr().err
    moved = board.root / board.record.name
    shutil.copy(board.record, moved)
    with pytest.raises(InvalidInput, match="not where a record of its content belongs"):
        hand_in(moved, path, by="Eve")


# ---------------------------------------------------------------- what was tampered with


def rewritten(path: Path, **changes: Any) -> None:
    """The challenge with other values, its checksum made to fit."""
    kept, _ = challenges.read_hashed(path)
    path.write_text(challenges.text_of(kept.model_copy(update=changes)))


def more_bits(path: Path) -> dict[str, Any]:
    """One more image is said to be broken."""
    kept, _ = challenges.read_hashed(path)
    broken = kept.broken_bits
    broken[np.flatnonzero(~broken)[0]] = True
    predictions = np.where(broken, kept.predictions.clip(0), -1)
    return {
        "broken": challenge.pack_bits(broken),
        "adversarial_predictions": challenge.pack_ints(predictions[broken]),
        "handed": challenge.pack_bits(np.ones(kept.n, dtype=bool)),
        "right": kept.n
        - int(broken.sum())
        - kept.clean_wrong
        - kept.outside_ball
        - kept.outside_box,
    }


@pytest.mark.parametrize(
    "tamper",
    [
        lambda path: more_bits(path),
        lambda path: {"uint8_survivors": 0},
        lambda path: {"largest_perturbation": 0.01},
    ],
    ids=["a bit more", "survivors", "distance"],
)
def test_a_challenge_that_says_more_than_its_evidence_is_found(tamper, board, capsys):
    path = attack(board).path
    if challenges.read_hashed(path)[0].uint8_survivors == 0:
        pytest.fail("the test needs survivors")
    rewritten(path, **tamper(path))
    assert np.array_equal(board.row.best_known, board.standing)  # not the bytes that were proven
    assert main(["verify", str(path)]) == 1
    assert "NOT PROVEN" in capsys.readouterr().out
    assert not board.row.challenges


@pytest.mark.parametrize("how", ["flipped", "another's", "gone"])
def test_evidence_that_was_tampered_with_is_found(how, board, capsys):
    path = attack(board).path
    where = challenges.evidence_path(path)
    raw = bytearray(where.read_bytes())
    raw[len(raw) // 2] ^= 1
    if how == "gone":
        where.unlink()
    else:
        where.write_bytes(
            raw if how == "flipped" else board.record.with_suffix(".evidence.npz").read_bytes()
        )
    assert main(["verify", str(path)]) == (1 if how == "gone" else 2)
    said = capsys.readouterr()
    assert ("NO EVIDENCE HERE" in said.out) if how == "gone" else ("sha256 differs" in said.err)


@pytest.mark.parametrize(
    "change",
    [
        {"n": N + 1}, {"n": 0}, {"id": "0" * 16}, {"weights_sha256": "0" * 64}, {"by": ""},
        {"broken": "AAAA"}, {"handed": challenge.pack_bits(np.zeros(N, bool))}, {"right": 7},
        {"right": -1}, {"largest_perturbation": "nan"}, {"schema_version": 2}, {"extra": 1},
        {"new": challenge.pack_bits(np.zeros(N, bool))}, {"uint8_survivors": 1000},
    ],
    ids=str,
)  # fmt: skip
def test_a_challenge_that_contradicts_itself_does_not_load(change, board):
    path = attack(board).path
    content = json.loads(path.read_text()) | change
    del content["checksum"]
    path.write_text(json.dumps(content | {"checksum": challenges.content_hash(content)}))
    with pytest.raises(InvalidInput, match=r"challenge\.json"):
        challenges.read_hashed(path)
    assert np.array_equal(board.row.best_known, board.standing)
    (note,) = [n for n in table.build(board.root).notes if "challenge" in n and "valid" in n]
    assert path.exists()


def test_a_damaged_file_is_named_and_left(board):
    path = attack(board).path
    path.write_text(path.read_text()[:-100])
    notes = table.build(board.root).notes
    assert any(path.name in note and "left in place" in note for note in notes)
    assert np.array_equal(board.row.best_known, board.standing)


def test_only_a_listed_challenge_speaks(board):
    """A file put into the folder by hand is named, and changes no number before it is verified."""
    path = attack(board).path
    (board.root / proven.NAME).write_text("")
    assert not board.row.challenges
    assert any("not proven here" in note for note in table.build(board.root).notes)
    assert main(["verify", str(path)]) == 0
    assert board.row.challenges
