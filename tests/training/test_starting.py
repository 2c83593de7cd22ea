"""Fine-tuning starts from every weight of a checkpoint but those of its last layer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import models
from awp_train.run_files import describe_start, head_name, load_start
from bench.catalogue import ARCHITECTURES, architecture_arguments
from bench.schema import InvalidInput, ModelCard, TrainConfig
from bench.sources import checkpoint
from models import build

ARGS = {"in_channels": 1, "image_size": 8, "num_classes": 5, "width": 2}


def saved_start(folder: Path, *, seed: int = 1, **args: int) -> Path:
    """A checkpoint whose BatchNorm statistics are of something."""
    args = ARGS | args
    torch.manual_seed(seed)
    model = build("small_cnn", args)
    model(torch.rand(32, 1, args["image_size"], args["image_size"]))
    card = ModelCard(
        name=folder.name, arch="small_cnn", arch_args=args, dataset="digits-0to4",
        class_count=args["num_classes"], weights_sha256="0" * 64, n_parameters=0,
    )  # fmt: skip
    checkpoint.save(folder, model, card)
    return folder


def fine_tuning(folder: Path, **changes: object) -> TrainConfig:
    return TrainConfig(
        dataset="digits-5to9", arch_args=ARGS, objective="pretrain", start=describe_start(folder)
    ).model_copy(update=changes)


def test_every_weight_but_the_last_layer_is_taken(tmp_path):
    folder = saved_start(tmp_path / "start")
    config = fine_tuning(folder)
    fresh, model = (_built() for _ in range(2))
    before = torch.get_rng_state()
    load_start(model, folder, config)
    assert torch.equal(torch.get_rng_state(), before)
    start = checkpoint.load_model(folder).state_dict()
    head = {"net.12.weight", "net.12.bias"}
    for key, value in model.state_dict().items():
        expected = fresh.state_dict() if key in head else start
        assert torch.equal(value, expected[key])
        assert value.dim() < 2 or not torch.equal(start[key], fresh.state_dict()[key])
    assert model.training
    assert all(p.requires_grad for p in model.parameters())


def _built():
    torch.manual_seed(7)
    return build("small_cnn", ARGS)


def test_another_class_count_fits(tmp_path):
    folder = saved_start(tmp_path / "start", num_classes=10)
    model = _built()
    load_start(model, folder, fine_tuning(folder))
    assert model(torch.rand(2, 1, 8, 8)).shape == (2, 5)
    start = checkpoint.load_model(folder).state_dict()
    assert torch.equal(model.state_dict()["net.10.weight"], start["net.10.weight"])


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_last_layer_gives_the_logits(arch):
    given = {"image_size": 32} if "image_size" in ARCHITECTURES[arch].arguments else {}
    arguments = architecture_arguments(arch, {**given, "in_channels": 3, "num_classes": 7})
    net = models.build(arch, dict(arguments)).net
    head = net.get_submodule(head_name(net).removesuffix("."))
    assert isinstance(head, torch.nn.Linear)
    assert head.out_features == 7
    seven = [m for m in net.modules() if getattr(m, "out_features", 0) == 7]
    assert seven == [head]


def test_what_is_not_the_named_network_is_refused(tmp_path):
    folder = saved_start(tmp_path / "start")
    config = fine_tuning(folder)
    with pytest.raises(InvalidInput, match="start is a small_cnn, but this run trains a cnn_a"):
        load_start(_built(), folder, config.model_copy(update={"arch": "cnn_a"}))
    wide = config.model_copy(update={"arch_args": ARGS | {"width": 4}})
    with pytest.raises(InvalidInput, match="another small_cnn: it has width 2, this run 4"):
        load_start(_built(), folder, wide)
    scaled = config.model_copy(update={"mean": (0.5,), "std": (0.5,)})
    with pytest.raises(InvalidInput, match=r"it has mean None, this run \(0.5,\), std"):
        load_start(_built(), folder, scaled)
    other = saved_start(tmp_path / "other", seed=2)
    with pytest.raises(InvalidInput, match="other is not the checkpoint start"):
        load_start(_built(), other, config)
    with pytest.raises(InvalidInput, match="names no starting point"):
        load_start(_built(), folder, config.model_copy(update={"start": None}))


def test_a_damaged_or_incomplete_checkpoint_is_refused(tmp_path):
    folder = saved_start(tmp_path / "start")
    config = fine_tuning(folder)
    weights = folder / checkpoint.WEIGHTS
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 1
    weights.write_bytes(bytes(raw))
    for call in (lambda: describe_start(folder), lambda: load_start(_built(), folder, config)):
        with pytest.raises(InvalidInput, match="is not the file its card names"):
            call()
    weights.unlink()
    with pytest.raises(InvalidInput, match=r"weights\.safetensors is missing"):
        describe_start(folder)
    with pytest.raises(InvalidInput, match="no checkpoint at"):
        describe_start(tmp_path / "none")


def test_a_pickle_in_place_of_the_weights_is_never_opened(tmp_path):
    import hashlib
    import pickle

    folder = saved_start(tmp_path / "start")
    hostile = pickle.dumps(print)
    (folder / checkpoint.WEIGHTS).write_bytes(hostile)
    card = checkpoint.read_card(folder).model_dump(mode="json")
    card["weights_sha256"] = hashlib.sha256(hostile).hexdigest()
    card = ModelCard.model_validate(card)
    (folder / checkpoint.CARD).write_text(card.model_dump_json())
    with pytest.raises(InvalidInput, match="not a complete safetensors file"):
        load_start(_built(), folder, fine_tuning(folder))
