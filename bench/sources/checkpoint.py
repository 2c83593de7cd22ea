"""Checkpoint folders: weights.safetensors and card.json; and the way in for foreign state dicts."""

from __future__ import annotations

import ctypes
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from pydantic import ValidationError

from bench import catalogue
from bench.models import Normalized
from bench.records import cards
from bench.records.cards import CARD as CARD
from bench.records.json_files import first_mistake
from bench.records.lock import made
from bench.records.one_read import opened, read_whole, sha256_of_bytes
from bench.records.store import drafts, flush_names, pretty_json, write_atomic
from bench.schema import InvalidInput, ModelCard, Scalar
from bench.sources import fitting, weight_files
from bench.sources.pickles import count_of
from bench.sources.state_dicts import load_weights as load_weights
from bench.sources.state_dicts import read_state_dict as read_state_dict
from bench.sources.state_dicts import unwrap
from bench.sources.weight_files import shown

WEIGHTS = "weights.safetensors"


def save(
    folder: Path, model: Normalized, card: ModelCard, *, files: Mapping[str, str] | None = None
) -> ModelCard:
    """Writes a checkpoint folder in one step and returns the card with hash and size filled in.

    The folder appears, or is replaced, only when it is complete; at no moment is there none. `files`
    are further text files by name, such as train.jsonl. Raises InvalidInput where a file lies there.
    """
    if os.path.lexists(folder) and not folder.is_dir():
        raise InvalidInput(f"{folder} is in the way: expected a checkpoint folder, or nothing")
    if folder.is_symlink():  # of the user's own: what it leads to is replaced
        folder = folder.resolve()
    made(folder.parent)
    draft = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        raw = as_safetensors(model)
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
        _put(draft, folder)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    for left in drafts(folder):
        shutil.rmtree(left, ignore_errors=True)
    return card


def _put(draft: Path, folder: Path) -> None:
    """The draft takes the folder's name; what had it goes."""
    if not folder.exists():
        os.rename(draft, folder)
        flush_names(folder.parent)
        return
    old = draft
    if not _exchanged(
        draft, folder
    ):  # killed between the two, `cards.restore` puts the old one back
        old = draft.with_name(draft.name + cards.OLD)
        os.rename(folder, old)
        os.rename(draft, folder)
    flush_names(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def _exchanged(a: Path, b: Path) -> bool:
    """Swaps the names of two folders in one step; False where system or file system cannot."""
    try:
        swap = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):  # not Linux, or before glibc 2.28
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return bool(swap(here, os.fsencode(a), here, os.fsencode(b), exchange) == 0)


def weights_sha256(model: Normalized) -> str:
    """sha256 (hex) of the file of weights that `save` would write."""
    return sha256_of_bytes(as_safetensors(model))


def as_safetensors(model: Normalized) -> bytes:
    """The file of weights that `save` would write."""
    state = model.net.state_dict()
    return safetensors.torch.save({k: v.detach().cpu().contiguous() for k, v in state.items()})


def read_card(folder: Path) -> ModelCard:
    """The card of a checkpoint folder. Raises InvalidInput naming the file."""
    return cards.read_card(folder)


def load(folder: str | Path, *, device: str | torch.device = "cpu") -> tuple[Normalized, ModelCard]:
    """The model (eval mode) and card of a checkpoint folder.

    The weights are the bytes that were hashed, though the file be replaced meanwhile. Raises
    InvalidInput where a file is missing, is not what the card says, or does not fit.
    """
    folder = Path(folder)
    card = read_card(folder)
    path = folder / WEIGHTS
    if not os.path.lexists(path):
        raise InvalidInput(f"{folder} is not complete: {WEIGHTS} is missing")
    if card.arch is None:
        raise InvalidInput(f"{folder}: the card names no architecture")
    shapes = fitting.shapes_of(card.arch, card.arch_args)
    raw = read_whole(path, largest=_most(shapes))
    if sha256_of_bytes(raw) != card.weights_sha256:
        raise InvalidInput(f"{path} is not the file its card names (sha256 differs); left in place")
    tensors = unwrap(weight_files.read(raw, path).content, path)
    state = fitting.fit(tensors, card.arch, card.arch_args, str(path)).state
    model = catalogue.build(card.arch, card.arch_args, mean=card.mean, std=card.std)
    load_weights(model.net, state, str(path))
    return model.eval().to(device), card


