"""Models as people hand them in: each kind gets the number of its plain float32 twin, or a reason."""

from __future__ import annotations

import dataclasses
import random
import re
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from bench import AutoAttack, evaluate
from bench.judge import Judge
from bench.measure import evaluate as measuring
from bench.measure.clean_logits import steady_logits
from bench.measure.search import prepare
from bench.reliability.checks import model_findings
from bench.reliability.flags import FLAGS, unranking
from bench.schema import AttackSpec, Column, EvaluationRecord, InvalidInput, Protocol
from bench.sources.python_file import open_model
from tests.conftest import small_net


def protocol(**columns: dict[str, float | str]) -> Protocol:
    """A column for each attack."""
    made = [
        Column(name=name, attacks=(AttackSpec(name=name, params=params),))
        for name, params in columns.items()
    ]
    return Protocol(name="tiny", version=1, columns=tuple(made))


QUERIES = protocol(
    square={"queries": 20, "p_init": 0.8, "restarts": 1}, spsa={"steps": 2, "samples": 16}
)
BOTH = protocol(fgsm={"relative_step": 1.0}, pgd={"steps": 3}, square={"queries": 10})
Change = Callable[[nn.Module, Tensor], object]


class Through(nn.Module):
    """A network whose pass is written out."""

    def __init__(self, change: Change, net: nn.Module | None = None) -> None:
        super().__init__()
        self.net, self.change = net or small_net(), change
        self.eval()

    def forward(self, x: Tensor) -> object:
        return self.change(self.net, x)


