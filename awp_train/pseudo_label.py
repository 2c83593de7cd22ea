"""Extra images with the answers of a trained teacher as labels, for RST (arXiv 1905.13736)."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor

from awp_train.extra import (
    read_images_and_hash,
    read_source,
    refuse_held_out,
    save_extra,
)
from bench.datasets import as_float, drawn_parts, load
from bench.schema import InvalidInput, ModelCard
from bench.sources import checkpoint
from models import Normalized

EXTRA = Path("var/extra")
_BATCH = 500  # images


def pseudo_label(
    teacher: Path,
    *,
    out: Path = EXTRA,
    n: int | None = None,
    images: Path | None = None,
    device: str = "cpu",
) -> Path:
    """Labels images with the checkpoint `teacher`; returns the file `<out>/<teacher>-pseudo.npz`.

    The images are those of the teacher's data set that its run used neither for training nor for
    validation, as its seed drew them, or those of the file `images`, whose labels are not used; of
    either the first n, by default all. Test images are never among them. Equal images and answers
    give the same bytes. Raises InvalidInput where there are no such images, or where the file holds
    others already.
    """
    model, card = checkpoint.load(teacher, device=device)
    pictures, true_labels, origin = _pictures(card, images)
    if n is not None and not 1 <= n <= len(pictures):
        raise InvalidInput(f"n must lie in 1..{len(pictures)}, the images there are; got {n}")
    pictures = pictures[:n]
    labels = answers(model, pictures)
    source = f"pseudo-labels of {card.name} (weights {card.weights_sha256[:12]}) for {origin}"
    if true_labels is not None:
        right = int((labels == true_labels[:n]).sum())
        source += f"; {right} of {len(labels)} equal the true labels"
    path = out / f"{card.name}-pseudo.npz"
    save_extra(path, pictures, labels, source=source)
    return path


def _pictures(card: ModelCard, file: Path | None) -> tuple[Tensor, Tensor | None, str]:
    """Images (N, C, H, W), their true labels if they are known, and where they come from."""
    if file is not None:
        pictures, labels, sha256 = read_images_and_hash(file, card.dataset)
        refuse_held_out(pictures, file, load(card.dataset, "test"), kind="test")
        return pictures, labels, f"{file.name} (sha256 {sha256[:12]})"
    if card.train is None:
        raise InvalidInput(
            f"{card.name} was not trained here, so it is not known which images of {card.dataset} "
            "it has seen: give images of your own with --images FILE"
        )
    *_, unused = drawn_parts(card.train)
    if not len(unused):
        raise InvalidInput(
            f"{card.name} took every image of {card.dataset}: none is left to label. Train a "
            "teacher with --n_train, or give images of your own with --images FILE"
        )
    return unused.images, unused.labels, f"{card.dataset} {unused.split}"


@torch.no_grad()
def answers(model: Normalized, images: Tensor) -> Tensor:
    """The class (N,) that a model in eval mode gives each image (N, C, H, W), on the CPU."""
    device = next(model.parameters()).device
    parts = [model(as_float(part.to(device))).argmax(1).cpu() for part in images.split(_BATCH)]
    return torch.cat(parts)


# ---------------------------------------------------------------- the command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `python -m awp_train pseudo-label`."""
    parser.add_argument("teacher", type=Path, metavar="TEACHER", help="a checkpoint folder")
    parser.add_argument("--n", type=int, help="label the first N images; default: all there are")
    parser.add_argument(
        "--images", type=Path, metavar="FILE",
        help="images of your own (.npz with images and layout, or with image); "
        "default: those of the data set that the teacher left",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=EXTRA, help=f"folder, default {EXTRA}")


def run(call: argparse.Namespace) -> int:
    """Labels, says how good the labels are where that is known, and prints the file."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    path = pseudo_label(call.teacher, out=call.out, n=call.n, images=call.images, device=device)
    print(read_source(path), file=sys.stderr)
    print(path)
    return 0
