"""Tests of `models/`: every architecture alike, known answers, equality with RobustBench."""

from __future__ import annotations

import inspect
import math
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench.catalogue import ARCHITECTURES, architecture_info, build, fitted_arguments
from bench.models import Normalized, architecture
from bench.schema import InvalidInput
from bench.sources.robustbench_repairs import AutoAttack, import_robustbench, repair

EXTERNAL = Path(__file__).parents[3] / "shared" / "external"
CNN_A_MEAN = (125.3 / 255, 123.0 / 255, 113.9 / 255)
CNN_A_STD = (63.0 / 255, 62.1 / 255, 66.7 / 255)

each_architecture = pytest.mark.parametrize("arch", ARCHITECTURES)


def tiny(arch: str, channels: int = 3, classes: int = 10, size: int = 8) -> Normalized:
    """The architecture in eval mode, for images so small that even a WideResNet is quick."""
    decided = {"in_channels": channels, "num_classes": classes, "image_size": size}
    known = architecture_info(arch).arguments
    return build(arch, {key: value for key, value in decided.items() if key in known}).eval()


def shake(net: nn.Module) -> nn.Module:
    """Give every BatchNorm something to do: as initialised it passes its input on."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            for values in (module.running_mean, module.bias.data):
                values.uniform_(-0.2, 0.2)
            for values in (module.running_var, module.weight.data):
                values.uniform_(0.7, 1.3)
    return net


# ---------------------------------------------------------------- every architecture


@each_architecture
def test_a_function_takes_the_arguments_of_its_entry_and_says_where_it_comes_from(
    arch: str,
) -> None:
    function = architecture(arch)
    parameters = inspect.signature(function).parameters
    expected = {name: a.default for name, a in ARCHITECTURES[arch].arguments.items()}
    assert {name: p.default for name, p in parameters.items()} == expected
    assert function.__doc__
    assert "(B, C, S, S) -> (B, K)" in function.__doc__
    assert "Source:" in function.__doc__


@each_architecture
def test_any_shape_gives_logits_and_the_state_dict_is_the_network(arch: str) -> None:
    net, x = shake(tiny(arch, 1, 7)), torch.rand(2, 1, 8, 8, requires_grad=True)
    logits = net(x)
    assert logits.shape == (2, 7)
    torch.testing.assert_close(logits[:1], net(x[:1]), rtol=1e-4, atol=1e-4)  # no neighbours
    logits.square().sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0
    assert all(p.grad is not None for p in net.parameters())
    with torch.device("meta"):
        again = tiny(arch, 1, 7)
    again.load_state_dict(net.state_dict(), strict=True, assign=True)
    with torch.no_grad():
        assert torch.equal(again(x), logits)
        larger = tiny(arch, 1, 7, 28) if "image_size" in ARCHITECTURES[arch].arguments else net
        assert larger(torch.rand(1, 1, 28, 28)).isfinite().all()


# ---------------------------------------------------------------- build and Normalized


@pytest.mark.parametrize(
    ("arguments", "mean", "std", "message"),
    [
        ({"num_class": 10}, None, None, "Did you mean 'num_classes'"),
        ({"image_size": 30}, None, None, "multiple of 4"),
        ({"num_classes": 1}, None, None, "whole number >= 2"),
        ({"num_classes": 10.5}, None, None, "whole number"),
        ({"num_classes": math.nan}, None, None, "whole number"),
        ({}, (0.5,), None, "mean must have one value for each of the 3"),
        ({}, None, (1.0, 1.0), "std must have one value"),
        ({}, None, (0.2, 0.0, 0.2), "std must be positive"),
        ({}, (0.5, math.nan, 0.5), None, "mean must be finite"),
    ],
)
def test_build_refuses(arguments: dict, mean: tuple, std: tuple, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        build("cnn_a", arguments, mean=mean, std=std)


def test_names_and_what_a_data_set_decides() -> None:
    with pytest.raises(InvalidInput, match="Did you mean 'preact_resnet18'"):
        build("preactresnet18", {})
    assert fitted_arguments("vgg19_bn", "svhn") == {"in_channels": 3, "num_classes": 10}
    assert fitted_arguments("small_cnn", "digits", width=4) == {
        "in_channels": 1, "image_size": 8, "num_classes": 10, "width": 4
    }  # fmt: skip


def test_normalized_is_the_formula() -> None:
    net, x = nn.Flatten(), torch.rand(2, 3, 4, 4)
    mean, std = torch.tensor(CNN_A_MEAN), torch.tensor(CNN_A_STD)
    by_hand = (x - mean[None, :, None, None]) / std[None, :, None, None]
    assert torch.equal(Normalized(net, CNN_A_MEAN, CNN_A_STD)(x), by_hand.flatten(1))
    assert torch.equal(Normalized(net)(x), x.flatten(1))


def test_normalisation_is_not_in_the_state_dict_and_survives_meta() -> None:
    with torch.device("meta"):
        model = build("cnn_a", {}, mean=CNN_A_MEAN, std=CNN_A_STD)
    assert {key.split(".")[0] for key in model.state_dict()} == {"net"}
    assert model.mean is not None and model.mean.flatten().tolist() == pytest.approx(CNN_A_MEAN)


# ---------------------------------------------------------------- known answers


@pytest.mark.parametrize(
    ("arch", "arguments", "count"),
    [
        ("small_cnn", {"in_channels": 1, "image_size": 8}, 47_610),
        ("small_cnn", {"in_channels": 3, "image_size": 32}, 146_202),
        ("preact_resnet18", {}, 11_172_170),
        ("preact_resnet18", {"width": 64}, 11_172_170),
        # By hand: convolutions 697,776, the linear layer 1,290, 976 channels of BatchNorm.
        ("preact_resnet18", {"width": 16}, 701_018),
    ],
)
def test_number_of_parameters(arch: str, arguments: dict[str, int], count: int) -> None:
    with torch.device("meta"):
        net = build(arch, arguments)
    assert sum(p.numel() for p in net.parameters()) == count


def test_an_argument_that_came_later_is_left_out_at_its_default() -> None:
    assert fitted_arguments("preact_resnet18", "cifar10", width=64) == {
        "in_channels": 3, "num_classes": 10
    }  # fmt: skip
    assert fitted_arguments("preact_resnet18", "cifar10", width=16)["width"] == 16
    for word in ("name", "dataset", "own"):  # what is given may be called anything
        with pytest.raises(InvalidInput, match=f"no argument of cnn_a named '{word}'"):
            fitted_arguments("cnn_a", "cifar10", **{word: 1})


@pytest.mark.parametrize(("file", "correct"), [("cnn_a_adv.pt", 140), ("cnn_a_mix.pt", 158)])
def test_cnn_a_gets_the_published_clean_accuracy(file: str, correct: int) -> None:
    if not (EXTERNAL / file).exists():
        pytest.skip(f"{EXTERNAL / file} is not here")
    model = build("cnn_a", {}, mean=CNN_A_MEAN, std=CNN_A_STD).eval()
    model.net.load_state_dict(torch.load(EXTERNAL / file, weights_only=True))
    x = torch.from_numpy(np.load(EXTERNAL / "images.npy")).permute(0, 3, 1, 2).contiguous()
    y = torch.from_numpy(np.load(EXTERNAL / "labels.npy"))
    with torch.no_grad():
        assert int((model(x).argmax(1) == y).sum()) == correct


# ---------------------------------------------------------------- RobustBench, repaired


@pytest.fixture(scope="module")
def robustbench() -> ModuleType:
    return import_robustbench()


def assert_same_logits(ours: nn.Module, theirs: nn.Module) -> None:
    """Same keys, and with the same weights the same logits for one 32x32 image."""
    theirs.load_state_dict(shake(ours).state_dict(), strict=True, assign=True)
    x = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        expected = theirs.eval()(x)
        torch.testing.assert_close(ours.eval()(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_wide_resnet_is_that_of_robustbench(robustbench: ModuleType) -> None:
    """One class makes every depth: the logits of one, names and shapes of the other."""
    from robustbench.model_zoo.architectures.wide_resnet import WideResNet

    def shapes(net: nn.Module) -> dict[str, torch.Size]:
        return {name: weight.shape for name, weight in net.state_dict().items()}

    with torch.device("meta"):
        theirs = {depth: WideResNet(depth=depth, widen_factor=10) for depth in (28, 34)}
        deeper = architecture("wide_resnet34_10")()
    assert shapes(deeper) == shapes(theirs[34]) != shapes(theirs[28])
    assert_same_logits(architecture("wide_resnet28_10")(), theirs[28])


@pytest.mark.slow
def test_preact_resnet_is_that_of_robustbench(robustbench: ModuleType) -> None:
    from robustbench.model_zoo.architectures.resnet import PreActBlock, PreActResNet

    with torch.device("meta"):
        theirs = PreActResNet(PreActBlock, [2, 2, 2, 2], bn_before_fc=True, out_shortcut=True)
    assert_same_logits(architecture("preact_resnet18")(), theirs)


@pytest.mark.slow
def test_robustbench_benchmark_runs(
    robustbench: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    from robustbench.data import _clean_dataset_loaders
    from robustbench.model_zoo.enums import BenchmarkDataset

    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)).eval()
    x = torch.rand(8, 3, 32, 32)
    with torch.no_grad():
        y = model(x).argmax(1)
    monkeypatch.setitem(
        _clean_dataset_loaders,
        BenchmarkDataset.cifar_10,
        lambda n, folder, preprocessing: (x[:n], y[:n]),
    )
    # A linear model at eps 0.5: the first attack breaks all, and the others are skipped.
    assert robustbench.benchmark(model, n_examples=8, eps=0.5) == (1.0, 0.0)


@pytest.mark.slow
def test_repair_lets_torchvision_without_its_compiled_part_be_imported() -> None:
    program = """
