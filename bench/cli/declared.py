"""What a submitter states of the training: nothing here can check it; what is not said is not known."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from bench.catalogue import unknown_name
from bench.schema import OBJECTIVES, AwpConfig, InvalidInput, ModelCard, Name, ThreatModel

if TYPE_CHECKING:
    from bench.measure.sweep import Job

_PATTERNS = ("include", "exclude")  # fields of AwpConfig that hold several texts


def add(parser: argparse.ArgumentParser) -> None:
    """Adds the facts of a training and of its authors, each left out where it is not known."""
    said = parser.add_argument_group(
        "stated by you", "shown as self-declared; what is left out is shown as not stated"
    )
    said.add_argument("--objective", choices=OBJECTIVES)
    said.add_argument(
        "--awp", metavar="gamma=0.01,warm_up=0",
        help=f"how weights were perturbed ({', '.join(AwpConfig.model_fields)}), or none",
    )  # fmt: skip
    said.add_argument("--twin", metavar="NAME", help="the model trained alike but without AWP")
    said.add_argument("--trained-against", metavar="linf:8/255")
    said.add_argument("--epochs", type=int, help="length of the run")
    said.add_argument("--extra-data", metavar="TEXT", help="images besides the data set")
    for name in ("--authors", "--link", "--licence"):
        said.add_argument(name)


def facts(a: argparse.Namespace) -> dict[str, Any]:
    """Fields of a card that the call states, `declared` among them. Raises InvalidInput."""
    stated: dict[str, Any] = {
        field: getattr(a, field)
        for field in ("objective", "epochs", "extra_data", "authors", "link", "licence")
        if getattr(a, field) not in (None, "")
    }
    if stated.get("epochs", 1) < 1:
        raise InvalidInput(f"--epochs must be at least 1, got {a.epochs}")
    if a.trained_against is not None:
        stated["threat"] = ThreatModel.parse(a.trained_against)
    if a.twin is not None:
        stated["pair"] = _twin(a.twin, a.name)
    parts: list[str] = []
    if a.awp is not None:
        stated["awp"], parts = parse_awp(a.awp)
    return {**stated, "declared": (*stated, *(f"awp.{part}" for part in parts))}


def parse_awp(text: str) -> tuple[AwpConfig | None, list[str]]:
    """The perturbation that `gamma=0.01,warm_up=0` or `none` states, and which fields it names.

    Raises InvalidInput that names the nearest field, or what is wrong with a value.
    """
    if text.strip().lower() == "none":
        return None, []
    given: dict[str, Any] = {}
    last = ""
    for piece in text.split(","):
        key, equals, value = (part.strip() for part in piece.partition("="))
        if not equals and last in _PATTERNS and key:
            given[last].append(key)
            continue
        if not (equals and key and value):
            raise InvalidInput(f"--awp is none or gamma=0.01,warm_up=0 and so on, got {text!r}")
        if key not in AwpConfig.model_fields:
            raise unknown_name("field of --awp", key, AwpConfig.model_fields)
        if key in given:
            raise InvalidInput(f"--awp states {key} twice: {text!r}")
        given[key] = [value] if key in _PATTERNS else value
        last = key
    try:
        return AwpConfig.model_validate(given), list(given)
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0])
        raise InvalidInput(f"--awp {field}: {first['msg']}, got {given[field]!r}") from None


def _twin(name: str, own: str) -> str:
    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError:
        raise InvalidInput(
            f"--twin takes the name of a model (letters, digits and ._+=-), got {name!r}"
        ) from None
    if name == own:
        raise InvalidInput(f"--twin names the model itself, {own}: a twin is another model")
    return name


def warn(job: Job, card: ModelCard) -> None:
    """Says on stderr where what is stated leads to nothing."""
    from bench.measure import sweep
    from bench.records import store

    said = []
    if card.pair is not None and not any(job.out.glob(f"*/*/{card.pair}/*.json")):
        said.append(f"--twin {card.pair}: no record of that name is under {job.out} yet")
    if card.pair is not None and card.awp is None:
        said.append("--twin without --awp gamma=…: nothing is compared with the twin")
    path = sweep.recorded(job, sweep.examples(job), card)
    if path is not None and store.read(path).card != card:
        said.append(f"{path} was made with another card and stays: what is stated now is not in it")
    for sentence in said:
        print(f"note: {sentence}", file=sys.stderr)
