"""Exit status 0 means that a record is on disk: models that leave instead of answering."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.__main__ import main
from bench.cli import interrupt
from bench.measure import processes
from bench.records import store

ROOT = Path(__file__).parents[2]

MODEL = """
import os, signal, sys, threading, time
import torch

class Left(BaseException):
    pass

def leave():
    {leave}

class Backward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        leave()

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.flat = torch.nn.Linear(64, 10)
        self.calls = 0
        self.pid = os.getpid()

    def __deepcopy__(self, memo):
        if "{where}" == "copy":
            leave()
        raise TypeError("not copied")

    def forward(self, x):
        self.calls += 1
        if "{where}" == "first pass" or "{where}" == "later" and self.calls > 12:
            leave()
        if "{where}" == "worker" and os.getpid() != self.pid:
            leave()
        if "{where}" == "alone" and len(x) == 1:  # as a check of the model asks
            leave()
        if "{where}" == "backward":
            x = Backward.apply(x)
        return self.flat(x.flatten(1))

def build():
    if "{where}" == "building":
        leave()
    return Net()
"""


def call(folder: Path, leave: str, where: str, *more: str) -> list[str]:
    (folder / "leaves.py").write_text(MODEL.format(leave=leave, where=where))
    asked = ["evaluate", "--model", str(folder / "leaves.py:build"), "--dataset", "digits"]
    return [*asked, "--n", "8", "--protocol", "gradient", "--device", "cpu", "--yes", *more]


@pytest.mark.parametrize(
    ("where", "leave"),
    [
        *((where, "raise Left") for where in ("first pass", "backward", "copy", "building")),
        *((where, "sys.exit(0)") for where in ("later", "building", "alone")),
    ],
)
def test_a_model_that_leaves_is_a_failure(where, leave, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    status = main(call(tmp_path, leave, where, "--json", "--workers", "1"))
    said = capsys.readouterr()
    if where == "building":
        assert (status, said.out) == (2, "")
    else:
        assert status == 1
        assert not said.out or json.loads(said.out) == []
    assert "Left" in said.err or "SystemExit" in said.err
    assert not store.collect(tmp_path / "results").records


@pytest.mark.parametrize("where", ["backward", "building"])
def test_ctrl_c_that_nobody_pressed_is_the_models_failure(where, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(interrupt, "_heard", False)  # as in a command's own process
    status = main(call(tmp_path, "raise KeyboardInterrupt", where, "--workers", "1"))
    assert status == (2 if where == "building" else 1)
    assert "raised KeyboardInterrupt" in capsys.readouterr().err


def test_a_worker_that_leaves_is_a_failed_record(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(call(tmp_path, "os._exit(0)", "worker", "--workers", "2")) == 1
    assert "a worker process was killed" in capsys.readouterr().err
    assert len(store.collect(tmp_path / "results").failed) == 1


def _leaves(job: str, report: processes.Report) -> str:
    if job == "leaves":
        os._exit(0)
    return job


def test_a_job_that_ends_its_process_stops_no_other():
    jobs = ["a", "leaves", "b"]
    found = dict(processes.run(_leaves, jobs, workers=2, label="", quiet=True))
    assert "its process ended" in str(found.pop("leaves"))
    assert found == {"a": "a", "b": "b"}


@pytest.mark.slow
def test_the_command_says_so_by_its_exit_status(tmp_path):
    asked = call(tmp_path, "os._exit(0)", "later", "--json", "--workers", "1")
    done = subprocess.run(
        [sys.executable, "-m", "bench", *asked],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, cwd=tmp_path,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "error: " in done.stderr
    assert "Traceback" not in done.stderr
    assert not done.stdout or json.loads(done.stdout) == []
    assert not store.collect(tmp_path / "results").records