import torch
torch.version.cuda = None
def fail(path): raise OSError("no libtorch_cuda")
torch.ops.load_library = fail
from bench.sources.robustbench_repairs import repair
repair(), repair()
import torchvision.transforms.v2
assert not torchvision.extension._has_ops()
"""
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", program], cwd=root, check=True)


def test_repair_twice_changes_nothing() -> None:
    repair()
    before = {name: sys.modules[name] for name in ("pkg_resources", "autoattack")}
    repair()
    assert all(sys.modules[name] is module for name, module in before.items())


def test_adapter_answers_as_robustbench_expects(tmp_path: Path) -> None:
    def logits(x: Tensor) -> Tensor:
        return x.flatten(1) * 4 - 2

    x, y = torch.full((4, 1, 2, 2), 0.5), torch.arange(4)
    x[y, 0, y // 2, y % 2] = 0.6
    attack = AutoAttack(
        logits,
        norm="Linf",
        eps=0.1,
        seed=0,
        verbose=True,
        attacks_to_run=["apgd-ce"],
        version="custom",
        device="cpu",
        log_path=tmp_path / "log",
    )
    x_adv = attack.run_standard_evaluation(x, y, bs=4, state_path=None)
    assert (x_adv - x).abs().max() <= 0.1 + 1e-6
    assert (logits(x_adv).argmax(1) != y).all()
    assert "robust accuracy after APGD-CE: 0.00%" in (tmp_path / "log").read_text()
    with pytest.raises(InvalidInput, match="cannot resume"):
        attack.run_standard_evaluation(x, y, state_path=tmp_path / "state")
