"""bench import and bench submit: foreign state dicts become checkpoint folders.

What a submitter states of the training stands in the card as stated: nothing here can check it, and
what is not said is not known.
"""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import replace
from decimal import Decimal
from typing import Any, get_args

from pydantic import ValidationError

from bench.catalogue import unknown_name
from bench.cli.arguments import floats, pairs
from bench.cli.evaluate import agreed, job_of, measured
from bench.datasets import Examples
from bench.measure import keeping, sweep
from bench.measure.sweep import Job
from bench.models import Normalized
from bench.records import store
from bench.records.json_files import first_mistake
from bench.records.one_read import sha256_of
from bench.reliability.flags import answer_findings
from bench.schema import AwpConfig, Figure, InvalidInput, ModelCard, ThreatModel, safe_name
from bench.schema.figure import MOST_FIGURES
from bench.sources import checkpoint
from bench.sources.python_file import OwnModel

_PATTERNS = ("include", "exclude")  # fields of AwpConfig that hold several texts


def import_only(a: argparse.Namespace) -> None:
    """Makes a checkpoint folder of a foreign state dict and prints its path."""
    print(checkpoint.add(*_foreign(a), out=a.checkpoints))


def run(a: argparse.Namespace) -> int:
    """Imports a state dict, refuses what is no classifier, and measures it; or queues it."""
    if a.watch or a.server is not None:
        from bench.cli import ticket  # which imports this file

        return ticket.submit(a)
    _refuse_alone(a)
    model, card = _foreign(a)
    job = job_of(OwnModel(model, card), a)
    _check_answers(a.name, sweep.examples(job), model.to(job.device), card.class_count)
    workers = agreed([job], a)
    keeping.refuse_unwritable(job.folder(card))
    # All that can be refused has been: only now is something written.
    folder = checkpoint.add(model, card, out=a.checkpoints)
    job = replace(job, source=folder)
    _warn(job, checkpoint.read_card(folder))
    return measured([job], workers, a)


_OF_A_TICKET = (
    "intake", "claimed", "claimed_robust", "training_images", "paper", "contact", "hashes_only",
    "token", "secret",
)  # fmt: skip


def _refuse_alone(a: argparse.Namespace) -> None:
    """Raises InvalidInput for what is said of a submission that is not queued."""
    for name in _OF_A_TICKET:
        if getattr(a, name):
            raise InvalidInput(f"--{name.replace('_', '-')} belongs to --watch or --server")
    if a.arch is None:
        raise InvalidInput("--arch is needed: it is found with --watch alone")


def _foreign(a: argparse.Namespace) -> tuple[Normalized, ModelCard]:
    if (a.mean is None) != (a.std is None):
        given, other = ("mean", "std") if a.std is None else ("std", "mean")
        neutral = ",".join("1" if other == "std" else "0" for _ in getattr(a, given).split(","))
        raise InvalidInput(
            f"--{given} without --{other}: a network normalises by both; --{other} {neutral} where it "
            "does not"
        )
    model, card = checkpoint.foreign(
        a.file, arch=a.arch, dataset=a.dataset, name=a.name, arch_args=pairs(a.arch_arg),
        mean=floats(a.mean, "--mean"), std=floats(a.std, "--std"), details=_facts(a),
        weights=a.weights,
    )  # fmt: skip
    if a.no_copy:
        card = card.model_copy(update={"file_sha256": sha256_of(a.file, follow=True)})
    return model, card


def _check_answers(name: str, data: Examples, model: Normalized, classes: int) -> None:
    """Refuses what is no classifier before hours are spent on it; see bench.reliability.flags."""
    labels, predictions = data.labels.numpy(), sweep.clean_predictions(model, data)
    right, n = int((labels == predictions).sum()), len(labels)
    raised = {
        found.name: found.values for found in answer_findings(labels, predictions) if found.raised
    }
    if constant := raised.get("constant-answer"):
        reason = (
            f"{constant['given']} of {n} clean images get class {constant['class']}: a constant "
            "answer is no classifier"
        )
    elif chance := raised.get("chance-level"):
        reason = (
            f"{right} of {n} clean images are right, not above chance ({chance['majority']} of them "
            "carry the commonest label)"
        )
    elif right <= n / classes:
        reason = f"{right} of {n} clean images are right, not above chance (1 in {classes})"
    else:
        return
    raise InvalidInput(
        f"{name}: {reason}. Is the normalisation right (--mean, --std)? Does the network expect "
        "other classes?"
    )


def _warn(job: Job, card: ModelCard) -> None:
    """Says on stderr where what is stated leads to nothing."""
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


