"""Checkpoint folders: weights.safetensors and card.json; and the way in for foreign state dicts.

Weights are data here: pickles are opened with weights_only=True, nothing that comes with a file runs.
"""

from __future__ import annotations

import io
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

from bench import catalogue
from bench.records.one_read import read_whole, sha256_of_bytes
from bench.records.store import pretty_json, write_atomic
from bench.schema import InvalidInput, ModelCard, Scalar
from bench.sources.weight_sets import choose, weight_sets
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
        raw = safetensors.torch.save(_state(model))
        write_atomic(draft / WEIGHTS, raw)
        os.chmod(draft, 0o755)
        card = card.model_copy(
            update={
                "weights_sha256": sha256_of_bytes(raw),
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
    return sha256_of_bytes(safetensors.torch.save(_state(model)))


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

    The weights are the bytes that were hashed, though the file be replaced meanwhile. Raises
    InvalidInput where a file is missing, is not what the card says, or does not fit.
    """
    folder = Path(folder)
    card = read_card(folder)
    path = folder / WEIGHTS
    if not path.is_file():
        raise InvalidInput(f"{folder} is not complete: {WEIGHTS} is missing")
    raw = read_whole(path)
    if sha256_of_bytes(raw) != card.weights_sha256:
        raise InvalidInput(f"{path} is not the file its card names (sha256 differs); left in place")
    if card.arch is None:
        raise InvalidInput(f"{folder}: the card names no architecture")
    model = catalogue.build(card.arch, card.arch_args, mean=card.mean, std=card.std)
    load_weights(model.net, unwrap(parse_content(raw, path), path), str(path))
    return model.eval().to(device), card


def load_model(folder: str | Path, *, device: str | torch.device = "cpu") -> Normalized:
    """The model of a checkpoint folder, in eval mode: (B, C, H, W) in [0, 1] -> logits (B, K)."""
    return load(folder, device=device)[0]


# ---------------------------------------------------------------- foreign files

# Prefixes that wrappers leave, and what torch's AveragedModel counts beside its `module.`.
_COUNTER = "n_averaged"
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.")


def read_state_dict(path: Path, *, weights: str | None = None) -> dict[str, Tensor]:
    """The tensors of a .pt, .pth or .safetensors file, unwrapped, prefixes removed.

    weights names one of several sets that the file holds, as `weight_sets.choose` takes it. Raises
    InvalidInput that says what the file is instead, or which sets it holds.
    """
    return unwrap(read_content(path), path, weights=weights)


def read_content(path: Path) -> object:
    """All that a .pt, .pth or .safetensors file holds, on the CPU, where it is data alone.

    Raises InvalidInput that says what the file is instead.
    """
    if not path.is_file():
        raise InvalidInput(f"no checkpoint file at {path}")
    return parse_content(read_whole(path), path)


def parse_content(raw: bytes, path: Path) -> object:
    """As read_content, of the bytes of a file; the path names it and its ending tells the format."""
    head = raw[:512]
    if head.lstrip()[:1] == b"<":
        raise InvalidInput(f"{path} is a web page, not a checkpoint: download the file itself")
    if path.suffix == ".safetensors":
        try:
            return safetensors.torch.load(raw)
        except (SafetensorError, KeyError) as error:  # KeyError: a type of numbers torch lacks
            raise InvalidInput(f"{path} is not a complete safetensors file ({error})") from None
    _check_zip(raw, path)
    try:
        return torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise InvalidInput(
            f"{path} holds more than tensors (a whole module, or code), which is not loaded. "
            "Save the weights alone: torch.save(model.state_dict(), path)"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InvalidInput(f"{path} is not a complete PyTorch checkpoint ({reason})") from None


def _check_zip(raw: bytes, path: Path) -> None:
    """torch.load checks no sums: a flipped byte would load silently."""
    if not raw.startswith(b"PK"):
        return
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            if any(m.compress_type != zipfile.ZIP_STORED for m in archive.infolist()):
                raise InvalidInput(f"{path} is a compressed archive; torch.save does not compress")
            broken = archive.testzip()
    except zipfile.BadZipFile as error:
        raise InvalidInput(f"{path} is truncated or damaged ({error})") from None
    if broken:
        raise InvalidInput(f"{path} is damaged: {broken} does not match its checksum")


def unwrap(content: object, path: Path, *, weights: str | None = None) -> dict[str, Tensor]:
    """The state dict inside a file's content, prefixes that all its keys share removed.

    Raises InvalidInput where the content holds several, such as averaged weights beside the last ones,
    and `weights` does not say which.
    """
    chosen = choose(weight_sets(content), weights, path)
    if chosen is not None:
        content = chosen.content
    if not isinstance(content, Mapping) or not content:
        raise InvalidInput(f"{path} holds {type(content).__name__}, expected a state dict")
    tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
    others = sorted(str(k) for k, v in content.items() if not isinstance(v, Tensor))
    if others:
        raise InvalidInput(f"{path}: expected tensors only, but {others[:5]} are not")
    if all(k.startswith("module.") for k in tensors.keys() - {_COUNTER}):
        tensors.pop(_COUNTER, None)
    while shared := [p for p in _PREFIXES if tensors and all(k.startswith(p) for k in tensors)]:
        tensors = {k.removeprefix(shared[0]): v for k, v in tensors.items()}
    # Old WideResNets of the TRADES code define a block that no forward pass uses.
    return {k: v for k, v in tensors.items() if not k.startswith("sub_block1.")}


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
    weights: str | None = None,
    out: Path = Path("var/checkpoints"),
) -> Path:
    """Builds a checkpoint folder from a foreign state dict; returns its path.

    mean and std are the input normalisation that the network expects, a value a channel. `details`
    are further fields of the card (objective, authors, link …): the word of whoever gives them, which
    the card says of each; awp=None there states that weights were not perturbed.
    `weights` names one of several sets of weights that the file holds: a key of it, or `ema` for the
    averaged one. Raises InvalidInput.
    """
    arguments = catalogue.fitted_arguments(arch, dataset, **(arch_args or {}))
    model = catalogue.build(arch, arguments, mean=mean, std=std).eval()
    load_weights(model.net, read_state_dict(file, weights=weights), str(file))
    size = int(arguments.get("image_size", catalogue.dataset_info(dataset).image_size))
    with torch.no_grad():
        logits = model(torch.full((2, int(arguments["in_channels"]), size, size), 0.5))
    if logits.shape != (2, arguments["num_classes"]) or not torch.isfinite(logits).all():
        raise InvalidInput(f"{file}: a grey image does not give finite logits; is it a classifier?")
    stated = dict(details or {})
    said = (k for k, v in stated.items() if v not in (None, "") or (k == "awp" and v is None))
    try:
        card = ModelCard.model_validate(
            {
                "declared": tuple(said),  # a foreign file proves none of it
                **stated,
                "name": name,
                "arch": arch,
                "arch_args": arguments,
                "mean": mean,
                "std": std,
                "dataset": dataset,
                "class_count": int(arguments["num_classes"]),
                "weights_sha256": weights_sha256(model),
                "n_parameters": 0,
            }
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidInput(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    folder = out / name
    if folder.exists() and (
        not (folder / CARD).exists() or read_card(folder).weights_sha256 != card.weights_sha256
    ):
        raise InvalidInput(f"{folder} already holds another checkpoint: choose another --name")
    save(folder, model, card)
    return folder
