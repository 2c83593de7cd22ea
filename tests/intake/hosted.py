"""A host of submissions for tests: its settings, digits networks of a second's training, a worker."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors.torch import save

from bench import catalogue
from bench.datasets import load
from bench.intake.report import Ask
from bench.intake.settings import Settings
from bench.intake.spool import Limits, Spool
from bench.intake.store import Store
from bench.intake.ticket import Form, Ticket
from bench.intake.worker import environment
from bench.schema import ThreatModel

N = 24  # images
RECORDS = Path(__file__).parents[2] / "results/digits/linf-0.15"


def host(folder: Path, **changes) -> Settings:
    """Settings whose every folder lies below one."""
    said = {
        "root": folder / "intake", "records": str(folder / "results"),
        "checkpoints": folder / "nets", "limits": Limits(reserve=0), "protocols": ("gradient",),
    }  # fmt: skip
    return Settings(**(said | changes))


def trained(seed: int) -> bytes:
    """The safetensors of a digits network after a second of training."""
    torch.manual_seed(seed)
    arguments = catalogue.fitted_arguments("small_cnn", "digits", width=4)
    net = catalogue.build("small_cnn", arguments).net
    digits = load("digits", "train")
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(60):
        rows = torch.randint(len(digits.labels), (128,))
        loss = torch.nn.functional.cross_entropy(net(digits.x[rows]), digits.labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return save({k: v.contiguous() for k, v in net.state_dict().items()})


def committed(name: str) -> bytes:
    """The safetensors of a robust digits network of this repository, of width 16."""
    return (RECORDS / name / "weights.safetensors").read_bytes()


def submitted(settings: Settings, raw: bytes, name: str, **changes) -> tuple[Ticket, str]:
    """A ticket of a file, and its secret."""
    said = {
        "name": name, "dataset": "digits", "threat": ThreatModel.asked("linf:0.1"),
        "consent": "weights and evidence",
    }  # fmt: skip
    kept = Spool(settings.root, settings.limits).receive([raw], submitter="ann")
    ticket, secret = Store(settings.root).open_ticket(
        file_sha256=kept.sha256, file_size=kept.size, ask=Ask(file_name="net.safetensors"),
        form=Form(**(said | changes)), protocol=settings.protocols[0], n=N,
    )  # fmt: skip
    assert secret is not None
    return ticket, secret


@contextlib.contextmanager
def working(settings: Settings, slot: str = "w1") -> Iterator[subprocess.Popen]:
    """Inside, a worker works; it is killed at the end."""
    asked = {
        "settings": settings.model_dump(mode="json"), "slot": slot, "once": False, "only": "",
        "level": 30,
    }  # fmt: skip
    with subprocess.Popen(
        [sys.executable, "-m", "bench.intake.jobs"], stdin=subprocess.PIPE, env=environment()
    ) as process:
        process.stdin.write(json.dumps(asked).encode() + b"\n")
        process.stdin.flush()
        try:
            yield process
        finally:
            process.kill()


def until(true: Callable[[], object], seconds: float = 300) -> None:
    """Returns once something is true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "this has taken too long"
        time.sleep(0.02)
