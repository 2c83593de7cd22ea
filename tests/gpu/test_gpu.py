"""tests.gpu, rehearsed on a CPU: every check runs, each can fail, and none takes the others with it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import time
import warnings
from functools import partial
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from bench.attacks import ATTACKS
from bench.schema import InvalidInput, ThreatModel
from tests.gpu import __main__ as command
from tests.gpu import answers, costs, exact, weights
from tests.gpu.__main__ import CHECKS, checked, main
from tests.gpu.place import Place
from tests.gpu.running import FAILED, OK, SKIPPED, Absent, Check, Line, Seen, judged, run
from tests.speed.report import GPU, read

ROOT = Path(__file__).parents[2]
PLACE = Place("cpu", quick=True)
CHEAP = {
    "device", "contract fgsm", "contract fab-t", "contract near-boundary", "streams", "starts",
    "float32 backends.fp32_precision", "awp restores",
    "proven fashion_mnist", "verdicts digits",
}  # fmt: skip


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n not in CHEAP)) for n in CHECKS]
)
def test_every_check_is_rehearsed(name):
    outcome, seen = judged(CHECKS[name].run, PLACE)
    if outcome == SKIPPED:
        pytest.skip(seen.text)
    assert outcome == OK, (seen.text, seen.facts)
    assert all(rate > 0 for rate in seen.rates.values())
    assert bool(seen.rates) == name.startswith(("speed", "training step"))
    json.dumps(seen.facts)


# ---------------------------------------------------------------- each can fail


def beyond(problem, **_):
    return problem.x + 0.5


def moving(problem, **_):
    with torch.no_grad():
        problem.model[0].weight.add_(1e-3)
    torch.rand(1)
    return problem.x


class Otherwise:
    """A function whose second answer is another."""

    def __init__(self, function, change):
        self.function, self.change, self.calls = function, change, 0

    def __call__(self, *a, **k):
        self.calls += 1
        answer = self.function(*a, **k)
        return self.change(answer) if self.calls > 1 else answer


def attack(monkeypatch, name, function):
    monkeypatch.setitem(ATTACKS, name, dataclasses.replace(ATTACKS[name], function=function))


def wider(monkeypatch):
    def threat(folder):
        calls.append(folder)
        return ThreatModel.parse("linf:0.15" if len(calls) == 1 else "linf:0.6")

    calls = []
    monkeypatch.setattr(answers, "threat_of", threat)


def leaking(monkeypatch):
    kept = []
    measured = costs.Given.measured

    def leak(self, asked):
        kept.append(torch.zeros(2**19))
        return measured(self, asked)

    monkeypatch.setattr(costs.Given, "measured", leak)


def longer(monkeypatch):
    usual = weights.adversarial_weights

    def doubled(model, loss, *, config):
        return usual(model, loss, config=config.model_copy(update={"gamma": 2 * config.gamma}))

    monkeypatch.setattr(weights, "adversarial_weights", doubled)


FAULTS = {
    "outside the ball": ("contract fgsm", lambda m: attack(m, "fgsm", beyond), "outside the ball"),
    "the model is moved": ("contract fgsm", lambda m: attack(m, "fgsm", moving), "were moved"),
    "global numbers": ("contract fgsm", lambda m: attack(m, "fgsm", moving), "numbers were drawn"),
    "other draws": (
        "streams",
        lambda m: m.setattr(exact, "_draws", Otherwise(exact._draws, nudged)),
        "normal 1,024 of 1,024",
    ),
    "the judge as the caller": (
        "float32 backends.fp32_precision",
        lambda m: m.setattr("bench.judge.exact_float32", contextlib.nullcontext),
        "the judge asked with mkldnn.conv tf32",
    ),
    "v too long": ("awp restores", longer, "lengths off by tensor 1e+00"),
    "other updates": (
        "awp step",
        lambda m: m.setattr(weights, "_update", Otherwise(update, lambda u: -u)),
        "differ by float64 2.0e+00",
    ),
    "other verdicts": ("verdicts digits", wider, "broken on the device alone, margin"),
    "memory is kept": ("memory", leaking, "+2,097,152 bytes held"),
}  # fmt: skip
DEAR = {"other verdicts", "memory is kept"}


def nudged(drawn):
    return {**drawn, "normal": drawn["normal"] + 1e-3}


def update(dtype, device, place):
    return torch.ones(3)


@pytest.mark.parametrize(
    "fault", [pytest.param(f, marks=[pytest.mark.slow] * (f in DEAR)) for f in FAULTS]
)
def test_a_check_sees_what_it_is_for(fault, monkeypatch):
    name, plant, said = FAULTS[fault]
    plant(monkeypatch)
    outcome, seen = judged(CHECKS[name].run, PLACE)
    assert outcome == FAILED and said in seen.text, seen


@pytest.mark.parametrize("name", ["proven fashion_mnist", "verdicts fashion_mnist"])
def test_images_that_are_not_here_are_no_failure(name, monkeypatch):
    def load(dataset, split, *, n, download):
        raise InvalidInput("fashion_mnist is not here; put it there\nand so on")

    monkeypatch.setattr(answers, "load", load)
    outcome, seen = judged(CHECKS[name].run, PLACE)
    assert outcome == SKIPPED
    assert seen.text == "fashion_mnist: fashion_mnist is not here; put it there"


def test_a_record_that_cannot_be_read_is_a_failure(monkeypatch):
    def gather(path, *, device):
        raise InvalidInput("it holds other weights")

    monkeypatch.setattr(answers.verify, "gather", gather)
    outcome, seen = judged(CHECKS["proven digits"].run, PLACE)
    assert outcome == FAILED and "other weights" in seen.text


# ---------------------------------------------------------------- the runner


def test_a_check_that_fails_or_dies_leaves_the_others():
    told = []
    asked = [Seen, math.sqrt, Seen, os._exit, partial(Seen, fine=False), Seen]
    checks = {f"check {number}": Check("what", "wanted", f) for number, f in enumerate(asked)}
    lines = list(run(checks, -1, 60, told=told.append))
    assert [line.outcome for line in lines] == [OK, FAILED, OK, FAILED, FAILED, OK]
    assert lines[1].seen.startswith("ValueError: ") and "math domain" in lines[1].facts["traceback"]
    assert lines[3].seen == "its process ended with status 255"
    assert [line.name for line in lines] == list(checks)
    assert told[0] == "[1/6] check 0 (60 s left)" and "ok: -1" in told[1]


def test_what_has_no_storage_is_not_held():
    before = Place("cpu").held()
    with FakeTensorMode():
        stand_in = torch.ones(1000)
    assert Place("cpu").held() - before < stand_in.numel()


def test_the_budget_ends_what_hangs_and_skips_the_rest():
    begun = time.monotonic()
    checks = {name: Check("what", "wanted", time.sleep) for name in ("hangs", "waits")}
    lines = list(run(checks, 60, 1.5))
    assert time.monotonic() - begun < 30
    assert [line.outcome for line in lines] == [SKIPPED, SKIPPED]
    assert "not finished" in lines[0].seen and "were over" in lines[1].seen


def absent(place):
    raise Absent("nothing here")


def raises(place):
    raise ValueError("a\nb")


def warns(place):
    warnings.warn("old", DeprecationWarning, stacklevel=1)
    return Seen("done")


def test_what_comes_of_a_check():
    assert judged(absent, PLACE) == (SKIPPED, Seen("nothing here"))
    outcome, seen = judged(raises, PLACE)
    assert outcome == FAILED and seen.text.startswith("ValueError: a (test_gpu.py:")
    outcome, seen = judged(warns, PLACE)
    assert outcome == OK and seen.facts == {"warnings": ["DeprecationWarning: old"]}


# ---------------------------------------------------------------- the command


def fake(monkeypatch, *lines, then=None):
    def given(checks, place, seconds, **_):
        yield from lines
        if then:
            raise then

    monkeypatch.setattr(command, "run", given)


def line(name, outcome, **more):
    return Line(name, "what", "wanted", outcome, f"seen {name}", 1.5, **more)


TWO = {name: Check("what", "wanted", Seen) for name in ("a", "b")}


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ([line("a", OK), line("b", SKIPPED)], 0),
        ([line("a", FAILED), line("b", OK)], 1),
    ],
    ids=["skipped", "failed"],
)
def test_table_report_and_status(lines, status, monkeypatch, tmp_path, capsys):
    fake(monkeypatch, *lines)
    assert checked(TWO, PLACE, 5, tmp_path / GPU) == status
    printed = capsys.readouterr().out
    for each in lines:
        assert f"{each.outcome:7} {each.name}  {each.seen}" in printed
    assert ("expected: what: wanted" in printed) == (status == 1)
    assert "REHEARSAL" in printed
    written = json.loads((tmp_path / GPU).read_text())
    assert [c["outcome"] for c in written["checks"]] == [each.outcome for each in lines]
    assert written["quick"] and written["device"] == "cpu" and written["machine"]["torch"]


def test_ratios_stand_side_by_side(monkeypatch, tmp_path, capsys):
    fake(monkeypatch, line("a", OK, rates={"autoattack": 2.0, "cascade": 15.0}))
    assert checked({"a": TWO["a"]}, PLACE, 5, tmp_path / GPU) == 0
    printed = capsys.readouterr().out
    assert "images a second" in printed and "cascade" in printed and "7.50x" in printed


def test_ctrl_c_leaves_what_was_seen(monkeypatch, tmp_path, capsys):
    fake(monkeypatch, line("a", OK), then=KeyboardInterrupt)
    assert checked(TWO, PLACE, 5, tmp_path / GPU) == 130
    written = json.loads((tmp_path / GPU).read_text())
    assert [c["outcome"] for c in written["checks"]] == [OK, SKIPPED]
    assert written["ended_by"] == "Ctrl-C"
    assert "skipped b  interrupted" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--device", "auto"], "--device cpu --quick"),
        (["--device", "cuda"], "no CUDA device"),
        (["--device", "gpu"], "cpu or cuda"),
        (["--device", "cpu", "--only", "speeed"], "no check is named like 'speeed'"),
        (["--device", "cpu", "--seconds", "0"], "--seconds must be above 0"),
        (["--device", "cpu", "--seconds", "nan"], "--seconds must be above 0"),
    ],
)
def test_what_cannot_be_asked_is_said(words, said, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(words) == 2
    assert said in capsys.readouterr().err


def test_the_report_is_no_row_of_the_benchmark(tmp_path):
    (tmp_path / GPU).write_text("{}")
    assert read(tmp_path) == []


def gone(group):
    """Whether every process of a group has left, which the last does on its own."""
    for _ in range(200):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.slow
@pytest.mark.parametrize("pause", [0.3, 5])  # seconds: while it starts, and amid
def test_ctrl_c_ends_the_child_too(pause, tmp_path):
    words = ["--device", "cpu", "--quick", "--only", "verdicts *", "--out", str(tmp_path / GPU)]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.gpu", *words], cwd=ROOT, stderr=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stderr is not None
    assert "[1/2]" in process.stderr.readline()
    time.sleep(pause)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "interrupted" in out and "Traceback" not in err
    assert json.loads((tmp_path / GPU).read_text())["ended_by"] == "Ctrl-C"
    assert gone(process.pid)