def _most(shapes: fitting.Shapes) -> int:
    """Bytes that a file of such weights may have: float64 and a generous header."""
    numbers = sum(count_of(shape) for shape in shapes.values())
    return 8 * numbers + 2**20 + 500 * len(shapes)


def load_model(folder: str | Path, *, device: str | torch.device = "cpu") -> Normalized:
    """The model of a checkpoint folder, in eval mode: (B, C, H, W) in [0, 1] -> logits (B, K)."""
    return load(folder, device=device)[0]


# ---------------------------------------------------------------- foreign files


def foreign(
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
) -> tuple[Normalized, ModelCard]:
    """The model (eval mode) and card of a foreign state dict; nothing is written.

    mean and std are the input normalisation that the network expects, a value a channel. `details`
    are further fields of the card (objective, authors, link …): the word of whoever gives them, which
    the card says of each; awp=None there states that weights were not perturbed.
    `weights` names one of several sets of weights that the file holds: a key of it, or `ema` for the
    averaged one. Raises InvalidInput.
    """
    arguments = catalogue.fitted_arguments(arch, dataset, **(arch_args or {}))
    catalogue.check_normalisation(arguments, mean, std)
    catalogue.check_pixels(mean, std)
    with opened(file, follow=True) as (source, _):
        held = weight_files.read(source, file)
        tensors = unwrap(held.content, file, weights=weights)
        found = fitting.fit(tensors, arch, arguments, str(file), mean=mean, std=std)
        model = fitted(found, arch, arguments, str(file))
    check_answers(model, arguments, catalogue.dataset_info(dataset).image_size, str(file))
    chosen = "" if weights is None else f"the set {shown(weights)} of several"
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
                "mean": found.mean,
                "std": found.std,
                "weights_note": "; ".join(n for n in (chosen, held.note, found.note) if n),
                "dataset": dataset,
                "class_count": int(arguments["num_classes"]),
                "weights_sha256": weights_sha256(model),
                "n_parameters": sum(p.numel() for p in model.net.parameters()),
            }
        )
    except ValidationError as error:
        raise InvalidInput(first_mistake(error)) from None
    return model, card


def fitted(
    found: fitting.Fit, arch: str, arguments: Mapping[str, Scalar], where: str
) -> Normalized:
    """The model (eval mode) of tensors that fit; reads their numbers. Raises InvalidInput."""
    model = catalogue.build(arch, arguments, mean=found.mean, std=found.std).eval()
    load_weights(model.net, found.state, where)
    return model


def check_answers(
    model: Normalized, arguments: Mapping[str, Scalar], image_size: int, where: str
) -> None:
    """InvalidInput where a grey image gives no finite logits, one a class.

    image_size (pixels) is taken where the architecture is made for none.
    """
    size = int(arguments.get("image_size", image_size))
    with torch.no_grad():
        logits = model(torch.full((2, int(arguments["in_channels"]), size, size), 0.5))
    if logits.shape != (2, arguments["num_classes"]) or not torch.isfinite(logits).all():
        raise InvalidInput(
            f"{where}: a grey image does not give finite logits; is it a classifier?"
        )


def add(model: Normalized, card: ModelCard, *, out: Path = Path("var/checkpoints")) -> Path:
    """Writes a checkpoint folder of the card's name under out; returns its path.

    Raises InvalidInput where another checkpoint, or something else, lies there.
    """
    folder = out / card.name
    if folder.exists() and (
        not (folder / CARD).exists() or read_card(folder).weights_sha256 != card.weights_sha256
    ):
        raise InvalidInput(f"{folder} already holds another checkpoint: choose another --name")
    save(folder, model, card)
    return folder
