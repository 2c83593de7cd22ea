"""Checkpoint folders: weights.safetensors and card.json; and the way in for foreign state dicts.

Weights are data here: pickles are opened with weights_only=True, nothing that comes with a file runs.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from torch import Tensor, nn

import models
from bench.catalogue import architecture_arguments, dataset_info
from bench.results import pretty_json, sha256_of, write_atomic
from bench.schema import InvalidInput, ModelCard, Scalar
from models import Normalized

WEIGHTS, CARD = "weights.safetensors", "card.json"


def save(
    folder: Path, model: Normalized, card: ModelCard, *, files: Mapping[str, str] | None = None
) -> ModelCard:
    """Writes a checkpoint folder in one step and returns the card with hash and size filled in.

    The folder appears, or is replaced, only when it is complete. `files` are further text files by
    name, such as train.jsonl.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        safetensors.torch.save_file(_state(model), draft / WEIGHTS)
        os.chmod(draft, 0o755)
        os.chmod(draft / WEIGHTS, 0o644)
        card = card.model_copy(
            update={
                "weights_sha256": sha256_of(draft / WEIGHTS),
                "n_parameters": sum(p.numel() for p in model.net.parameters()),
            }
        )
        write_atomic(draft / CARD, pretty_json(card))
        for name, text in (files or {}).items():
            write_atomic(draft / name, text)
        old = draft.with_name(draft.name + ".old")
        if folder.exists():
            os.rename(folder, old)
        os.rename(draft, folder)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return card


def weights_sha256(model: Normalized) -> str:
    """sha256 (hex) of the file of weights that `save` would write."""
    return hashlib.sha256(safetensors.torch.save(_state(model))).hexdigest()


def _state(model: Normalized) -> dict[str, Tensor]:
    return {k: v.detach().cpu().contiguous() for k, v in model.net.state_dict().items()}


def read_card(folder: Path) -> ModelCard:
    """The card of a checkpoint folder. Raises InvalidInput naming the file."""
    path = folder / CARD
    if not folder.exists():
        raise InvalidInput(f"no checkpoint at {folder}")
    try:
        return ModelCard.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InvalidInput(
            f"{folder} is not a checkpoint folder: {CARD} is missing. "
            "A bare state dict is brought in with: python -m bench import FILE --arch …"
        ) from None
    except NotADirectoryError:
        raise InvalidInput(
            f"{folder} is a file, not a checkpoint folder. "
            f"Bring it in with: python -m bench import {folder} --arch …"
        ) from None
    except (ValidationError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path} is not a valid card: {error}") from None


def load(folder: str | Path, *, device: str | torch.device = "cpu") -> tuple[Normalized, ModelCard]:
    """The model (eval mode) and card of a checkpoint folder.

    Raises InvalidInput where a file is missing, is not what the card says, or does not fit.
    """
    folder = Path(folder)
    card = read_card(folder)
    path = folder / WEIGHTS
    if not path.is_file():
        raise InvalidInput(f"{folder} is not complete: {WEIGHTS} is missing")
    if sha256_of(path) != card.weights_sha256:
        raise InvalidInput(f"{path} is not the file its card names (sha256 differs); left in place")
    if card.arch is None:
        raise InvalidInput(f"{folder}: the card names no architecture")
    model = models.build(card.arch, dict(card.arch_args), mean=card.mean, std=card.std)
    load_weights(model.net, read_state_dict(path), str(path))
    return model.eval().to(device), card


def load_model(folder: str | Path, *, device: str | torch.device = "cpu") -> Normalized:
    """The model of a checkpoint folder, in eval mode: (B, C, H, W) in [0, 1] -> logits (B, K)."""
    return load(folder, device=device)[0]


# ---------------------------------------------------------------- foreign files

