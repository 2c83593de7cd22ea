"""An id is a function's: whatever changes what a model computes changes it, and nothing else does."""

from __future__ import annotations

import enum
import functools
import operator
import os
import subprocess
import sys
import types
from collections import namedtuple
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from bench import evaluate
from bench.autoattack import AutoAttack
from bench.sources.python_file import open_model
from bench.sources.unregistered import Placed, identified

ROOT = Path(__file__).parents[2]
X = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(5))

FILE = """
import os
import helper
import torch
from torch import nn

SCALE = float(os.environ.get("SCALE", 2))
helper.patch(nn.Identity)


def by(x, times=3.0):
    return x * times


class Net(helper.Base):
    def __init__(self, sigma=0.5):
        super().__init__()
        torch.manual_seed(0)
        self.sigma, self.held = sigma, helper
        self.act = nn.LeakyReLU(0.1)
        self.last = nn.Linear(64, 10)

    def forward(self, x):
        '''A documented method.'''
        import late

        x = self.shift(x) * self.sigma + SCALE  # nothing
        return late.finish(self.last(by(self.act(x) * self.held.FACTOR).flatten(1)))


def build():
    return Net()


def function():
    net, factor = Net().eval(), 3.0
    return lambda x: net(x) * factor
"""
HELPER = """
import torch
from torch import nn

FACTOR = 1.5


class Base(nn.Module):
    offset = 0.25

    def shift(self, x):
        return x + self.offset


def patch(kind):
    kind.forward = lambda self, x: x * FACTOR if FACTOR < 0 else x
"""
LATE = "def finish(z):\n    return z * 1.25\n"

# what is replaced in a file, what is put there
CHANGES = {
    "attribute": ("sigma=0.5", "sigma=0.75"),
    "slope": ("nn.LeakyReLU(0.1)", "nn.LeakyReLU(0.2)"),
    "forward": ("* self.sigma", "- self.sigma"),
    "default of a helper": ("times=3.0", "times=2.0"),
    "method of a base class": ("x + self.offset", "x - self.offset"),
    "constant that no name in the code shows": ("FACTOR = 1.5", "FACTOR = 2.5"),
    "what is done to a library's class": ("FACTOR < 0", "FACTOR < 1"),
    "imported inside": ("z * 1.25", "z * 1.5"),
    "weights": ("manual_seed(0)", "manual_seed(1)"),
    "not named by the model": ("def build():", "UNUSED = 7\n\n\ndef build():"),
}
SAME = {
    "comment": ("# nothing", "# something else"),
    "layout": ("self.shift(x) * self.sigma", "(self.shift( x )\n            * self.sigma)"),
    "docstring": ("A documented method.", "Does nothing."),
}


def write(folder: Path, old: str = "", new: str = "") -> None:
    found = False
    for name, text in {"mine.py": FILE, "helper.py": HELPER, "late.py": LATE}.items():
        found = found or old in text
        (folder / name).write_text(text.replace(old, new) if old else text)
    assert found


def opened(function: str = "build"):
    """As a new process would open it."""
    for name in ("helper", "late", "own_model_mine"):
        sys.modules.pop(name, None)
    sys.dont_write_bytecode = True
    own = open_model(f"mine.py:{function}", X, dataset="digits")
    assert own.note == ""
    return own.card.weights_sha256


@pytest.fixture
def here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(nn.Identity, "forward", nn.Identity.forward)  # the file changes it
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield tmp_path
    for name in ("helper", "late", "own_model_mine"):
        sys.modules.pop(name, None)


def test_a_change_of_the_function_alone_is_another_model(here):
    write(here)
    before = {function: opened(function) for function in ("build", "function")}
    for number, (what, (old, new)) in enumerate((CHANGES | SAME).items()):
        write(here, old, new)
        for function in ("build", "function")[: 2 - number % 2]:
            assert (opened(function) == before[function]) == (what in SAME), (what, function)


def test_a_value_from_elsewhere_is_part_of_it(here, monkeypatch):
    write(here)
    found = []
    for scale in ("2", "3", "2"):
        monkeypatch.setenv("SCALE", scale)
        found.append(opened())
    assert found[0] == found[2] != found[1]


def test_an_id_is_the_same_in_another_process(here):
    write(here)
    code = (
        "import torch; from bench.sources.python_file import open_model\n"
        "x = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(5))\n"
        "print(open_model('mine.py:build', x, dataset='digits').card.weights_sha256)\n"
    )
    environment = os.environ | {"PYTHONHASHSEED": "1", "PYTHONPATH": f"{here}:{ROOT}"}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, stdout=-1, check=True)
    assert done.stdout.decode() == f"{opened()}\n"


# ---------------------------------------------------------------- models made in Python


