"""A record and finished parts are used again only for the model that they were measured on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bench import evidence
from bench.__main__ import main
from bench.datasets import load
from bench.measure.clean_logits import IMAGES, difference
from bench.measure.evaluate import measure
from bench.records import store
from bench.records.one_read import sha256_of_bytes
from bench.schema import MeasurementFailed
from bench.sources.unregistered import identified
from bench.until_sure import compare_until_sure
from tests.measure.short_protocols import QUICK


@pytest.fixture
def y(images, net):
    return net(images).argmax(1)


def run(model, images, y, **more):
    card = identified(model, images, dataset="digits").card.model_copy(
        update={"name": "net", "weights_sha256": "ab" * 32}  # as though both had one id
    )
    asked = {"threat": "linf:0.02", "protocol": QUICK, "card": card, "dataset": "digits"}
    return measure(model, images, y, **asked, **more)


class Other(nn.Module):
    """A network whose answers are changed."""

    def __init__(self, net, answer):
        super().__init__()
        self.net, self.answer = net, answer

    def forward(self, x):
        return self.answer(self.net(x))


def stopped(model, images, y, work):
    """Leaves a few parts behind; (path -> when it was written and what it holds)."""
    seen = []

    def stop(share, text):
        seen.append(text)
        if len(seen) > 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(model, images, y, work=work, report=stop)
    parts = sorted(work.rglob("*.npz"))
    assert parts
    return {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in parts}


# ---------------------------------------------------------------- evidence


def test_evidence_holds_the_logits_of_the_first_images_beside_its_columns(net, images, y):
    found = run(net, images, y)
    kept = evidence.logits_in(found.evidence)
    with torch.no_grad():
        assert np.allclose(kept, net(images[:IMAGES]).numpy(), atol=1e-5)
    columns = evidence.from_bytes(found.evidence)
    assert set(columns) == set(found.record.columns)
    assert evidence.logits_in(evidence.to_bytes(columns)) is None  # as older versions wrote it
    assert len(kept) == IMAGES < len(images)
    noisy = Other(net, lambda z: z + torch.rand_like(z))
    assert evidence.logits_in(run(noisy, images[:8], y[:8]).evidence) is None


A = np.array([[1.0, -3.0], [0.5, 2.0]], np.float32)
B = np.array([[np.nan, np.inf], [0.5, 2.0]], np.float32)


@pytest.mark.parametrize(
    ("before", "now", "differs"),
    [
        (A, A + 0.0039, False),  # 1e-3 (1 + 3)
        (A, A + 0.0041, True),
        (A, A[:1], True),
        (A, np.where(A == 2, np.nan, A), True),
        (B, B.copy(), False),
        (B, np.where(np.isinf(B), -np.inf, B), True),
        (B, A, True),
        (np.full((2, 2), np.nan, np.float32), np.full((2, 2), np.nan, np.float32), False),
    ],
)
def test_logits_differ_by_more_than_rounding_or_do_not(before, now, differs):
    assert bool(difference(before, now.astype(np.float32))) == differs


# ---------------------------------------------------------------- parts


@pytest.mark.parametrize("damage", [None, b"", "cut"])
def test_parts_of_another_model_or_with_damaged_logits_are_not_used(
    damage, net, images, y, tmp_path, caplog
):
    images, y = images[:20], y[:20]
    left = stopped(net, images, y, tmp_path)
    (path,) = tmp_path.rglob("logits.npy")
    now = Other(net, lambda z: z * -1) if damage is None else net
    if damage is not None:
        path.write_bytes(path.read_bytes()[:-9] if damage == "cut" else damage)
    resumed, fresh = run(now, images, y, work=tmp_path), run(now, images, y)
    assert store.same_answer(resumed.record, fresh.record)
    assert resumed.evidence == fresh.evidence
    assert ("differ by up to" if damage is None else f"{path} is damaged") in caplog.text
    assert not any(p.exists() for p in left)


@pytest.mark.parametrize("which", ["same", "older", "randomised"])
def test_parts_of_the_same_model_are_used(which, net, images, y, tmp_path, caplog):
    """Also those of a version that kept no logits; of a randomised model none can be kept."""
    images, y = images[:20], y[:20]
    model = Other(net, lambda z: z + 0.1 * torch.rand_like(z)) if which == "randomised" else net
    left = stopped(model, images, y, tmp_path)
    kept = list(tmp_path.rglob("logits.npy"))
    assert len(kept) == (which != "randomised")
    if which == "older":
        kept[0].unlink()
    again = stopped(model, images, y, tmp_path)
    assert {p: again[p] for p in left} == left
    assert all(path.exists() for path in kept)
    assert not caplog.records


def test_a_comparison_does_not_mix_parts_of_two_models_either(fitted, tmp_path, caplog):
    data = load("digits", n=20)
    card = identified(fitted, data.x, dataset="digits").card
    first = card.model_copy(update={"name": "a", "weights_sha256": "1" * 64})
    second = card.model_copy(update={"name": "b", "weights_sha256": "2" * 64})

    def compare(model, work):
        return compare_until_sure(
            (model, first), (fitted, second), data.x, data.labels, threat="linf:0.05",
            protocol=QUICK, max_n=20, work=work,
        )  # fmt: skip

    compare(fitted, tmp_path / "a")
    changed = Other(fitted, lambda z: z.roll(1, 1))
    mixed = compare(changed, tmp_path / "a")
    assert "differ by up to" in caplog.text
    assert mixed.look == compare(changed, tmp_path / "b").look


# ---------------------------------------------------------------- records, by the command line

FILE = """
import torch
from pathlib import Path
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.last = nn.Linear(64, 10)
        self.held = iter([1])

    def forward(self, x):
        return self.last(x.flatten(1)).roll(int(Path("roll").read_text()), 1)