# Wrappers in which published checkpoints keep their weights, and prefixes that wrappers leave.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "weights")
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.")


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a .pt, .pth or .safetensors file, unwrapped, prefixes removed.

    Raises InvalidInput that says what the file is instead.
    """
    tensors = unwrap(read_content(path), path)
    # Old WideResNets of the TRADES code define a block that no forward pass uses.
    return {k: v for k, v in tensors.items() if not k.startswith("sub_block1.")}


def read_content(path: Path) -> object:
    """All that a .pt, .pth or .safetensors file holds, on the CPU, where it is data alone.

    Raises InvalidInput that says what the file is instead.
    """
    if not path.is_file():
        raise InvalidInput(f"no checkpoint file at {path}")
    with path.open("rb") as file:
        head = file.read(512)
    if head.lstrip()[:1] == b"<":
        raise InvalidInput(f"{path} is a web page, not a checkpoint: download the file itself")
    if path.suffix == ".safetensors":
        try:
            return safetensors.torch.load_file(path)
        except SafetensorError as error:
            raise InvalidInput(f"{path} is not a complete safetensors file ({error})") from None
    _check_zip(path, head)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise InvalidInput(
            f"{path} holds more than tensors (a whole module, or code), which is not loaded. "
            "Save the weights alone: torch.save(model.state_dict(), path)"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InvalidInput(f"{path} is not a complete PyTorch checkpoint ({reason})") from None


def _check_zip(path: Path, head: bytes) -> None:
    """torch.load checks no sums: a flipped byte would load silently."""
    if not head.startswith(b"PK"):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            if any(m.compress_type != zipfile.ZIP_STORED for m in archive.infolist()):
                raise InvalidInput(f"{path} is a compressed archive; torch.save does not compress")
            broken = archive.testzip()
    except zipfile.BadZipFile as error:
        raise InvalidInput(f"{path} is truncated or damaged ({error})") from None
    if broken:
        raise InvalidInput(f"{path} is damaged: {broken} does not match its checksum")


def unwrap(content: object, path: Path) -> dict[str, Tensor]:
    """The state dict inside a file's content, prefixes that all its keys share removed."""
    for _ in range(3):
        if not isinstance(content, Mapping):
            break
        inner = next((content[w] for w in _WRAPPERS if isinstance(content.get(w), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping) or not content:
        raise InvalidInput(f"{path} holds {type(content).__name__}, expected a state dict")
    tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
    others = sorted(str(k) for k, v in content.items() if not isinstance(v, Tensor))
    if others or not tensors:
        raise InvalidInput(f"{path}: expected tensors only, but {others[:5]} are not")
    for _ in range(3):
        for prefix in _PREFIXES:
            if all(k.startswith(prefix) for k in tensors):
                tensors = {k.removeprefix(prefix): v for k, v in tensors.items()}
    return tensors


def load_weights(net: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Copies a state dict into a network; InvalidInput names keys, shapes or values that differ."""
    wanted = net.state_dict()
    # num_batches_tracked is a counter that no forward pass in eval mode reads.
    optional = {k for k in wanted if k.endswith("num_batches_tracked")}
    missing = sorted(set(wanted) - set(state) - optional)
    unknown = sorted(set(state) - set(wanted))
    if missing or unknown:
        raise InvalidInput(
            f"{where} does not fit the architecture: "
            f"{len(missing)} tensors missing {missing[:3]}, {len(unknown)} unknown {unknown[:3]}"
        )
    for key, value in state.items():
        if value.shape != wanted[key].shape:
            raise InvalidInput(
                f"{where}: {key} has shape {tuple(value.shape)}, "
                f"the architecture expects {tuple(wanted[key].shape)}"
            )
        if not torch.isfinite(value).all():
            raise InvalidInput(f"{where}: {key} holds values that are not finite (NaN or infinity)")
    net.load_state_dict({**{k: wanted[k] for k in optional}, **state})


def import_checkpoint(
    file: Path,
    *,
    arch: str,
    dataset: str,
    name: str,
    arch_args: Mapping[str, Scalar] | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    details: Mapping[str, object] | None = None,
    out: Path = Path("var/checkpoints"),
) -> Path:
    """Builds a checkpoint folder from a foreign state dict; returns its path.

    mean and std are the input normalisation that the network expects, a value a channel. `details`
    are further fields of the card (objective, authors, link …): the word of whoever gives them, which
    the card says of each; awp=None there states that weights were not perturbed. Raises InvalidInput.
    """
    info = dataset_info(dataset)
    given = {"in_channels": info.channels, "num_classes": info.class_count} | dict(arch_args or {})
    if arch in ("cnn_a", "small_cnn"):
        given.setdefault("image_size", info.image_size)
    arguments = architecture_arguments(arch, given)
    model = models.build(arch, dict(arguments), mean=mean, std=std)
    load_weights(model.net, read_state_dict(file), str(file))
    model.eval()
    size = int(arguments.get("image_size", info.image_size))
    with torch.no_grad():
        logits = model(torch.full((2, int(arguments["in_channels"]), size, size), 0.5))
    if logits.shape != (2, arguments["num_classes"]) or not torch.isfinite(logits).all():
        raise InvalidInput(f"{file}: a grey image does not give finite logits; is it a classifier?")
    try:
        card = ModelCard.model_validate(
            {
                "declared": _stated(details or {}),
                **(details or {}),
                "name": name,
                "arch": arch,
                "arch_args": arguments,
                "mean": mean,
                "std": std,
                "dataset": dataset,
                "class_count": int(arguments["num_classes"]),
                "weights_sha256": "0" * 64,
                "n_parameters": 0,
            }
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidInput(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    folder = out / name
    if folder.exists() and (not (folder / CARD).exists() or _is_another(folder, model)):
        raise InvalidInput(f"{folder} already holds another checkpoint: choose another --name")
    save(folder, model, card)
    return folder


def _stated(details: Mapping[str, object]) -> tuple[str, ...]:
    """Which details say anything: a foreign file proves none of them."""
    return tuple(k for k, v in details.items() if v not in (None, "") or (k == "awp" and v is None))


def _is_another(folder: Path, model: Normalized) -> bool:
    """Whether the folder's weights differ from the model's."""
    old = safetensors.torch.load_file(folder / WEIGHTS)
    new = model.net.state_dict()
    return old.keys() != new.keys() or any(not torch.equal(old[k], new[k]) for k in old)
