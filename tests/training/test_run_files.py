"""Fine-tuning starts from every weight of a checkpoint but those of its last layer."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import pytest
import torch

from awp_train.run_files import describe_start, load_start
from bench import models
from bench.catalogue import ARCHITECTURES, architecture_arguments
from bench.schema import InvalidInput, ModelCard, TrainConfig
from bench.sources import checkpoint

ARGS = {"in_channels": 1, "image_size": 8, "num_classes": 5, "width": 2}


def saved_start(
    folder: Path, args: dict[str, int] = ARGS, *, arch: str = "small_cnn", seed: int = 1
) -> Path:
    """A checkpoint whose BatchNorm statistics are of something."""
    torch.manual_seed(seed)
    model = models.build(arch, args)
    model(torch.rand(2, args["in_channels"], *[args.get("image_size", 32)] * 2))
    card = ModelCard(
        name=folder.name, arch=arch, arch_args=args, dataset="digits-0to4",
        class_count=args["num_classes"], weights_sha256="0" * 64, n_parameters=0,
    )  # fmt: skip
    checkpoint.save(folder, model, card)
    return folder


def fine_tuning(folder: Path, **changes: object) -> TrainConfig:
    config = TrainConfig(
        dataset="digits-5to9", arch_args=ARGS, objective="pretrain", start=describe_start(folder)
    )
    return config.model_copy(update=changes)


def fresh(arch: str = "small_cnn", args: dict[str, int] = ARGS) -> models.Normalized:
    torch.manual_seed(7)
    return models.build(arch, args)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_last_linear_layer_is_the_one_of_the_classes(arch):
    with torch.device("meta"):
        net = models.build(arch, architecture_arguments(arch, {"num_classes": 7}))
    *_, last = [m for m in net.modules() if isinstance(m, torch.nn.Linear)]
    assert last.out_features == 7


@pytest.mark.parametrize("arch", ["small_cnn", "cnn_a"])
def test_every_weight_but_the_last_layer_is_taken_whatever_the_classes_were(arch, tmp_path):
    known = ARCHITECTURES[arch].arguments
    given = {k: v for k, v in {**ARGS, "image_size": 32}.items() if k in known}
    args = architecture_arguments(arch, given)
    folder = saved_start(tmp_path / "start", args | {"num_classes": 10}, arch=arch)
    model, start = fresh(arch, args), checkpoint.load_model(folder).state_dict()
    before = torch.get_rng_state()
    load_start(model, folder, fine_tuning(folder, arch=arch, arch_args=args))
    assert torch.equal(torch.get_rng_state(), before)
    own, (*_, head, _) = fresh(arch, args).state_dict(), model.state_dict()
    for key, value in model.state_dict().items():
        of_head = key.startswith(head.removesuffix("weight"))
        assert torch.equal(value, (own if of_head else start)[key])
    assert model.state_dict()[head].shape[0] == 5
    assert model.training and all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"arch": "cnn_a"}, "start is a small_cnn, but this run trains a cnn_a"),
        ({"arch_args": ARGS | {"width": 4}}, "another small_cnn: it has width 2, this run 4"),
        ({"mean": (0.5,), "std": (0.5,)}, r"it has mean None, this run \(0.5,\), std"),
        ({"start": None}, "names no starting point"),
    ],
)
def test_what_is_not_the_named_network_is_refused(tmp_path, changes, words):
    folder = saved_start(tmp_path / "start")
    with pytest.raises(InvalidInput, match=words):
        load_start(fresh(), folder, fine_tuning(folder, **changes))
    other = saved_start(tmp_path / "other", seed=2)
    with pytest.raises(InvalidInput, match="other is not the checkpoint start"):
        load_start(fresh(), other, fine_tuning(folder))


def test_a_damaged_or_incomplete_checkpoint_is_refused(tmp_path):
    folder = saved_start(tmp_path / "start")
    config, weights = fine_tuning(folder), folder / checkpoint.WEIGHTS
    raw = weights.read_bytes()
    weights.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    for call in (lambda: describe_start(folder), lambda: load_start(fresh(), folder, config)):
        with pytest.raises(InvalidInput, match="is not the file its card names"):
            call()
    weights.unlink()
    with pytest.raises(InvalidInput, match=r"weights\.safetensors is missing"):
        describe_start(folder)
    with pytest.raises(InvalidInput, match="no checkpoint at"):
        describe_start(tmp_path / "none")


def test_a_pickle_in_place_of_the_weights_is_never_opened(tmp_path):
    folder, hostile = saved_start(tmp_path / "start"), pickle.dumps(print)
    (folder / checkpoint.WEIGHTS).write_bytes(hostile)
    sha256 = hashlib.sha256(hostile).hexdigest()
    card = checkpoint.read_card(folder).model_copy(update={"weights_sha256": sha256})
    (folder / checkpoint.CARD).write_text(card.model_dump_json())
    with pytest.raises(InvalidInput, match="a plain pickle, which may run code"):
        load_start(fresh(), folder, fine_tuning(folder))
