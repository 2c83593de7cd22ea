"""Files that hold several sets of weights: none is read without a word, the one asked for is read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from bench import models
from bench.__main__ import main
from bench.schema import InvalidInput
from bench.sources import checkpoint, weight_files, zoo

ARGS = {"in_channels": 1, "image_size": 8, "num_classes": 10, "width": 2}
KEYS = tuple(models.build("small_cnn", ARGS).net.state_dict())


def state(seed: int) -> dict:
    torch.manual_seed(seed)
    return dict(models.build("small_cnn", ARGS).net.state_dict())


def same(found: dict, wanted: dict) -> bool:
    return found.keys() == wanted.keys() and all(torch.equal(found[k], wanted[k]) for k in wanted)


def read(content: object, folder: Path, weights: str | None = None) -> dict:
    torch.save(content, folder / "file.pt")
    return checkpoint.read_state_dict(folder / "file.pt", weights=weights)


LAST, EMA = state(1), state(2)
PARAMETERS = {k: v for k, v in EMA.items() if "running" not in k and "tracked" not in k}
PREFIXED = {f"module.{k}": v for k, v in EMA.items()}
ADAM = {"state": {0: {"exp_avg": torch.zeros(4, 4)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}

# what a file holds, a word for the averaged set (or the second), a word for the other
SEVERAL = {
    "timm": (
        {"epoch": 3, "arch": "x", "state_dict": LAST, "optimizer": ADAM, "state_dict_ema": EMA},
        *("ema", "state_dict"),
    ),
    "model, model_ema": ({"model": LAST, "model_ema": EMA}, "ema", "model"),
    "last, best": ({"last": LAST, "best": EMA}, "best", "last"),
    "student, teacher": ({"student": LAST, "teacher": EMA}, "ema", "student"),
    "swa": ({"state_dict": LAST, "swa_state_dict": EMA, "swa_n": 3}, "swa", "state_dict"),
    "ema says swa": ({"model": LAST, "averaged": EMA}, "ema", "model"),
    "camel case": ({"stateDict": LAST, "emaStateDict": EMA}, "ema", "stateDict"),
    "unaveraged": (
        {"model_state_dict": EMA, "unaveraged_model_state_dict": LAST, "epoch": 9},
        *("ema", "unaveraged"),
    ),
    "other names, same tensors": ({"state_dict": LAST, "w2": EMA}, "w2", "state_dict"),
    "no known names": ({"a": LAST, "b": EMA}, "b", "a"),
    "in a wrapper": ({"checkpoint": {"model": LAST, "model_ema": EMA}}, "ema", "model"),
    "wrapped apart": (
        {"best": {"state_dict": EMA, "acc": 0.5}, "last": {"state_dict": LAST, "acc": 0.4}},
        *("best/state_dict", "last"),
    ),
    "ema in an object": ({"model": LAST, "ema": {"decay": 0.99, "module": EMA}}, "ema", "model"),
    "torch's average": (
        {"model": LAST, "swa_model": {"n_averaged": torch.tensor(5), **PREFIXED}},
        *("swa", "model"),
    ),
    "of a callback": (
        {"state_dict": LAST, "callbacks": {"EMA": {"ema_state_dict": EMA}}},
        *("ema", "state_dict"),
    ),
}


@pytest.mark.parametrize(("content", "averaged", "other"), SEVERAL.values(), ids=SEVERAL)
def test_several_sets_are_named_and_the_one_asked_for_is_read(content, averaged, other, tmp_path):
    with pytest.raises(InvalidInput, match=r"holds 2 sets of weights") as refusal:
        read(content, tmp_path)
    choices = str(refusal.value).split("--weights ")[1:]
    assert len(choices) == 2
    assert f"({len(KEYS)} tensors)" in str(refusal.value)
    assert same(read(content, tmp_path, averaged), EMA)
    assert same(read(content, tmp_path, other), LAST)
    found = [read(content, tmp_path, word.removesuffix(" or ")) for word in choices]
    assert same(found[0], EMA) != same(found[1], EMA)  # what it says works


ONE = {
    "ema alone": {"ema_state_dict": EMA, "epoch": 3},
    "with an optimiser": {"state_dict": EMA, "optimizer": ADAM, "opt_state": {"m": EMA}},
    "with statistics": {"model": EMA, "mean_std": {"mean": torch.rand(3), "std": torch.rand(3)}},
    "with gradients": {"model": EMA, "model_grads": EMA},
    "with an empty average": {"model": EMA, "ema": {}, "ema_decay": 0.9, "best": {"acc": 0.5}},
    "averaged model": {"swa_model": {"n_averaged": torch.tensor(5), **PREFIXED}},
    "flat": EMA,
}


@pytest.mark.parametrize("content", ONE.values(), ids=ONE)
def test_a_file_with_one_set_is_read(content, tmp_path):
    assert same(read(content, tmp_path), EMA)


NAMELESS = {"decay": 0.99, "shadow_params": [v for v in EMA.values() if v.is_floating_point()]}


@pytest.mark.parametrize(
    ("content", "asked", "words"),
    [
        ({"model": LAST, "my_ema": PARAMETERS}, None, "holds 2 sets"),
        ({"model": LAST, "ema": NAMELESS}, None, "--weights ema/shadow_params"),
        ({"model": LAST, "ema": NAMELESS}, "ema", "without names"),
        ({"model": LAST, "ema": EMA}, "exa", "'exa' names none"),
        ({"a": {"ema": LAST}, "b": {"ema": EMA}}, "ema", "'ema' names 2"),
        ({"model": LAST}, "ema", "one set of weights: model .*'ema' names none"),
        (EMA, "ema", "leave --weights ema out"),
        # An average does not stand in for weights that cannot be read.
        (EMA | {"ema": LAST}, None, "expected tensors only|holds 2 sets"),
        ({"state_dict": EMA | {"ema": LAST}}, None, "expected tensors only|holds 2 sets"),
        ({"model": EMA | {"x": 3}, "ema": LAST}, None, "holds 2 sets"),
    ],
)
def test_what_is_not_clear_is_explained(content, asked, words, tmp_path):
    with pytest.raises(InvalidInput, match=words):
        read(content, tmp_path, asked)


def test_the_command_asks_and_then_imports_the_one_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": LAST, "ema_state_dict": EMA}, "file.pt")
    call = ["import", "file.pt", "--arch", "small_cnn", "--arch-arg", "width=2"]
    call += ["--dataset", "digits", "--name", "mine"]
    assert main(call) == 2
    assert "ema_state_dict" in capsys.readouterr().err
    assert not Path("var").exists()
    assert main([*call, "--weights", "ema"]) == 0
    folder = Path(capsys.readouterr().out.strip())
    assert same(dict(checkpoint.load_model(folder).net.state_dict()), EMA)


def test_the_zoo_takes_what_robustbench_takes(tmp_path):
    class Net(nn.Sequential):
        pass

    net = Net(nn.Linear(2, 2))
    first, second = ({k: v + i for k, v in net.state_dict().items()} for i in range(2))
    entry = zoo.Entry("cifar10", "Linf", "Somebody2020", "x")
    path = tmp_path / "file.pt"
    torch.save({"state_dict_ema": second, "state_dict": first}, path)
    found = zoo.fitted(weight_files.read(path.read_bytes(), path).content, net, entry, path)
    assert same(weight_files.loaded(found, path), first)
