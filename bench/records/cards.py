"""The card of a checkpoint folder, read without torch."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from bench.schema import InvalidInput, ModelCard

CARD = "card.json"


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
