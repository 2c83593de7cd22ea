"""What can be measured by name: a checkpoint folder, a model of the zoo, a model of one's own."""

from __future__ import annotations

from pathlib import Path

from bench.attacks.problem import Model
from bench.schema import ModelCard
from bench.sources import checkpoint, zoo
from bench.sources.python_file import OwnModel

Source = Path | zoo.Entry | OwnModel


def read_card(source: Source) -> ModelCard:
    """The card of what is to be measured."""
    if isinstance(source, OwnModel):
        return source.card
    return zoo.read_card(source) if isinstance(source, zoo.Entry) else checkpoint.read_card(source)


def open_model(source: Source, device: str) -> tuple[Model, ModelCard]:
    """The model (eval mode, on the device) and card of what is to be measured.

    A model of one's own stays where it was put when it was opened.
    """
    if isinstance(source, OwnModel):
        return source.model, source.card
    if isinstance(source, zoo.Entry):
        return zoo.load(source, device=device)
    return checkpoint.load(source, device=device)
