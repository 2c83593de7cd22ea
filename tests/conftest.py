"""Every test starts from the same random state, on one thread, with small networks."""

from __future__ import annotations

import copy
import functools
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench.models import Normalized

# A shell's background job ignores Ctrl-C, nohup the end of a terminal, and so would every process
# that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

SHARED = Path(__file__).parents[1].parent / "shared"
SMALL_CNN = {"in_channels": 1, "image_size": 8, "num_classes": 10, "width": 4}


@pytest.fixture(autouse=True)
def _same_start() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _few_images_of_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand test images take longer to attack than most runs of the tests take to train."""
    monkeypatch.setattr("bench.measure.gap.IMAGES", 50)


@pytest.fixture
def shared() -> Path:
    """Real images and networks with known answers; not part of the project."""
    if not (SHARED / "external").is_dir():
        pytest.skip("../shared is not here: it holds networks with proven bounds")
    return SHARED


def small_net(channels: int = 1, size: int = 8, classes: int = 10, *, seed: int = 0) -> nn.Module:
    """A ReLU network with BatchNorm, eval mode, weights large enough that attacks do something."""
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * size * size, classes),
    )
    with torch.no_grad():
        net(torch.rand(64, channels, size, size))  # running statistics of something
    return net.eval()


@pytest.fixture
def net() -> nn.Module:
    return small_net()


@pytest.fixture
def labelled(net: nn.Module) -> tuple[Tensor, Tensor]:
    """48 random images with labels of which the network gets most right."""
    x = torch.rand(48, 1, 8, 8)
    y = net(x).argmax(1)
    y[:4] = (y[:4] + 1) % 10
    return x, y


@pytest.fixture
def images() -> Tensor:
    """300 images, more than a shard; a test has a network label them."""
    return torch.rand(300, 1, 8, 8)


@pytest.fixture
def make_net() -> Callable[..., nn.Module]:
    return small_net


@functools.cache
def _fitted() -> nn.Sequential:
    from bench import datasets

    pool = datasets.load("digits", "train")
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 32), nn.ReLU(),
        nn.Linear(32, 10),
    )  # fmt: skip
    moves = [torch.zeros_like(p) for p in net.parameters()]  # SGD with momentum, by hand:
    for _ in range(15):  # torch.optim takes seconds to import
        for chosen in torch.randperm(len(pool)).split(50):
            loss = nn.functional.cross_entropy(net(pool.x[chosen]), pool.labels[chosen])
            grads = torch.autograd.grad(loss, list(net.parameters()))
            with torch.no_grad():
                for p, move, grad in zip(net.parameters(), moves, grads, strict=True):
                    p.sub_(0.1 * move.mul_(0.9).add_(grad))
    return net.eval()


@pytest.fixture
def fitted() -> nn.Sequential:
    """A small network trained on digits: right on most test images, not adversarially robust."""
    return copy.deepcopy(_fitted())


@pytest.fixture
def digits() -> tuple[Tensor, Tensor]:
    """The first 64 test images of digits, and their labels."""
    from bench import datasets

    data = datasets.load("digits", n=64)
    return data.x, data.labels


@functools.cache
def _digits_cnn() -> Normalized:
    from bench import datasets, models

    torch.manual_seed(0)
    net = models.build("small_cnn", SMALL_CNN).eval()
    pool = datasets.load("digits", "train")
    *features, last = net.net.children()
    with torch.no_grad():
        hidden = torch.cat([nn.Sequential(*features)(pool.x), torch.ones(len(pool), 1)], 1)
        wanted = 2 * nn.functional.one_hot(pool.labels, 10).float() - 1
        fit = torch.linalg.lstsq(hidden, wanted, driver="gelsd").solution
        last.weight.copy_(fit[:-1].T)
        last.bias.copy_(fit[-1])
    return net


@pytest.fixture
def digits_cnn() -> nn.Module:
    """A small_cnn of SMALL_CNN on digits: random features and a fitted last layer."""
    return copy.deepcopy(_digits_cnn())


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of such a network as a foreign file."""
    path = tmp_path_factory.mktemp("weights") / "net.pt"
    torch.save(_digits_cnn().net.state_dict(), path)
    return path


def toy(folder: Path, n: int, wrong: int) -> Path:
    """A checkpoint folder of a random network, and beside it n images of which it errs on `wrong`.

    They are read as `arrays:<folder>/data`; each class is somewhere.
    """
    from bench import models

    torch.manual_seed(0)
    model = models.build("small_cnn", SMALL_CNN).eval()
    x, last = torch.rand(n, 1, 8, 8), list(model.net.children())[-1]
    with torch.no_grad():
        logits = model(x)  # nearly the same for all images: standardised, they are not
        last.weight.div_(logits.std(0)[:, None])
        last.bias.sub_(logits.mean(0)).div_(logits.std(0))
        y = model(x).argmax(1).numpy()
    y[:wrong] = (y[:wrong] + 1) % 10
    (folder / "data").mkdir()
    np.save(folder / "data" / "images.npy", x.permute(0, 2, 3, 1).numpy())
    np.save(folder / "data" / "labels.npy", y)
    return network(folder, "toy", model, dataset="toy-images")


def network(
    folder: Path, name: str, model: nn.Module | None = None, *, seed: int = 0,
    dataset: str = "digits", files: Mapping[str, str] | None = None, **card: Any,
) -> Path:  # fmt: skip
    """The checkpoint folder of a small_cnn, by default with random weights."""
    from bench import models
    from bench.schema import ModelCard
    from bench.sources import checkpoint

    torch.manual_seed(seed)
    model = model or models.build("small_cnn", SMALL_CNN).eval()
    made = ModelCard(
        name=name, arch="small_cnn", arch_args=SMALL_CNN, dataset=dataset, class_count=10,
        weights_sha256="0" * 64, n_parameters=0, seed=seed, **card,
    )  # fmt: skip
    checkpoint.save(folder / name, model, made, files=files or {})
    return folder / name


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder such as the project will have; no test writes to it."""
    from tests.board.board_records import write_example

    root = tmp_path_factory.mktemp("example")
    write_example(root)
    return root
