"""Where the checks run: a device, the sizes that fit it, its clock and its memory."""

from __future__ import annotations

import contextlib
import gc
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from bench.catalogue import build
from tests.gpu.running import Absent, Seen

T = TypeVar("T")
ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "results/digits/linf-0.15/digits-at-awp-s0-last"
FASHION = ROOT / "results/fashion_mnist/linf-0.1/fashion_mnist-subset-at-awp-s1-best"


@dataclass(frozen=True)
class Place:
    """What is the same for all checks of a run."""

    device: str  # cuda, cuda:N or cpu
    quick: bool = False  # reduced sizes, to see that every check works

    @property
    def gpu(self) -> bool:
        return self.device.startswith("cuda")

    def size(self, full: T, quick: T) -> T:
        """One of the two."""
        return quick if self.quick else full

    def ready(self) -> None:
        """Returns when the device has done all it was asked to."""
        if self.gpu:
            torch.cuda.synchronize(self.device)

    def timed(self, work: Callable[[], T]) -> tuple[float, T]:
        """Seconds of one call, after whatever was asked of the device before, and its answer."""
        self.ready()
        begun = time.perf_counter()
        answer = work()
        self.ready()
        return time.perf_counter() - begun, answer

    def fastest(self, work: Callable[[], object], times: int) -> float:
        """Seconds of the fastest of so many calls, after one to warm up."""
        work()
        return min(self.timed(work)[0] for _ in range(times))

    def held(self) -> int:
        """Bytes of tensors that are alive; of a CPU as Python sees them."""
        gc.collect()
        if self.gpu:
            return torch.cuda.memory_allocated(self.device)
        alive = [o for o in gc.get_objects() if issubclass(type(o), Tensor)]
        alive = [tensor for tensor in alive if not isinstance(tensor, FakeTensor)]
        held = {}
        for tensor in alive:
            with contextlib.suppress(RuntimeError):  # it has no storage: a stand-in of torch's own
                held[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return sum(held.values())

    def forget_peak(self) -> None:
        """The peak is counted from now; the peak of a CPU's process is of its whole life."""
        if self.gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak(self) -> tuple[int, int]:
        """Bytes at most that tensors took, and that the allocator held for them."""
        if self.gpu:
            tensors = torch.cuda.max_memory_allocated(self.device)
            return tensors, torch.cuda.max_memory_reserved(self.device)
        unit = 1 if sys.platform == "darwin" else 1024
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        return most, most

    def memory(self) -> int:
        """Bytes in all; 0 where it is not known."""
        if self.gpu:
            return torch.cuda.get_device_properties(self.device).total_memory
        return 0

    def resnet(self) -> tuple[nn.Module, tuple[int, int, int]]:
        """PreActResNet-18 with random weights on the device, eval mode, and the shape of its images.

        Its BatchNorm statistics are of something. Quick: the network of digits' size in its place.
        """
        quick = ("small_cnn", {"in_channels": 1, "image_size": 8, "num_classes": 10, "width": 4})
        arch, arguments = self.size(("preact_resnet18", {}), quick)
        shape = self.size((3, 32, 32), (1, 8, 8))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            net = build(arch, arguments)
        net.to(self.device).train()
        with torch.no_grad():
            for seed in range(self.size(20, 3)):
                net(images(64, shape, seed).to(self.device))
        return net.eval(), shape


def images(n: int, shape: tuple[int, int, int], seed: int = 0) -> Tensor:
    """(n, C, H, W) float32 in [0, 1] on the CPU."""
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed))


@contextmanager
def other_sums(place: Place) -> Iterator[None]:
    """On a CPU, float32 sums in another order than its own, as a GPU's are: without oneDNN."""
    used = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(used and place.gpu)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(used)


def device_seen(place: Place) -> Seen:
    """What the device is, and that it computes."""
    x = torch.arange(4.0, device=place.device)
    facts = {"torch": torch.__version__, "threads": str(torch.get_num_threads())}
    if not place.gpu:
        return Seen(f"cpu, torch {torch.__version__}", float(x.sum()) == 6, facts)
    found = torch.cuda.get_device_properties(place.device)
    facts |= {
        "name": found.name, "capability": f"{found.major}.{found.minor}",
        "memory": str(found.total_memory), "cuda": str(torch.version.cuda),
        "cudnn": str(torch.backends.cudnn.version()),
    }  # fmt: skip
    text = f"{found.name}, {gigabytes(found.total_memory)}, CUDA {torch.version.cuda}"
    return Seen(f"{text}, torch {torch.__version__}", float(x.sum()) == 6, facts)


def gigabytes(size: int) -> str:
    """`1.25 GB`, of 2 ** 30 bytes."""
    return f"{size / 2**30:.2f} GB"


def present(folder: Path) -> Path:
    """The folder; Absent where it is not here."""
    if not folder.is_dir():
        raise Absent(f"{folder.relative_to(ROOT)} is not here")
    return folder