def through(change: Change) -> Callable[[], nn.Module]:
    return lambda: Through(change)


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    """24 images of which the twin gets all but two right."""
    x = torch.rand(24, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    y = small_net()(x).argmax(1)
    y[:2] = (y[:2] + 1) % 10
    return x, y


@pytest.fixture
def no_checks(monkeypatch):
    """The checks of a model take longer than these attacks, and have tests of their own."""
    monkeypatch.setattr(measuring, "doubts_of", lambda shards: [])


def answers(record: EvaluationRecord) -> list[object]:
    assert record.failure is None
    standing = [record.standing(name).tolist() for name in record.columns]
    return [record.clean_prediction_array.tolist(), *standing]


def measured(model, data, asked=BOTH, **more) -> EvaluationRecord:
    return evaluate(model, *data, threat="linf:0.03", protocol=asked, **more)


# ---------------------------------------------------------------- the same function, otherwise written


class Extra(nn.Module):
    def __init__(self, raises: bool) -> None:
        super().__init__()
        self.net, self.raises = small_net(), raises
        self.eval()

    def get_extra_state(self) -> object:
        if self.raises:
            raise RuntimeError("no state")
        return {"seen": 3, "lock": None}

    def set_extra_state(self, state: object) -> None:
        pass

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class OneSelf(nn.Module):
    """Its copy is the network itself."""

    def __init__(self) -> None:
        super().__init__()
        self.net = small_net()
        self.eval()

    def __deepcopy__(self, memo: object) -> OneSelf:
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Keeps(nn.Module):
    """Keeps what it computed, with its graph, which nothing can copy."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.kept = small_net(), []
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        self.kept.append(self.net(x))
        return self.kept[-1]


def changed(change: Callable[[nn.Module], object]) -> Callable[[], nn.Module]:
    """The network after a change that leaves the function alone."""

    def make() -> nn.Module:
        net = small_net()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch would like the newer form
            change(net)
        return net

    return make


def compiled(kind: str) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch would like another compiler
        if kind == "traced":
            return torch.jit.trace(small_net(), torch.rand(2, 1, 8, 8))
        scripted = torch.jit.script(small_net())
        return torch.jit.freeze(scripted) if kind == "frozen" else scripted


def one_batch(size: int, least: int = 1) -> Change:
    def change(net: nn.Module, x: Tensor) -> Tensor:
        if size and len(x) != size or len(x) < least:
            raise ValueError(f"{size} images, please, not {len(x)}")
        return net(x)

    return change


def doubled(net: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda x: net(x).double()


def hooked() -> nn.Module:
    net, seen = small_net(), {}
    net[2].register_forward_hook(lambda module, inputs, output: seen.update(hidden=output))
    net[0].register_forward_pre_hook(lambda module, inputs: None)
    return Through(lambda net, x: net[4](net[3]((net(x), seen["hidden"])[1])), net)


# name -> (the model, how many images at once)
SAME: dict[str, tuple[Callable[[], object], int | None]] = {
    "function": (lambda: small_net().forward, None),
    "float64 output": (through(lambda net, x: net(x).double()), None),
    "float64 output of a function": (lambda: doubled(small_net()), None),
    "float64 weights": (lambda: small_net().double(), None),
    "float64 inside": (lambda: Through(lambda n, x: n(x.double()), small_net().double()), None),
    "extra state": (lambda: Extra(False), None),
    "extra state that raises": (lambda: Extra(True), None),
    "traced": (lambda: compiled("traced"), None),
    "scripted": (lambda: compiled("scripted"), None),
    "frozen": (lambda: compiled("frozen"), None),
    "pruned": (changed(lambda n: prune.l1_unstructured(n[0], "weight", amount=0)), None),
    "pruned linear": (changed(lambda n: prune.identity(n[4], "weight")), None),
    "weight norm": (changed(lambda n: nn.utils.weight_norm(n[0])), None),
    "weight norm, new": (changed(lambda n: parametrizations.weight_norm(n[0])), None),
    "data parallel": (lambda: nn.DataParallel(small_net()).eval(), None),
    "hooks": (hooked, None),
    "keeps its graph": (Keeps, None),
    "is its own copy": (OneSelf, None),
    "squeezes": (through(lambda net, x: net(x).squeeze()), None),
    "two images at least": (through(one_batch(0, least=2)), None),
    "single images": (through(one_batch(1)), None),
    "single images, said": (through(one_batch(1)), 1),
    "sixteen images": (through(one_batch(16)), 16),
    "more than there are": (through(one_batch(32)), 32),
    "asserts the range": (
        through(lambda net, x: net(x) if x.min() >= 0 and x.max() <= 1 else 1 / 0), None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", SAME)
def test_the_same_function_gets_the_same_number(kind, data, no_checks):
    make, batch = SAME[kind]
    wanted = answers(measured(small_net(), data))
    assert answers(measured(make(), data, batch=batch)) == wanted


@pytest.mark.parametrize("new", [True, False])
def test_spectral_norm_before_batchnorm(new, data, no_checks):
    """Another function than the twin's: that of a network with the effective weight written in."""
    net = small_net()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (parametrizations if new else nn.utils).spectral_norm(net[0])
    net.train()(data[0])
    plain = small_net()
    plain[1].load_state_dict(net[1].state_dict())
    with torch.no_grad():
        net.eval()(data[0])
        plain[0].weight.copy_(net[0].weight)
    y = plain(data[0]).argmax(1)
    assert answers(measured(net, (data[0], y))) == answers(measured(plain, (data[0], y)))


def half_precision(kind: str) -> nn.Module:
    if kind == "dynamic":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.ao.quantization.quantize_dynamic(small_net(), {nn.Linear})
    if kind == "autocast":

        def change(net: nn.Module, x: Tensor) -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return net(x)

        return Through(change)
    dtype = torch.float16 if "half" in kind else torch.bfloat16
    if "pure" in kind:
        return small_net().to(dtype)
    return Through(lambda net, x: net(x.to(dtype)).float(), small_net().to(dtype))


@pytest.mark.filterwarnings("ignore:quantized")  # torch has no gradient of it, and says so
@pytest.mark.parametrize("kind", ["bf16", "bf16 pure", "half", "half pure", "autocast", "dynamic"])
def test_coarser_arithmetic_is_judged_as_it_answers(kind, data, no_checks):
    model, (x, _) = half_precision(kind), data
    own = next((p.dtype for p in model.parameters()), torch.float32)
    with torch.no_grad():
        logits = model(x.to(own) if "pure" in kind else x).float()
    top = logits.topk(2).values
    clear = (top[:, 0] - top[:, 1] > 1e-3).numpy()  # else batches may round otherwise
    record = measured(model, (x, logits.argmax(1)))
    assert record.failure is None
    assert record.clean_correct[clear].all()
    assert clear.sum() > 20
    broken = ~record.standing("square") & record.clean_correct
    assert broken.sum() >= 1


@pytest.mark.parametrize("batch", [1, 16])
def test_a_batch_holds_everywhere(batch, data, tmp_path, monkeypatch):
    """Identification, class count, clean pass, checks, attacks and judge; the drop-in class too."""
    data = tuple(each[: batch + 3] for each in data)
    seen: set[int] = set()
    net = small_net()

    def model(x: Tensor) -> Tensor:
        seen.add(len(x))
        return net(x)

    assert measured(model, data, batch=batch).failure is None
    assert max(seen) <= batch
    seen.clear()
    monkeypatch.setattr(measuring, "doubts_of", lambda shards: [])  # they were asked once
    adversary = AutoAttack(
        model, eps=0.03, version="custom", attacks_to_run=["fab-t"], verbose=False
    )
    adversary.fab.n_iter = 2
    adversary.run_standard_evaluation(*data, bs=batch)
    adversary.clean_accuracy(*data, bs=batch)
    assert max(seen) <= batch
    exactly = Through(one_batch(batch))
    assert measured(exactly, data, batch=batch).failure is None
    adversary.model = exactly
    adversary.run_standard_evaluation(*data, bs=batch)
    (tmp_path / "fixed.py").write_text(
        f"import torch\ndef build():\n    def model(x):\n        assert len(x) == {batch}\n"
        "        return x.flatten(1)\n    return model\n"
    )
    monkeypatch.chdir(tmp_path)
    assert open_model("fixed.py:build", data[0], dataset="d", batch=batch).card.class_count == 64


# ---------------------------------------------------------------- what is no answer


@dataclasses.dataclass
class Answer:
    logits: Tensor


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda n, x: (n(x), x), r"returned tuple of 2: \(2, 10\), \(2, 1, 8, 8\)"),
        (lambda n, x: {"logits": n(x), "h": x}, "returned dict with the keys logits, h"),
        (lambda n, x: Answer(n(x)), r"returned Answer; return its \.logits"),
        (lambda n, x: None, "returned NoneType"),
        (lambda n, x: n(x)[:, 0], r"returned \(2,\)"),
        (lambda n, x: n(x)[:, :, None, None], r"returned \(2, 10, 1, 1\); flatten"),
        (lambda n, x: n(x)[:, :1], r"at least 2 classes.*of one score z make two"),
        (lambda n, x: n(x).argmax(1, keepdim=True).expand(-1, 2), "floating-point"),
    ],
)
def test_what_came_instead_of_logits_is_named(change, words, data):
    failure = measured(Through(change), data).failure
    assert failure is not None
    assert re.search(words, failure)