def id_of(model) -> str:
    return identified(model, X, dataset="digits").card.weights_sha256


class Own(nn.Module):
    """A network that holds whatever it is given."""

    def __init__(self, held: object = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.last = nn.Linear(64, 10)
        self.held = held

    def forward(self, x):
        return self.last(x.flatten(1))


class Plain:
    def __init__(self, value):
        self.value = value


class Slotted(Plain):
    __slots__ = ("value",)


class Colour(enum.Enum):
    RED, BLUE = 1.0, 2.0


@dataclass
class Options:
    value: float


Pair = namedtuple("Pair", "a b")


def linear(scale: float) -> nn.Linear:
    torch.manual_seed(0)
    layer = nn.Linear(2, 2)
    with torch.no_grad():
        layer.weight.mul_(scale)
    return layer


def closing_over(value):
    return lambda x: x * value


def cyclic(value):
    held = {"value": value}
    held["self"] = held
    return held


HELD = {
    "number": float,
    "member of an enumeration": Colour,
    "complex": lambda v: complex(v, 1),
    "text": str,
    "list": lambda v: [1, [v]],
    "dict": lambda v: {"a": v},
    "order of a dict": lambda v: {"a": 1, "b": 2} if v > 1 else {"b": 2, "a": 1},
    "key of a dict": lambda v: {v: 1},
    "set": lambda v: {v, "a", "b", None},
    "cycle": cyclic,
    "array": lambda v: np.full(3, v),
    "array of objects": lambda v: np.array([v, "a"], dtype=object),
    "numpy number": np.float32,
    "tensor": lambda v: torch.full((3,), v),
    "bfloat16": lambda v: torch.full((), v, dtype=torch.bfloat16),
    "dtype": lambda v: torch.float32 if v > 1 else torch.float64,
    "object": Plain,
    "slots": Slotted,
    "dataclass": Options,
    "namedtuple": lambda v: Pair(1, v),
    "namespace": lambda v: types.SimpleNamespace(value=v),
    "function": closing_over,
    "partial": lambda v: functools.partial(torch.mul, other=v),
    "bound method": lambda v: Plain(v).__init__,
    "cached": lambda v: functools.lru_cache(closing_over(v)),
    "builtin": lambda v: torch.sin if v > 1 else torch.cos,
    "class": lambda v: nn.ReLU if v > 1 else nn.GELU,
    "class of the user's": lambda v: type("Made", (), {"value": v}),
    "network in a list": lambda v: [linear(v)],
    "network in an object": lambda v: Plain({"a": (linear(v),)}),
    "attribute of a network in a list": lambda v: [nn.Dropout(v / 10)],
}


@pytest.mark.parametrize("make", HELD.values(), ids=HELD)
def test_what_a_model_holds_is_part_of_it(make):
    first, same, other = (id_of(Own(make(value))) for value in (2.0, 2.0, 1.0))
    assert first == same != other


def _parametrized(net, value):
    class Times(nn.Module):
        def __init__(self):
            super().__init__()
            self.value = value

        def forward(self, w):
            return w * self.value

    parametrize.register_parametrization(net.last, "weight", Times())


def _replaced(net, value):
    kind = type("Replaced", (Own,), {"forward": Own.forward})
    if value:
        kind.forward = lambda self, x: self.last(x.flatten(1)) * 2
    net.__class__ = kind


def _ordered(net, value):
    layers = [nn.Flatten(), nn.ReLU()]
    return nn.Sequential(*(reversed(layers) if value else layers), net)


# What is done to a network with a value; the network that comes of it, where it is another one.
WAYS = {
    "forward hook": lambda net, v: (
        net.register_forward_hook(lambda *a: None if v else a[-1]) and None
    ),
    "pre-hook": lambda net, v: (
        net.register_forward_pre_hook(lambda *a: None if v else a[-1]) and None
    ),
    "forward of the instance": lambda net, v: setattr(
        net, "forward", types.MethodType(lambda self, x: self.last(x.flatten(1)) * v, net)
    ),
    "method replaced": _replaced,
    "parametrization": _parametrized,
    "non-persistent buffer": lambda net, v: net.register_buffer(
        "hidden", torch.full((2,), float(v)), persistent=False
    ),
    "train mode": lambda net, v: setattr(net, "extra", nn.Dropout().train(bool(v))),
    "order of layers": _ordered,
}


def test_a_hook_of_every_network_is_part_of_it():
    def hooked(value):
        hook = nn.modules.module.register_module_forward_hook(lambda *a: None if value else a[-1])
        try:
            return id_of(Own())
        finally:
            hook.remove()

    assert hooked(1) == hooked(1) != hooked(0) != id_of(Own())


@pytest.mark.parametrize("change", WAYS.values(), ids=WAYS)
def test_what_is_done_to_a_model_is_part_of_it(change):
    def changed(value):
        net = Own().eval()
        return id_of(change(net, value) or net)

    assert changed(1) == changed(1) != changed(0)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("how", ["script", "trace"])
def test_a_compiled_module_is_its_code_and_what_that_reads(how):
    class Scaled(nn.Module):
        def __init__(self, value, last):
            super().__init__()
            self.last, self.value = last, value

        def forward(self, x):
            return self.last(x.flatten(1)) * self.value

    def made(value):
        net = Scaled(value, Own().last).eval()
        return torch.jit.script(net) if how == "script" else torch.jit.trace(net, X)

    assert id_of(made(2.0)) == id_of(made(2.0)) != id_of(made(3.0))


def test_torch_compile_and_a_place_change_no_function():
    def model(x):
        return x.flatten(1)[:, :10] * 2

    assert id_of(Placed(model, torch.device("cpu"))) == id_of(model)
    net = Own().eval()
    child = os.fork()  # where a compiled network has answered, no evaluation may fork any more
    if not child:
        try:
            compiled = torch.compile(net, backend="eager")
            os._exit(int(type(compiled) is type(net) or id_of(compiled) != id_of(net)))
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert id_of(Own(torch.device("cpu"))) == id_of(Own(torch.device("cuda")))
    assert id_of(Own("cuda:1")) == id_of(Own("cpu"))


class Counting(Own):
    """Keeps its last activation, and counts."""

    def forward(self, x):
        self.calls = getattr(self, "calls", 0) + 1
        self.kept = x
        self.seen = [*getattr(self, "seen", []), self.calls]
        return super().forward(x)


def test_what_every_pass_changes_is_no_part_and_is_said():
    fresh, used = Counting(2.0), Counting(2.0)
    for _ in range(3):
        used(torch.rand(5, 1, 8, 8))
    assert id_of(fresh) == id_of(used) == id_of(fresh)
    assert id_of(fresh) != id_of(Counting(3.0))
    note = identified(fresh, X, dataset="digits").note
    assert "calls (changes with every pass)" in note
    assert "kept" in note


def test_reading_leaves_the_model_as_it_was():
    net = nn.Sequential(nn.BatchNorm2d(1), Own())
    before = {k: v.clone() for k, v in net.state_dict().items()}
    assert id_of(net) == id_of(net)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert net.training


def test_what_cannot_be_read_is_said_and_kept_in_the_record():
    made = Own(iter([1, 2]))
    made.random = np.random.default_rng(0)
    found = identified(made, X, dataset="digits")
    assert "held (a builtins.list_iterator)" in found.note
    assert "random (the state of a Generator)" in found.note
    y, asked = torch.zeros(12, dtype=torch.long), {"threat": "linf:0.1", "protocol": "gradient"}
    record = evaluate(made, X, y, **asked)
    assert record.environment["identity"] == found.note
    assert record.card == found.card.model_copy(update={"dataset": "unnamed"})
    assert "identity" not in evaluate(Own(), X, y, **asked).environment


def test_evaluate_autoattack_and_the_command_line_name_a_model_alike(here):
    write(here)
    import mine  # type: ignore[import-not-found]

    net, y = mine.build().eval(), torch.zeros(12, dtype=torch.long)
    adversary = AutoAttack(net, eps=0.1, version="custom", attacks_to_run=["square"], verbose=False)
    adversary.square.n_queries = 5
    adversary.run_standard_evaluation(X, y)
    measured = evaluate(net, X, y, threat="linf:0.1", protocol="gradient")
    assert adversary.record.card == measured.card
    assert measured.card.class_count == 10
    assert measured.card.weights_sha256 == opened()
    sys.modules.pop("mine")


def test_a_callable_is_told_from_another_by_what_it_answers():
    """Where it keeps something that cannot be read."""

    def made(value):
        scale = operator.methodcaller("mul", value)
        return lambda x: scale(x.flatten(1)[:, :10])

    assert id_of(made(2.0)) == id_of(made(2.0)) != id_of(made(3.0))


def test_a_randomised_callable_keeps_its_id():
    def model(x):
        return x.flatten(1)[:, :10] + torch.rand(len(x), 10)

    assert id_of(model) == id_of(model)


def test_a_spectral_norm_and_a_recurrent_network_can_be_read():
    net = nn.Sequential(nn.Flatten(), parametrizations.spectral_norm(nn.Linear(64, 10)))
    assert id_of(net.eval()) == id_of(net)
    deep = nn.Sequential(nn.Flatten(1, 2), nn.LSTM(8, 4), Last(), nn.Flatten(), nn.Linear(32, 3))
    assert not identified(deep, X, dataset="d").note


class Last(nn.Module):
    def forward(self, found):
        return found[0]