# ---------------------------------------------------------------- what is stated


def _facts(a: argparse.Namespace) -> dict[str, Any]:
    """Fields of a card that the call states, `declared` among them. Raises InvalidInput."""
    stated: dict[str, Any] = {
        field: getattr(a, field)
        for field in ("objective", "epochs", "extra_data", "authors", "link", "licence")
        if getattr(a, field) not in (None, "")
    }
    if a.figures:
        stated["figures"] = tuple(parse_figure(text, a.dataset) for text in a.figures)
        if len(a.figures) > MOST_FIGURES:
            raise InvalidInput(f"a card holds at most {MOST_FIGURES} figures, got {len(a.figures)}")
    if a.no_copy and not a.link:
        raise InvalidInput("--no-copy without --link: say where others get the file of weights")
    if stated.get("epochs", 1) < 1:
        raise InvalidInput(f"--epochs must be at least 1, got {a.epochs}")
    if a.trained_against is not None:
        stated["threat"] = ThreatModel.asked(a.trained_against)
    if a.twin is not None:
        if safe_name(a.twin) != a.twin:
            raise InvalidInput(
                f"--twin takes the name of a model (letters, digits and ._+=-), got {a.twin!r}"
            )
        if a.twin == a.name:
            raise InvalidInput(f"--twin names the model itself, {a.name}: a twin is another model")
        stated["pair"] = a.twin
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


def parse_figure(text: str, dataset: str) -> Figure:
    """The figure that `proven=9420/10000,threat=linf:0.1,source=arXiv 1711.00851` states.

    dataset is what it is of where the text names none. Raises InvalidInput that names the nearest
    field, or what is wrong with a value.
    """
    found = re.search(r"(?:^|,)\s*source\s*=", text)
    source = text[found.end() :].strip() if found else ""
    if found is None or not source:
        raise InvalidInput(f"--figure ends with where it stands, source=TEXT, got {text!r}")
    given = _fields_of_figure(text[: found.start()])
    kinds = [key for key in given if key in _KINDS]
    if len(kinds) != 1:
        said = " and ".join(kinds) or "none of them"
        raise InvalidInput(f"--figure states one of {', '.join(_KINDS)}, got {said}: {text!r}")
    value = given.pop(kinds[0])
    stated: dict[str, Any] = {"what": kinds[0], "dataset": dataset, "source": source, **given}
    if "threat" in given:
        stated["threat"] = ThreatModel.asked(given["threat"])
    if "images" in given:
        stated["examples_sha256"] = stated.pop("images")
    if counted := re.fullmatch(r"(\d{1,8})\s*/\s*(\d{1,8})", value, re.ASCII):
        stated |= {"count": counted[1], "n": counted[2]}
        if given.get("n", counted[2]) != counted[2]:
            raise InvalidInput(
                f"--figure {kinds[0]}={value} is of {counted[2]} images, got n={given['n']}"
            )
    else:
        stated["share"] = _share(value, kinds[0])
    try:
        return Figure.model_validate(stated)
    except ValidationError as error:
        why = first_mistake(error).replace("Value error, ", "")
        raise InvalidInput(f"--figure {text!r}: {why}") from None


_KINDS = get_args(Figure.model_fields["what"].annotation)


def _fields_of_figure(text: str) -> dict[str, str]:
    known = (*_KINDS, "threat", "attack", "n", "dataset", "images")
    given: dict[str, str] = {}
    for piece in text.split(",") if text.strip() else ():
        key, equals, value = (part.strip() for part in piece.partition("="))
        if not (equals and key and value):
            raise InvalidInput(
                "--figure is proven=9420/10000,threat=linf:0.1,source=TEXT and so on, got the part "
                f"{piece.strip()!r}"
            )
        if key not in known:
            raise unknown_name("field of --figure", key, (*known, "source"))
        if key in given:
            raise InvalidInput(f"--figure states {key} twice: {text!r}")
        given[key] = value
    return given


def _share(value: str, kind: str) -> str:
    """The share that `94.2%` or `0.942` means, its digits kept: they say how it was rounded."""
    found = re.fullmatch(r"(\d{1,3}(?:\.\d{1,7})?)\s*(%?)", value, re.ASCII)
    share = Decimal(found[1]).scaleb(-2 if found[2] else 0) if found else None
    if share is None or share > 1:
        meant = (
            f" Did you mean {value}%?" if found and not found[2] and float(found[1]) <= 100 else ""
        )
        raise InvalidInput(
            f"--figure {kind} is 9420/10000, 94.2% or 0.942, got {value[:40]!r}.{meant}"
        )
    return f"{share:f}"