def test_lazy_layers_have_no_weights_to_measure(data):
    lazy = nn.Sequential(nn.Flatten(), nn.LazyLinear(10)).eval()
    with pytest.raises(InvalidInput, match="lazy layer"):
        measured(lazy, data)
    lazy(data[0][:1])
    assert measured(lazy, data).failure is None


def test_a_model_that_raises_once_has_failed(data):
    calls = iter(range(10**6))

    def change(net: nn.Module, x: Tensor) -> Tensor:
        if next(calls) == 1:
            raise RuntimeError("the second call")
        return net(x)

    assert "the second call" in measured(Through(change), data).failure


@pytest.mark.parametrize(
    "change",
    [
        lambda n, x: n(x.sub_(0.1)),
        lambda n, x: n(x.clamp_(0.2, 0.8)),
        lambda n, x: (x.data.sub_(0.1), n(x))[1],
        lambda n, x: (x.detach().mul_(0.5), n(x))[1],
        lambda n, x: (x.detach().numpy().fill(0.5), n(x))[1],
        lambda n, x: (n(x), x.data.zero_())[0],
        lambda n, x: (n(x), x.data[0].add_(0.01))[0],
    ],
    ids=["sub_", "clamp_", "data", "detach", "numpy", "afterwards", "one image"],
)
@pytest.mark.parametrize("module", [True, False])
def test_images_are_not_the_models_to_change(change, module, data):
    x, y = data
    before = x.clone()
    through = Through(change)
    record = measured(through if module else lambda z: through(z), (x.numpy(), y))
    assert "changes its input in place" in record.failure
    assert torch.equal(x, before)


# ---------------------------------------------------------------- without a gradient


