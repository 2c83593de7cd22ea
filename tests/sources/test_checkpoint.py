"""Checkpoint folders and foreign files: what is admitted, and how the rest is refused."""

from __future__ import annotations

import json
import os
import zipfile

import pytest
import safetensors.torch
import torch
from torch import nn

from bench import models
from bench.schema import InvalidInput, ModelCard
from bench.sources import checkpoint

ARGUMENTS = {"in_channels": 1, "image_size": 8, "num_classes": 10, "width": 4}


def state(**changes):
    torch.manual_seed(1)
    weights = dict(models.build("small_cnn", ARGUMENTS).net.state_dict())
    return weights | changes


def bring(path, tmp_path, **changes):
    said = {"arch": "small_cnn", "dataset": "digits", "name": "a", "arch_args": {"width": 4}}
    found = checkpoint.foreign(path, **(said | changes))
    return checkpoint.add(*found, out=tmp_path / "checkpoints")


WRAPPED = {
    "plain": lambda s: s,
    "model, module.": lambda s: {"model": {f"module.{k}": v for k, v in s.items()}},
    "compiled in parallel": lambda s: {f"module._orig_mod.{k}": v for k, v in s.items()},
    "net, net.": lambda s: {"net": {f"net.{k}": v for k, v in s.items()}, "acc": 1.0},
    "unused block": lambda s: s | {"sub_block1.layer.0.weight": torch.zeros(3)},
    "no counters": lambda s: {k: v for k, v in s.items() if not k.endswith("tracked")},
}


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_published_wrappings_are_undone(wrap, tmp_path):
    torch.save(wrap(state()), tmp_path / "file.pt")
    folder = bring(tmp_path / "file.pt", tmp_path)
    model, card = checkpoint.load(folder)
    kept = {k: v for k, v in model.net.state_dict().items() if not k.endswith("tracked")}
    assert all(torch.equal(v, state()[k]) for k, v in kept.items())
    assert not model.training
    assert card.name == "a"
    assert card.n_parameters == sum(p.numel() for p in model.net.parameters())


def test_safetensors_and_normalisation(tmp_path):
    safetensors.torch.save_file(state(), tmp_path / "file.safetensors")
    folder = bring(tmp_path / "file.safetensors", tmp_path, mean=(0.5,), std=(0.25,))
    model, _ = checkpoint.load(folder)
    x = torch.rand(2, 1, 8, 8)
    assert torch.allclose(model(x), model.net((x - 0.5) / 0.25), atol=1e-6)


class Hostile:
    def __reduce__(self):
        return os.system, ("touch hostile-code-ran",)


def _compressed(path):
    torch.save(state(), path)
    with zipfile.ZipFile(path) as source:
        members = {m: source.read(m) for m in source.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for name, raw in members.items():
            target.writestr(name, raw)


def _flipped(path):
    torch.save(state(), path)
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def _first(change):
    weights = state()
    name = next(iter(weights))
    return weights | {name: change(weights[name])}


BAD = {
    "missing": (lambda p: None, "no file at"),
    "junk": (lambda p: p.write_bytes(b"junk" * 99), "not"),
    "web page": (lambda p: p.write_text("<!DOCTYPE html><html>quota</html>"), "web page"),
    "truncated": (
        lambda p: (torch.save(state(), p), p.write_bytes(p.read_bytes()[:5000])),
        "truncated or damaged",
    ),
    "flipped bit": (_flipped, "damaged"),
    "compressed": (_compressed, "compressed archive"),
    "code": (lambda p: torch.save({"state_dict": Hostile()}, p), "more than tensors"),
    "list": (lambda p: torch.save([1, 2], p), "holds a list of 2, expected a state dict"),
    "a tensor": (lambda p: torch.save(torch.ones(3), p), "holds one tensor alone"),
    "an empty dict": (lambda p: torch.save({}, p), "holds an empty dict, no tensors"),
    "text value": (lambda p: torch.save(state(epoch="3"), p), "tensors only"),
    "NaN": (lambda p: torch.save(_first(lambda w: w * torch.nan), p), "not finite"),
    "shape": (lambda p: torch.save(_first(lambda w: w[:1]), p), "has shape"),
    "huge stride-0": (
        lambda p: torch.save(_first(lambda w: torch.zeros(1).expand(200_000, 200_000)), p),
        "has shape",
    ),
    "another network": (lambda p: torch.save(nn.Linear(2, 2).state_dict(), p), "does not fit"),
}


@pytest.mark.parametrize(("make", "words"), BAD.values(), ids=BAD)
def test_bad_files_are_refused_and_nothing_is_left(make, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "file.pt"
    make(path)
    before = path.read_bytes() if path.exists() else None
    with pytest.raises(InvalidInput, match=words):
        bring(path, tmp_path)
    assert not (tmp_path / "hostile-code-ran").exists()
    assert not list((tmp_path).glob("checkpoints/*"))
    assert (path.read_bytes() if path.exists() else None) == before


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"arch": "smal_cnn"}, "Did you mean 'small_cnn'"),
        ({"dataset": "digit"}, "Did you mean 'digits'"),
        ({"arch_args": {"widht": 4}}, "Did you mean 'width'"),
        ({"name": "../escape"}, "name"),
        ({"mean": (0.5, 0.5)}, "mean"),
    ],
)
def test_wrong_words_are_explained(changes, words, tmp_path):
    torch.save(state(), tmp_path / "file.pt")
    with pytest.raises(InvalidInput, match=words):
        bring(tmp_path / "file.pt", tmp_path, **changes)


def test_a_folder_is_replaced_by_the_same_alone_and_damage_is_named(tmp_path):
    torch.save(state(), tmp_path / "file.pt")
    folder = bring(tmp_path / "file.pt", tmp_path)
    bring(tmp_path / "file.pt", tmp_path)  # the same again is fine
    torch.save({k: v + 1 for k, v in state().items()}, tmp_path / "file.pt")
    with pytest.raises(InvalidInput, match="choose another --name"):
        bring(tmp_path / "file.pt", tmp_path)
    weights = folder / checkpoint.WEIGHTS
    raw = weights.read_bytes()
    weights.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    with pytest.raises(InvalidInput, match="sha256 differs"):
        checkpoint.load(folder)
    weights.unlink()
    wrong = {folder: "missing", "file.pt": "not a checkpoint folder", "none": "no checkpoint at"}
    for place, words in wrong.items():
        with pytest.raises(InvalidInput, match=words):
            checkpoint.load(tmp_path / place)


def test_save_replaces_in_one_step(tmp_path, monkeypatch):
    """A crash while saving leaves the old folder."""
    torch.save(state(), tmp_path / "file.pt")
    folder = bring(tmp_path / "file.pt", tmp_path)
    card = ModelCard.model_validate(json.loads((folder / "card.json").read_text()))
    model = checkpoint.load_model(folder)

    def crash(*a):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_atomic", crash)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(folder, model, card)
    monkeypatch.undo()
    assert checkpoint.load(folder)[1] == card
    assert [p.name for p in folder.parent.iterdir()] == ["a"]
