"""A record and finished parts are used again only for the model that they were measured on."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bench import evidence
from bench.__main__ import main
from bench.datasets import load
from bench.measure.clean_logits import IMAGES, changed_since, difference, logits_of
from bench.measure.evaluate import measure
from bench.records import store
from bench.schema import MeasurementFailed
from bench.sources.unregistered import identified
from bench.until_sure import compare_until_sure

CPU = torch.device("cpu")


@pytest.fixture
def images():
    return torch.rand(IMAGES + 6, 1, 8, 8)


@pytest.fixture
def y(images, net):
    return net(images).argmax(1)


def run(model, images, y, **more):
    card = identified(model, images, dataset="digits").card.model_copy(
        update={"name": "net", "weights_sha256": "ab" * 32}  # as though both had one id
    )
    return measure(
        model,
        images,
        y,
        threat="linf:0.02",
        protocol="gradient",
        card=card,
        dataset="digits",
        **more,
    )


class Other(nn.Module):
    """A network whose answers are changed, and who counts the images it is shown."""

    def __init__(self, net, answer=lambda z: z.flip(1)):
        super().__init__()
        self.net, self.answer, self.images = net, answer, 0

    def forward(self, x):
        self.images += len(x)
        return self.answer(self.net(x))


def stopped(model, images, y, work, after=1):
    """Leaves a few parts behind."""
    seen = []

    def stop(share, text):
        seen.append(text)
        if len(seen) > after:
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
    assert kept.dtype == np.float32
    with torch.no_grad():
        wanted = net(images[:IMAGES]).numpy()
    assert np.allclose(kept, wanted, atol=1e-5)
    assert set(evidence.from_bytes(found.evidence)) == set(found.record.columns)
    few = run(net, images[:5], y[:5])
    assert evidence.logits_in(few.evidence).shape == (5, 10)


def test_a_randomised_model_keeps_none(net, images, y):
    noisy = Other(net, lambda z: z + torch.rand_like(z))
    assert evidence.logits_in(run(noisy, images[:8], y[:8]).evidence) is None


def test_older_evidence_holds_none(net, images, y):
    columns = evidence.from_bytes(run(net, images[:8], y[:8]).evidence)
    older = evidence.to_bytes(columns)
    assert evidence.logits_in(older) is None
    assert set(evidence.from_bytes(older)) == set(columns)


# ---------------------------------------------------------------- what differs

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


def test_the_same_model_is_looked_at_once(net, images):
    model = Other(net, lambda z: z)
    before = logits_of(model, images, CPU)
    model.images = 0
    assert changed_since(before, model, images, CPU) == ""
    assert model.images == IMAGES
    assert "differ by up to" in changed_since(before, Other(net), images, CPU)
    noisy = Other(net, lambda z: z + torch.rand_like(z))
    assert changed_since(before, noisy, images, CPU) == ""


# ---------------------------------------------------------------- parts


def test_parts_of_another_model_are_not_mixed_in(net, images, y, tmp_path, caplog):
    other = Other(net, lambda z: z * -1)
    left = stopped(net, images, y, tmp_path)
    resumed = run(other, images, y, work=tmp_path)
    assert "parts" in caplog.text
    assert "differ by up to" in caplog.text
    fresh = run(other, images, y)
    assert store.same_answer(resumed.record, fresh.record)
    assert resumed.evidence == fresh.evidence
    assert not any(path.exists() for path in left)


def test_parts_of_the_same_model_are_used(net, images, y, tmp_path, caplog):
    left = stopped(net, images, y, tmp_path)
    again = stopped(net, images, y, tmp_path)
    assert {p: again[p] for p in left} == left
    assert run(net, images, y, work=tmp_path).evidence == run(net, images, y).evidence
    assert not caplog.records


@pytest.mark.parametrize("damage", [b"", b"junk" * 20, "cut", "flipped"])
def test_parts_with_damaged_logits_are_not_used(damage, net, images, y, tmp_path, caplog):
    left = stopped(net, images, y, tmp_path)
    (path,) = tmp_path.rglob("logits")
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    made = {"cut": bytes(raw[:-9]), "flipped": bytes(raw)}
    path.write_bytes(made[damage] if isinstance(damage, str) else damage)
    assert run(net, images, y, work=tmp_path).evidence == run(net, images, y).evidence
    assert f"{path} is damaged" in caplog.text
    assert not any(p.exists() for p in left)


def test_parts_of_a_version_that_kept_no_logits_are_used(net, images, y, tmp_path, caplog):
    left = stopped(net, images, y, tmp_path)
    (path,) = tmp_path.rglob("logits")
    path.unlink()
    again = stopped(net, images, y, tmp_path)
    assert {p: again[p] for p in left} == left
    assert path.exists()
    assert not caplog.records


def test_parts_of_a_randomised_model_are_used(net, images, y, tmp_path, caplog):
    noisy = Other(net, lambda z: z + 1e-1 * torch.rand_like(z))
    left = stopped(noisy, images, y, tmp_path)
    again = stopped(noisy, images, y, tmp_path)
    assert {p: again[p] for p in left} == left
    assert not list(tmp_path.rglob("logits"))


def test_a_model_that_raises_on_many_images_is_a_failed_record(net, images, y):
    def few_alone(z):
        if len(z) > 16:
            raise RuntimeError("too many")
        return z

    assert "too many" in run(Other(net, few_alone), images, y).record.failure
    with pytest.raises(MeasurementFailed, match="too many"):
        logits_of(Other(net, few_alone), images, CPU)


def test_a_comparison_does_not_mix_parts_of_two_models_either(fitted, tmp_path, caplog):
    data = load("digits", n=64)
    card = identified(fitted, data.x, dataset="digits").card
    first = card.model_copy(update={"name": "a", "weights_sha256": "1" * 64})
    second = card.model_copy(update={"name": "b", "weights_sha256": "2" * 64})

    def compare(model, work):
        return compare_until_sure(
            (model, first), (fitted, second), data.x, data.labels, threat="linf:0.05",
            protocol="gradient", max_n=32, work=work,
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
    command(capsys)
    path, _ = recorded()
    before = path.read_bytes()
    assert "recorded before" in command(capsys).out
    Path("roll").write_text("3")
    said = command(capsys, 1)  # the new answer contradicts the record: refused, both kept
    assert "recorded before" not in said.out
    assert "already answers this question differently" in said.err
    assert f"{path} is not used: its logits on 20 images differ by up to" in caplog.text
    assert path.read_bytes() == before
    assert path.with_suffix(".refused.json").exists()
    Path("roll").write_text("0")
    assert "recorded before" in command(capsys).out


def test_a_record_whose_evidence_keeps_no_logits_is_reused(here, capsys, caplog):
    command(capsys)
    path, proof = recorded()
    older = evidence.to_bytes(evidence.from_bytes(proof.read_bytes()))
    proof.write_bytes(older)
    record = store.read(path)
    named = record.model_copy(update={"evidence_sha256": hashlib.sha256(older).hexdigest()})
    path.write_text(store.pretty_json(named))
    Path("roll").write_text("3")
    assert "recorded before" in command(capsys).out
    assert not caplog.records


def test_lost_and_damaged_evidence_is_measured_again(here, capsys, caplog):
    command(capsys)
    path, proof = recorded()
    for lose, said in (
        (proof.unlink, "its evidence is missing"),
        (lambda: proof.write_bytes(b"junk"), "not the evidence it names"),
    ):
        lose()
        assert "recorded before" not in command(capsys).out
        assert said in caplog.text
        again = hashlib.sha256(proof.read_bytes()).hexdigest()
        assert again == store.read(path).evidence_sha256
        assert "recorded before" in command(capsys).out


def test_a_model_that_no_longer_answers_is_not_what_was_measured(here, capsys, monkeypatch):
    command(capsys)
    called = []

    def failing(*a):
        called.append(a)
        raise MeasurementFailed("gone")

    monkeypatch.setattr("bench.measure.clean_logits.logits_of", failing)
    assert "gone" in command(capsys, 1).err
    assert called


def test_what_an_id_leaves_out_is_said_once_by_the_command_line(here, capsys):
    text = Path("mine.py").read_text()
    Path("mine.py").write_text(
        text.replace("self.last =", "self.held = iter([1])\n        self.last =")
    )
    said = command(capsys)
    assert said.err.count("held (a builtins.list_iterator)") == 1
    assert "not read" in store.read(recorded()[0]).environment["identity"]