def without_grad(net: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return net(x)


def inferred(net: nn.Module, x: Tensor) -> Tensor:
    with torch.inference_mode():
        return net(x)


BLIND: dict[str, Change] = {
    "no_grad": without_grad,
    "inference_mode": inferred,
    "detached": lambda net, x: net(x).detach(),
    "numpy inside": lambda net, x: torch.from_numpy(net(x.detach()).detach().numpy().copy()),
    "numpy that refuses gradients": lambda net, x: net(torch.from_numpy(x.numpy())).detach(),
}


@pytest.mark.parametrize("kind", BLIND)
def test_queries_give_the_number_of_a_model_without_gradients_and_a_flag(kind, data):
    record = measured(Through(BLIND[kind]), data, QUERIES)
    assert answers(record) == answers(measured(small_net(), data, QUERIES))
    assert "zero-gradients" in unranking(record)


@pytest.mark.parametrize("kind", list(BLIND)[:4])
def test_a_gradient_attack_without_a_gradient_is_flagged(kind, data):
    record = measured(Through(BLIND[kind]), data)
    assert "zero-gradients" in unranking(record)
    assert record.standing("fgsm").sum() == record.clean_correct.sum()
    assert (
        record.standing("square").tolist()
        == measured(small_net(), data).standing("square").tolist()
    )


def test_a_gradient_attack_on_what_refuses_gradients_fails_with_the_reason(data):
    record = measured(Through(BLIND["numpy that refuses gradients"]), data)
    assert "requires grad" in record.failure


def test_a_check_that_raises_is_said_and_ends_nothing(data):
    """The checks alone ask for a gradient, here one that cannot be had."""

    class Backward(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            raise RuntimeError("no way back")

    model = Through(lambda net, x: net(Backward.apply(x)))
    record = measured(model, data, QUERIES)
    assert answers(record) == answers(measured(small_net(), data, QUERIES))
    assert {"zero-gradients", "check-failed"} <= set(unranking(record))


def test_a_float64_answer_of_another_function_is_not_believed(data):
    """Close calls are decided in float64, and only by a copy that answers as the network does."""
    x, y = data
    names = torch.nn.functional.one_hot(y, 10)

    def change(net: nn.Module, z: Tensor) -> Tensor:
        near = torch.zeros(len(z), 10, dtype=z.dtype) + 0 * net[0].bias.sum()  # all classes tie
        return near if z.dtype == torch.float32 else near + names

    assert Judge(Through(change))(x, y).broken.all()


# ---------------------------------------------------------------- a choice at random


CHOICES: dict[str, Callable[[nn.Module, nn.Module, Tensor], Tensor]] = {
    "torch": lambda a, b, x: (a if torch.rand(()) < 0.5 else b)(x),
    "python": lambda a, b, x: random.choice([a, b])(x),
    "numpy": lambda a, b, x: (a if np.random.rand() < 0.5 else b)(x),
    "an image": lambda a, b, x: torch.where(torch.rand(len(x), 1) < 0.5, a(x), b(x)),
}


@pytest.mark.parametrize("kind", CHOICES)
def test_a_random_choice_of_two_networks_is_recognised(kind, data):
    a, b = small_net(seed=0), small_net(seed=1)
    x, y = data[0][:6], data[1][:6]

    def model(z: Tensor) -> Tensor:
        return CHOICES[kind](a, b, z)

    for seed in range(15):  # of each kind; chance may miss one in 2 ** 33
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        raised = {found.name for found in model_findings(model, x, y) if found.raised}
        assert "randomised" in raised
        assert "batch-dependent" not in raised
        assert steady_logits(model, x, torch.device("cpu")) is None
    assert "autoattack-rand" in FLAGS["randomised"].remedy


# ---------------------------------------------------------------- the copy that is searched


class Explodes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = small_net()
        self.eval()

    def __deepcopy__(self, memo: object) -> nn.Module:
        raise LookupError("no two of these")

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


@pytest.mark.parametrize(
    ("make", "notes"),
    [
        (Explodes, "as it is: no copy of it works (LookupError: no two of these)"),
        (OneSelf, "as it is: no copy of it works (ValueError: its copy shares parts with it)"),
        (lambda: compiled("scripted"), "as it is: it is compiled"),
        (SAME["weight norm"][0], "as it is"),
        (SAME["weight norm, new"][0], "as it is"),
        (SAME["pruned"][0], "as it is"),
        (SAME["pruned linear"][0], "as it is"),
    ],
)
def test_what_cannot_be_prepared_is_searched_as_it_is(make, notes, data):
    model = make()
    prepared = prepare(model, data[0])
    assert prepared.notes.startswith(notes)
    assert prepared.model is model
    assert Judge(model)(*data).broken.tolist() == Judge(small_net())(*data).broken.tolist()
