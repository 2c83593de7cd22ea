"""Adversarial images that somebody hands in: judged as ours are, credited, and no rank moves."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from bench import challenge, datasets, evidence, table
from bench.__main__ import main
from bench.challenge import Outcome, hand_in
from bench.exports.data import csv_text, json_text
from bench.records import challenges, proven, store
from bench.schema import InvalidInput
from bench.verify import claimed
from tests.conftest import _digits_cnn, network

EPS, N = 0.15, 48


class Board(NamedTuple):
    """A results folder with one network measured by FGSM, and what PGD broke of it."""

    root: Path
    folder: Path
    record: Path
    x: Tensor
    y: Tensor
    pgd: Tensor  # (48, 1, 8, 8): adversarial where `broken`, else clean
    broken: np.ndarray  # by PGD

    @property
    def standing(self) -> np.ndarray:
        return store.read(self.record).worst_case_standing

    @property
    def row(self) -> table.Row:
        ((row,),) = [group.rows for group in table.build(self.root).groups]
        return row


def _evaluated(folder: Path, protocol: str, out: Path) -> Path:
    words = ["--protocol", protocol, "--n", str(N), "--workers", "1", "--out", str(out)]
    assert main(["evaluate", str(folder), *words, "--parts", str(out.parent / "w")]) == 0
    (path,) = out.glob("*/*/net/????????????????.json")
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Board:
    torch.set_num_threads(1)  # before the fixture that sets it for a test
    here = tmp_path_factory.mktemp("board")
    net = network(here, "net", _digits_cnn())
    record = _evaluated(net, "only-fgsm", here / "results")
    stronger = _evaluated(net, "only-pgd", here / "elsewhere")
    data = datasets.load("digits", n=N)
    (proof,) = evidence.from_bytes(stronger.with_suffix(".evidence.npz").read_bytes()).values()
    pgd = data.x.clone()
    pgd[torch.from_numpy(proof.index).long()] = proof.decode(data.x)
    broken = np.zeros(N, dtype=bool)
    broken[proof.index] = True
    found = Board(here / "results", record.parent, record, data.x, data.labels, pgd, broken)
    assert 0 < (broken & found.standing).sum() < broken.sum() < N
    return found


@pytest.fixture
def board(made: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Board:
    """A copy of it that a test may change."""
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "results"
    shutil.copytree(made.root, root)
    record = root / made.record.relative_to(made.root)
    return made._replace(root=root, folder=record.parent, record=record)


def handed(indices: Any, images: Tensor, name: str = "handed.safetensors", **more: Tensor) -> Path:
    path = Path(name)
    save_file({"indices": torch.as_tensor(indices), "images": images.contiguous(), **more}, path)
    return path


def attack(
    board: Board, which: np.ndarray | None = None, *, by: str = "Eve", **more: Any
) -> Outcome:
    """Hands in the images that PGD broke, or some of them."""
    places = np.flatnonzero(board.broken if which is None else which)
    return hand_in(board.folder, handed(places, board.pgd[places]), by=by, **more)


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
