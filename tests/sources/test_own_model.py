"""A model from the user's own file: measured, recorded as unregistered, its errors explained."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bench.__main__ import main
from bench.judge import Judge
from bench.records import store
from bench.schema import InvalidInput, MeasurementFailed
from bench.sources.python_file import open_model
from bench.sources.unregistered import Placed, first_logits, on_device

FILE = """
import torch
from torch import nn


def build():
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(64, 10))


def as_function():
    net = build().eval()
    return lambda x: net(x)


def needs(width):
    return width


def fails():
    return 1 / 0


def number():
    return 7


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = nn.Linear(64, 10)

    def forward(self, x):
        return self.last(x.flatten(1))


class NoModes(Net):
    def eval(self):
        raise NotImplementedError("Calling eval() is not supported yet.")


def nowhere():
    return nn.Linear(64, 10, device="meta")


def lazy():
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(10))


made = Net()
constant = 3
"""


@pytest.fixture(autouse=True)
def _here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(FILE)


X = torch.rand(3, 1, 8, 8)


def evaluate(*words):
    call = ["evaluate", "--dataset", "digits", "--threat", "linf:0.15", "--protocol", "gradient"]
    return main([*call, "--n", "20", "--out", "r", *words])


@pytest.mark.parametrize("function", ["build", "as_function"])
def test_the_preflight_takes_it_as_evaluate_does(function, capsys):
    call = [
        "doctor",
        "--model",
        f"mine.py:{function}",
        "--dataset",
        "digits",
        "--n",
        "30",
        "--json",
    ]
    assert main(call) == 1  # it is not trained
    lines = {line["name"]: line["state"] for line in json.loads(capsys.readouterr().out)}
    assert lines["class count"] == lines["train-mode"] == "ok"
    assert lines["clean accuracy"] == "fail"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give CHECKPOINT, robustbench:<model id> or --model FILE.py:FUNCTION"),
        (["net", "--model", "mine.py:build", "--dataset", "digits"], "not both"),
        (["--model", "mine.py:build"], "needs --dataset"),
        (["net", "--name", "x"], "--name belongs to --model"),
        (["robustbench:nosuch"], "RobustBench has no model 'nosuch'"),
    ],
)
def test_a_wrong_call_of_the_preflight_says_what_to_do(words, said, capsys):
    assert main(["doctor", *words]) == 2
    assert said in capsys.readouterr().err


def test_a_model_of_the_users_own_is_measured_and_recorded(capsys):
    assert evaluate("--model", "mine.py:build", "--json") == 0
    (answer,) = json.loads(capsys.readouterr().out)
    assert answer["name"] == "mine-build"
    # Dropout in train mode would make it random, too.
    assert not {"train-mode", "randomised"} & set(answer["flags"])
    path = Path(answer["records"][0])
    record = store.read(path)
    assert (record.card.arch, record.card.class_count, record.n) == (None, 10, 20)
    assert record.card.n_parameters == 650
    beside = {p.name for p in path.parent.iterdir()}
    assert beside == {path.name, f"{record.id}.evidence.npz"}
    assert evaluate("--model", "mine.py:build") == 0
    said = capsys.readouterr().out
    assert "recorded before" in said
    assert "check it     weights of a model of your own are not kept" in said
    # The same weights get the same numbers behind a callable, under the name that is given.
    assert evaluate("--model", "mine.py:as_function", "--name", "my-net", "--json") == 0
    (again,) = json.loads(capsys.readouterr().out)
    assert (again["name"], again["robust"]) == ("my-net", answer["robust"])
    assert Path(again["records"][0]).parent.name == "my-net"


def test_a_model_without_modes_is_measured_as_it_is():
    assert open_model("mine.py:NoModes", X, dataset="digits").card.class_count == 10


@pytest.mark.parametrize("function", ["Net", "made"])
def test_a_class_or_a_finished_network_will_do(function):
    own = open_model(f"mine.py:{function}", X, dataset="digits")
    assert isinstance(own.model, nn.Module)
    assert not own.model.training
    assert own.card.name == f"mine-{function}"


def test_the_file_may_import_what_lies_beside_it(tmp_path):
    (tmp_path / "beside_mine.py").write_text("CLASSES = 5\n")
    (tmp_path / "other.py").write_text(
        "import torch\nfrom beside_mine import CLASSES\n"
        "def build():\n    return torch.nn.Sequential(torch.nn.Flatten(), "
        "torch.nn.Linear(64, CLASSES))\n"
    )
    assert open_model("other.py:build", X, dataset="digits").card.class_count == 5


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model", "mine.py"], "file.py:function"),
        (["--model", "none.py:build"], "no file at none.py"),
        (["--model", "mine.py:biuld"], "Did you mean 'build'"),
        (["--model", "mine.py:needs"], "needs width"),
        (["--model", "mine.py:fails"], "mine.py, line 21, raised ZeroDivisionError: division by"),
        (["--model", "mine.py:number"], "returned a int"),
        (["--model", "mine.py:nowhere"], "the model cannot be put on cpu: it raised NotImpl"),
        (["--model", "mine.py:lazy"], "the model has no weights yet"),
        (["--model", "mine.py:constant"], "is a int, not a function"),
        (["--model", "broken.py:build"], "broken.py, line 2, raised SyntaxError"),
        (["--model", "leaves.py:build"], "leaves.py, line 2, raised SystemExit: 3"),
        (["--model", "mine.py:build", "--name", "a/b"], "--name is made of"),
        (["--model", "mine.py:build", "--device", "tpu9"], "device"),
        (["net", "--model", "mine.py:build"], "not both"),
        (["net", "--name", "x"], "--name belongs to --model"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_wrong_calls_say_what_to_do(words, said, capsys, tmp_path):
    (tmp_path / "broken.py").write_text("import torch\ndef build(:\n")
    (tmp_path / "leaves.py").write_text("import sys\nsys.exit(3)\n")
    assert evaluate(*words) == 2
    assert said in capsys.readouterr().err
    assert not Path("r").exists()


def test_a_data_set_must_be_named_and_the_model_fit_it(capsys, tmp_path):
    assert main(["evaluate", "--model", "mine.py:build"]) == 2
    assert "--model needs --dataset" in capsys.readouterr().err
    (tmp_path / "wide.py").write_text("import torch\nbuild = lambda: torch.nn.Linear(784, 10)\n")
    assert evaluate("--model", "wide.py:build") == 1
    assert "the model raised RuntimeError" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "error", "words"),
    [
        (np.zeros(3), InvalidInput, "got ndarray"),
        (lambda x: x.flatten(1).numpy(), InvalidInput, "numpy array"),
        (lambda x: x, MeasurementFailed, "expected logits"),
    ],
)
def test_what_is_no_torch_model_is_refused(model, error, words):
    with pytest.raises(error, match=words):
        first_logits(model, X)


def test_a_placed_callable_keeps_gradients_and_its_precision(labelled):
    x, y = labelled
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).requires_grad_(False)
    calls = []

    def model(x):
        calls.append(x.dtype)
        return net(x)

    placed = Placed(model, torch.device("cpu"))
    z = x.clone().requires_grad_(True)
    (grad,) = torch.autograd.grad(placed(z).sum(), z)
    assert bool((grad != 0).any())
    double = copy.deepcopy(placed).to("cpu", torch.float64)
    assert torch.equal(double(x.double()), net(x))
    assert set(calls) == {torch.float32}
    assert torch.equal(Judge(placed)(x, y).broken, Judge(model)(x, y).broken)


def test_a_module_stays_where_it_is():
    net = nn.Linear(2, 2)
    assert on_device(net, None, X) is net
    assert on_device(net, "cpu", X) is net
    assert on_device(torch.sin, None, X) is torch.sin
    with pytest.raises(InvalidInput, match="no device named"):
        on_device(net, "gpu", X)
    with pytest.raises(InvalidInput, match=r"parameters are on meta, .* cpu"):
        on_device(nn.Linear(2, 2, device="meta"), "cpu", X)
