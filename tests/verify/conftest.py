"""A results folder with one network, to be challenged."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import datasets, evidence
from bench.__main__ import main
from tests.conftest import _digits_cnn, network
from tests.verify.challenged import Board, N


def _evaluated(folder: Path, protocol: str, out: Path) -> Path:
    words = ["--protocol", protocol, "--n", str(N), "--workers", "1", "--out", str(out)]
    assert main(["evaluate", str(folder), *words, "--parts", str(out.parent / "w")]) == 0
    (path,) = out.glob("*/*/net/????????????????.json")
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Board:
    torch.set_num_threads(1)  # before the fixture that sets it for a test
    here = tmp_path_factory.mktemp("board")
    net = network(here, "net", _digits_cnn())
    record = _evaluated(net, "only-fgsm", here / "results")
    stronger = _evaluated(net, "only-pgd", here / "elsewhere")
    data = datasets.load("digits", n=N)
    (proof,) = evidence.from_bytes(stronger.with_suffix(".evidence.npz").read_bytes()).values()
    pgd = data.x.clone()
    pgd[torch.from_numpy(proof.index).long()] = proof.decode(data.x)
    broken = np.zeros(N, dtype=bool)
    broken[proof.index] = True
    found = Board(here / "results", record.parent, record, data.x, data.labels, pgd, broken)
    assert 0 < (broken & found.standing).sum() < broken.sum() < N
    return found


@pytest.fixture
def board(made: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Board:
    """A copy of it that a test may change."""
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "results"
    shutil.copytree(made.root, root)
    record = root / made.record.relative_to(made.root)
    return made._replace(root=root, folder=record.parent, record=record)
