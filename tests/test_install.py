"""Installed without a checkout: few packages measure, and a user's own folders stay theirs.

And in a checkout with either pair of torch and torchvision.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
UV = Path(sys.executable).with_name("uv")
MEASURES = """
import torch
from bench import AutoAttack, evaluate

x = torch.rand(6, 1, 8, 8)
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).eval()
y = model(x).argmax(1)
print(evaluate(model, x, y, threat="linf:0.05", protocol="gradient").n)
attack = AutoAttack(model, norm="Linf", eps=0.05, version="custom", attacks_to_run=["apgd-ce"])
print(tuple(attack.run_standard_evaluation(x, y, bs=6).shape))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment with the wheel and what it names, and nothing else."""
    if not UV.exists():
        pytest.skip("uv is not beside this Python: make setup brings it")
    folder = tmp_path_factory.mktemp("installed")
    python = folder / "env/bin/python"

    def uv(*call: object) -> str:
        words = [str(each) for each in (UV, *call)]
        return subprocess.run(words, check=True, timeout=280, capture_output=True, text=True).stdout

    known = folder / "versions.txt"  # those that are here: nothing else is downloaded
    known.write_text(uv("pip", "freeze", "-q", "--python", sys.executable))
    uv("build", "-q", "--wheel", "-o", folder / "dist", ROOT)
    uv("venv", "-q", "--python", sys.executable, folder / "env")
    wheel = next(folder.glob("dist/*.whl"))
    uv("pip", "install", "-q", "--python", python, "-c", known, wheel)
    return python.parent


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder of a user whose own models and tests are not ours."""
    for name in ("models", "tests"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('not these')")
    return tmp_path


def said(folder: Path, *call: object, status: int = 0) -> str:
    """What a call prints, run in a folder."""
    words = [str(each) for each in call]
    done = subprocess.run(
        words, cwd=folder, capture_output=True, text=True, check=False, timeout=280
    )
    assert done.returncode == status, done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_the_instrument_measures_beside_a_users_own_folders(installed, elsewhere):
    (elsewhere / "mine.py").write_text(MEASURES)
    lines = said(elsewhere, installed / "python", "mine.py").splitlines()
    assert {"6", "(6, 1, 8, 8)"} <= {*lines}


@pytest.mark.slow
def test_the_commands_are_there_and_name_what_they_lack(installed, elsewhere):
    assert "small_cnn" in said(elsewhere, installed / "awp-bench", "list")
    assert "digits-at-awp" in said(
        elsewhere, installed / "awp-train", "list", "--dataset", "digits"
    )
    assert "No records yet" in said(elsewhere, installed / "awp-bench", "table")
    lacking = said(elsewhere, installed / "awp-bench", "board", status=2)
    assert "pip install 'awp-robustness-board[board]'" in lacking
    zoo = ("evaluate", "robustbench:cifar10/Linf/Wu2020Adversarial")
    assert "[zoo]'" in said(elsewhere, installed / "awp-bench", *zoo, status=2)
    run = ("run", "digits-at", "--epochs", "1", "--yes")
    assert "[train]'" in said(elsewhere, installed / "awp-train", *run, status=2)


# ---------------------------------------------------------------- the pairs of torch


def torch_pair(name: str) -> list[str]:
    """The requirements that the Makefile's variable of that name lists."""
    (found,) = re.findall(rf"^{name} := (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    return found.split()


def test_the_lock_has_the_pair_that_is_tried():
    pinned = (ROOT / "requirements.lock").read_text().splitlines()
    assert {*torch_pair("LOCKED_TORCH")} <= {*pinned}


@pytest.mark.slow
def test_a_record_is_proven_with_the_pair_for_cpus(tmp_path):
    if not UV.exists():
        pytest.skip("uv is not beside this Python: make setup brings it")
    env = tmp_path / "env"
    said(ROOT, "make", "setup", "TORCH=cpu", f"VENV={env}")
    versions = "import torch, torchvision; print(torch.__version__, torchvision.__version__)"
    repaired = "from bench.sources.robustbench_repairs import repair_torchvision as r; r(); "
    found = said(ROOT, env / "bin/python", "-c", repaired + versions).split()
    wanted = [each.partition("==")[2] for each in torch_pair("CPU_TORCH")]
    assert [each.partition("+")[0] for each in found[-2:]] == wanted
    folder = "results/digits/linf-0.15/digits-at-awp-s0-last"
    assert "proven" in said(ROOT, env / "bin/python", "-m", "bench", "verify", folder)
