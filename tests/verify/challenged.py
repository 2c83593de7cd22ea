"""A network that somebody challenges, and what they hand in."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from bench import table
from bench.challenge import Outcome, hand_in
from bench.records import store

EPS, N = 0.15, 48


class Board(NamedTuple):
    """A results folder with one network measured by FGSM, and what PGD broke of it."""

    root: Path
    folder: Path
    record: Path
    x: Tensor
    y: Tensor
    pgd: Tensor  # (48, 1, 8, 8): adversarial where `broken`, else clean
    broken: np.ndarray  # by PGD

    @property
    def standing(self) -> np.ndarray:
        return store.read(self.record).worst_case_standing

    @property
    def row(self) -> table.Row:
        ((row,),) = [group.rows for group in table.build(self.root).groups]
        return row


def handed(indices: Any, images: Tensor, name: str = "handed.safetensors", **more: Tensor) -> Path:
    path = Path(name)
    save_file({"indices": torch.as_tensor(indices), "images": images.contiguous(), **more}, path)
    return path


def attack(
    board: Board, which: np.ndarray | None = None, *, by: str = "Eve", **more: Any
) -> Outcome:
    """Hands in the images that PGD broke, or some of them."""
    places = np.flatnonzero(board.broken if which is None else which)
    return hand_in(board.folder, handed(places, board.pgd[places]), by=by, **more)
