"""Adversarial images that somebody hands in: judged as ours are, credited, and no rank moves."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from torch import Tensor

from bench import table
from bench.__main__ import main
from bench.challenge import hand_in
from bench.exports.data import csv_text, json_text
from bench.records import challenges, proven, store
from bench.schema import InvalidInput
from bench.verify import claimed
from tests.verify.challenged import EPS, Board, N, attack, handed

# ---------------------------------------------------------------- what counts


def test_what_our_own_attack_found_breaks_exactly_that(board):
    before = board.row
    found = attack(board, link="https://example.org/eve")
    assert np.array_equal(found.found.broken, board.broken)
    assert np.array_equal(found.new, board.broken & board.standing)
    assert found.counts["broken before"] == (board.broken & ~board.standing).sum()
    after = board.row
    assert np.array_equal(after.best_known, board.standing & ~board.broken)
    assert found.known_now == after.best_known.sum() < before.best_known.sum()
    assert (after.rank, after.rank_range, after.texts) == (
        before.rank, before.rank_range, before.texts,
    )  # fmt: skip
    assert np.array_equal(after.standing["worst_case"], before.standing["worst_case"])
    assert after.challengers == "Eve" and after.best_known_basis == "this record and 1 challenge"


def test_it_is_kept_with_its_evidence_and_proven(board, capsys):
    found = attack(board)
    assert found.path == board.folder / f"{found.path.name.partition('.')[0]}.challenge.json"
    kept, sha256 = challenges.read_hashed(found.path)
    assert (kept.by, kept.link, kept.n) == ("Eve", "", N)
    assert proven.read(board.root)[0][sha256].how == "proven"
    assert not table.build(board.root).notes
    assert main(["verify", str(found.path)]) == 0
    assert (
        f"{board.broken.sum()} of {board.broken.sum()} broken bits proven"
        in capsys.readouterr().out
    )
    assert main(["verify", str(board.folder), "--no-reattack"]) == 0  # among the records
    assert "challenge of net by Eve" in capsys.readouterr().out


def test_nothing_new_changes_nothing_and_says_so(board, capsys):
    attack(board)
    held = {path: path.read_bytes() for path in board.root.rglob("*") if path.is_file()}
    again = attack(board, by="Mallory")
    assert again.path is None and again.known_now == again.known_before
    assert again.counts["broken before"] == board.broken.sum()
    words = [str(board.folder), "handed.safetensors", "--by", "M", "--results", str(board.root)]
    assert main(["challenge", *words]) == 0
    assert "nothing new is broken" in capsys.readouterr().out
    assert {p: p.read_bytes() for p in board.root.rglob("*") if p.is_file()} == held


def test_each_challenger_is_credited_with_what_fell_first(board):
    new = board.broken & board.standing
    one, other = np.array_split(np.flatnonzero(new), 2)
    first, both = np.isin(np.arange(N), one), np.isin(np.arange(N), np.concatenate([one, other]))
    assert attack(board, first, by="Eve").new.sum() == len(one)
    second = attack(board, both, by="Mallory")
    assert second.new.sum() == len(other) and second.counts["broken before"] == len(one)
    assert set(board.row.challengers.split(", ")) == {"Eve", "Mallory"}


def test_a_killed_call_is_finished_by_the_same_file(board, monkeypatch):
    monkeypatch.setattr(claimed, "prove", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        attack(board)
    monkeypatch.undo()
    (path,) = board.root.rglob("*.challenge.json")
    monkeypatch.chdir(board.root.parent)
    assert not board.row.challenges  # not proven yet
    assert attack(board).path == path and board.row.challenges


def test_one_that_was_withdrawn_counts_no_more_and_stays(board, capsys):
    path = attack(board).path
    assert main(["withdraw", str(path), "--reason", "not ours"]) == 0
    assert np.array_equal(board.row.best_known, board.standing) and path.exists()
    (note,) = table.build(board.root).notes
    assert "withdrawn: not ours" in note
    with pytest.raises(InvalidInput, match="was withdrawn"):
        attack(board)


def test_exports_carry_the_credit(board, capsys):
    plain = table.build(board.root)
    assert "challenge" not in csv_text(plain.groups) + json_text(plain.groups)
    attack(board, by="=Eve <b>")
    built = table.build(board.root)
    assert "challenged_by" in csv_text(built.groups) and "'=Eve <b>" in csv_text(built.groups)
    ((row,),) = [group["rows"] for group in json.loads(json_text(built.groups))]
    assert [each["by"] for each in row["challenges"]] == ["=Eve <b>"]
    assert row["best_known"] == board.row.best_known_rate.estimate
    for form in ("html", "md", "text"):
        assert main(["table", "--results", str(board.root), "--format", form]) == 0
        said = capsys.readouterr().out
        assert "Eve" in said, form
        assert form != "html" or "<b>" not in said.partition("Eve")[2][:20]
    assert main(["list", "--challenges", "--results", str(board.root)]) == 0
    assert "=Eve" in capsys.readouterr().out


# ---------------------------------------------------------------- what the judge says of an image


def ulp(value: Tensor, way: float) -> Tensor:
    return torch.nextafter(value, torch.tensor(way))


def edges(board: Board, far: float) -> Tensor:
    """Images at a distance in one pixel that no attack needs: the first that leads into the box."""
    images = board.x.clone()
    up = images[:, 0, 0, 0] + far <= 1
    images[:, 0, 0, 0] += torch.where(up, far, -far)
    return images


def stretched(board: Board, limit: float) -> Tensor:
    """What PGD found, with the pixel that moved farthest at exactly this distance, in the box."""
    images, flat = board.pgd.clone(), board.x.flatten(1)
    delta = (images - board.x).flatten(1)
    room = torch.where(delta > 0, 1 - flat, flat)
    farthest = torch.where(room > limit + 1e-4, delta.abs(), -1).argmax(1, keepdim=True)
    moved = flat.double().gather(1, farthest) + limit * delta.gather(1, farthest).sign().double()
    return images.flatten(1).scatter(1, farthest, moved.float()).view_as(images)


@pytest.mark.parametrize(
    ("limit", "outside"),
    [(EPS, False), (EPS + 5e-7, False), (EPS + 2e-6, True), (EPS + 1e-3, True)],
)
def test_the_ball_is_that_of_the_engine(limit, outside, board):
    places = np.flatnonzero(board.broken)
    images = stretched(board, limit)[places]
    found = hand_in(board.folder, handed(places, images), by="Eve")
    far = (images.double() - board.x[places].double()).abs().flatten(1).amax(1).numpy()
    beyond = far > EPS + 1e-6
    assert beyond.all() == beyond.any() == outside
    assert found.counts["outside the ball"] == beyond.sum()
    assert found.found.broken.sum() <= len(places) - beyond.sum()
    assert outside or found.found.broken.any()


def test_one_ulp_decides(board):
    """The last float32 inside the tolerance counts, the next one does not."""
    place = np.flatnonzero(board.broken & board.standing)[:1]
    images = stretched(board, EPS)[place]
    pixel = (images - board.x[place]).abs().flatten().argmax()
    clean, value = board.x[place].flatten()[pixel].double(), images.flatten()[pixel].clone()
    way = 2.0 if value > clean else -1.0
    while (ulp(value, way).double() - clean).abs() <= EPS + 1e-6:
        value = ulp(value, way)
    for step, outside in ((value, 0), (ulp(value, way), 1)):
        images.view(-1)[pixel] = step
        found = hand_in(board.folder, handed(place, images), by="Eve")
        assert found.counts["outside the ball"] == outside, step
        shutil.rmtree(board.root / "digits" / "x", ignore_errors=True)


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (float("nan"), "outside the box"), (float("inf"), "outside the box"),
        (float("-inf"), "outside the box"), (1 + 2**-23, "outside the box"),
        (-1e-45, "outside the box"), (-0.0, None),
    ],
)  # fmt: skip
def test_a_value_outside_the_box_is_counted_as_such(value, what, board):
    places = np.flatnonzero(board.broken)
    images = board.pgd[places].clone()
    dark = (images == 0).flatten(1)
    assert dark.any(1).all()
    for image, at in zip(images.flatten(1), dark, strict=True):
        image[at.nonzero()[0]] = value
    found = hand_in(board.folder, handed(places, images), by="Eve")
    counts = found.counts
    if what is None:
        assert found.found.broken.sum() == len(places)
    else:
        assert counts[what] == len(places) == sum(counts.values())
        assert found.path is None


def test_every_image_is_counted_once(board):
    """Clean images, right ones and wrong ones, beside what PGD broke."""
    found = hand_in(board.folder, handed(np.arange(N), board.pgd), by="Eve")
    wrong = ~store.read(board.record).clean_correct
    assert found.counts["wrong without an attack"] == wrong.sum() > 0
    assert found.counts["classified correctly"] == N - wrong.sum() - board.broken.sum()
    assert sum(found.counts.values()) == N
    assert np.array_equal(found.found.broken, board.broken)


def test_images_in_8_bits_are_read_exactly(board):
    levels = (board.pgd * 255).round()
    images = (levels / 255).clamp(board.x - EPS, board.x + EPS)
    whole = torch.where((images == levels / 255).flatten(1).all(1)[:, None, None, None], levels, 0)
    found = hand_in(board.folder, handed(np.arange(N), whole.to(torch.uint8)), by="Eve")
    floats = hand_in(board.folder, handed(np.arange(N), whole / 255, "f.safetensors"), by="Eve")
    assert np.array_equal(found.found.broken, floats.found.broken)
    assert found.found.uint8_survivors == found.found.broken.sum()


def test_the_order_of_the_images_is_theirs_to_choose(board):
    places = np.flatnonzero(board.broken)[::-1].copy()
    found = hand_in(board.folder, handed(places, board.pgd[places]), by="Eve")
    assert np.array_equal(found.found.broken, board.broken)