"""


@pytest.fixture
def here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(FILE)
    Path("roll").write_text("0")


def command(capsys, status=0):
    call = ["evaluate", "--model", "mine.py:Net", "--dataset", "digits", "--threat", "linf:0.15"]
    assert main([*call, "--protocol", "gradient", "--n", "20", "--out", "r"]) == status
    return capsys.readouterr()


def recorded() -> tuple[Path, Path]:
    (proof,) = Path("r").rglob("*.npz")
    return proof.with_name(proof.name.replace(".evidence.npz", ".json")), proof


def test_a_record_is_reused_for_the_model_that_was_measured_alone(here, capsys, caplog):
    said = command(capsys)
    assert said.err.count("held (a builtins.list_iterator)") == 1  # what the id leaves out
    path, proof = recorded()
    before = path.read_bytes()
    assert "not read" in store.read(path).environment["identity"]
    assert "recorded before" in command(capsys).out
    Path("roll").write_text("3")
    said = command(capsys, 1)  # the new answer contradicts the record: refused, both kept
    assert "recorded before" not in said.out
    assert "already answers this question differently" in said.err
    assert f"{path} is not used: its logits on 20 images differ by up to" in caplog.text
    assert path.read_bytes() == before
    assert path.with_suffix(".refused.json").exists()
    caplog.clear()  # evidence of a version that kept no logits cannot tell
    older = evidence.to_bytes(evidence.from_bytes(proof.read_bytes()))
    proof.write_bytes(older)
    named = store.read(path).model_copy(update={"evidence_sha256": sha256_of_bytes(older)})
    path.write_text(store.text_of(named))
    assert "recorded before" in command(capsys).out
    assert not caplog.records


def test_a_model_that_no_longer_answers_is_not_what_was_measured(here, capsys, monkeypatch):
    command(capsys)

    def failing(*a):
        raise MeasurementFailed("gone")

    monkeypatch.setattr("bench.measure.shards.steady_logits", failing)
    monkeypatch.setattr("bench.measure.keeping.steady_logits", failing)
    assert "gone" in command(capsys, 1).err
