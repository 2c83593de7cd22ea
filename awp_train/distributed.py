"""Several processes that train one network, each with a part of every batch (Lightning Fabric).

Rank r takes the images r, r + R, r + 2R, ... of a batch. Gradients of the weights are summed with each
part's share of the batch as its weight, those that AWP follows too: so the weights, and what they are
perturbed by, are the same bits on every rank. BatchNorm normalises by each rank's own part; running
statistics are averaged over ranks after every step. R ranks.
"""

from __future__ import annotations

import os
import pickle
import signal
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from bench.measure import processes
from bench.schema import BenchError

Result = TypeVar("Result")


@dataclass(frozen=True)
class Ranks:
    """This process among those of a run."""

    rank: int = 0
    count: int = 1
    device: torch.device = torch.device("cpu")

    @property
    def first(self) -> bool:
        """Whether this is the one that writes files."""
        return self.rank == 0

    def part(self, whole: Any) -> Any:
        """This rank's part of what has an entry an image."""
        return whole if self.count == 1 else whole[self.rank :: self.count]

    def share(self, n: int) -> float:
        """The part's size, relative to n images."""
        return len(range(self.rank, n, self.count)) / n

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Sums tensors of one type over ranks, in place and in one message."""
        if self.count == 1 or not tensors:
            return
        flat = torch.cat([t.flatten() for t in tensors])
        torch.distributed.all_reduce(flat)
        with torch.no_grad():
            for t, new in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
                t.copy_(new.view_as(t))

    def average_buffers(self, model: nn.Module) -> None:
        """Gives every rank the mean of the running statistics."""
        buffers = [b for b in model.buffers() if b.is_floating_point()]
        self.sum_(buffers)
        for buffer in buffers if self.count > 1 else ():
            buffer.div_(self.count)

    def wait(self) -> None:
        """Goes on when every rank is here."""
        if self.count > 1:
            torch.distributed.barrier()


def launch(function: Callable[..., Result], count: int, *arguments: Any) -> Result:
    """function(ranks, *arguments) on `count` devices at once; the result of rank 0.

    One device: here. Several: GPUs where there are as many, else processes that share the cores;
    function, arguments and result are pickled; the result must be small (a few kB) and without
    tensors, since it is read when the processes have ended. A BenchError rises here as it did there.
    """
    on_gpu = torch.cuda.is_available()
    if count == 1:
        return function(Ranks(device=torch.device("cuda" if on_gpu else "cpu")), *arguments)
    from lightning_fabric import Fabric
    from lightning_fabric.strategies import DDPStrategy

    on_gpu = on_gpu and torch.cuda.device_count() >= count
    fabric = Fabric(
        accelerator="cuda" if on_gpu else "cpu", devices=count,
        strategy=DDPStrategy(start_method="spawn"),
    )  # fmt: skip
    # As text: Fabric looks into arguments and result for tensors, and fails on frozen dataclasses.
    call = _text((function, arguments))
    # launch() hands further arguments on, which its annotation does not say.
    result = _read(fabric.launch(_on_this_rank, call))  # type: ignore[arg-type]
    if isinstance(result, BenchError):
        raise result
    return result


def _text(value: Any) -> str:
    return pickle.dumps(value).decode("latin1")


def _read(text: str) -> Any:
    return pickle.loads(text.encode("latin1"))


def _on_this_rank(fabric: Any, call: str) -> str:
    function, arguments = _read(call)
    if fabric.device.type == "cpu":
        torch.set_num_threads(max(1, processes.cores() // fabric.world_size))
    # Ctrl-C reaches every process of the terminal: the parent says so, the others end quietly.
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        try:
            here = Ranks(fabric.global_rank, fabric.world_size, fabric.device)
            return _text(function(here, *arguments))
        except BenchError as error:  # raised on every rank alike
            return _text(error)
