"""A configuration from the texts of flags: `--epochs 40 --awp.gamma 0.005`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bench.catalogue import LONGEST_NAME, fitted_arguments, nearest
from bench.schema import AwpConfig, InvalidInput, OwnImages, ThreatModel, TrainConfig

_NESTED = "awp."
FRACTION = "extra.fraction"
# The flags of what lies outside the data set: the call names a file or folder, which fields describe.
OF_FILES: dict[str, dict[str, Any]] = {
    "--extra": {
        "type": Path,
        "metavar": "FILE",
        "help": "file of pseudo-labelled images (made by pseudo-label, or RST's and DDPM's own)",
    },
    f"--{FRACTION}": {"metavar": "VALUE", "help": "share of each batch drawn from it"},
    "--start": {
        "type": Path,
        "metavar": "FOLDER",
        "help": "checkpoint folder that fine-tuning starts from",
    },
}
# Field, `awp.gamma` for a nested one -> its meaning.
_MEANINGS = {
    prefix + name: field.description or ""
    for prefix, model in (("", TrainConfig), (_NESTED, AwpConfig))
    for name, field in model.model_fields.items()
    if f"--{prefix}{name}" not in OF_FILES and name != "own"  # which --dataset says
}


def of_fields(*but: str) -> dict[str, dict[str, Any]]:
    """A flag for every field, with the meaning that the schema gives it, as argparse reads it."""
    return {
        f"--{field}": {"metavar": "VALUE", "help": meaning.replace("%", "%%")}
        for field, meaning in _MEANINGS.items()
        if field not in but
    }


def given(call: argparse.Namespace) -> dict[str, str]:
    """Field -> text of every plain or nested field that the call gives."""
    return {f: getattr(call, f) for f in _MEANINGS if getattr(call, f, None) is not None}


def fitting(texts: dict[str, str], config: TrainConfig) -> dict[str, str]:
    """The texts for one of many runs: fields of AWP where its weights are perturbed."""
    return {f: t for f, t in texts.items() if config.awp is not None or not f.startswith(_NESTED)}


def unknown(command: str, arguments: Sequence[str]) -> InvalidInput:
    """The error for what a command does not take; of a run the flag that may be meant is told.

    `--gamma` is `--awp.gamma`, and `--eps` a part of `--threat`.
    """
    flag = next((a for a in arguments if a.startswith("-")), arguments[0]).split("=")[0][:100]
    name = flag.lstrip("-").replace("-", "_")
    fields = (*_MEANINGS, *(flag.removeprefix("--") for flag in OF_FILES))
    near = [f for f in fields if f.rpartition(".")[2] == name]
    near = near or nearest(name, fields, cutoff=0.7)
    hint = f" Did you mean --{near[0]}?" if near else ""
    if name in ("eps", "epsilon", "norm"):
        hint = " The ball is one flag: --threat linf:8/255."
    return InvalidInput(
        f"{command} takes no {flag[:LONGEST_NAME]}.{hint if command == 'run' else ''} "
        f"What it takes is listed by: python -m awp_train {command} --help"
    )


def configured(
    config: TrainConfig, texts: dict[str, str], own: OwnImages | None = None
) -> TrainConfig:
    """A configuration with fields replaced by texts, `awp.gamma` for nested ones.

    Another architecture or data set brings its own arguments: channels, image size, classes; own says
    them of images of one's own. Raises InvalidInput with one readable line.
    """
    nested = {k.removeprefix(_NESTED): v for k, v in texts.items() if k.startswith(_NESTED)}
    plain = {k: value_of(k, v) for k, v in texts.items() if not k.startswith(_NESTED)}
    if own is not None:
        plain = _of_own(config, own) | plain
    if plain.get("dataset", config.dataset) != config.dataset:
        plain = {"train_indices": None} | plain  # they were places in the other one
    if "awp" in plain and nested:
        raise InvalidInput("--awp none and --awp.… contradict each other")
    if nested:
        values = {k: value_of(k, v) for k, v in nested.items()}
        several = {k: v.split(",") for k, v in nested.items() if k in ("include", "exclude")}
        plain["awp"] = (config.awp or AwpConfig()).model_dump() | values | several
    if {"arch", "dataset", "arch_args"} & plain.keys():
        arch, dataset = plain.get("arch", config.arch), plain.get("dataset", config.dataset)
        same = (arch, dataset) == (config.arch, config.dataset)
        others = (config.arch_args if same else {}) | (plain.get("arch_args") or {})
        plain["arch_args"] = fitted_arguments(arch, dataset, own, **others)
    try:
        return TrainConfig.model_validate(config.model_dump() | plain)
    except ValidationError as error:
        first = error.errors()[0]
        flag = ".".join(str(part) for part in first["loc"])
        raise InvalidInput(f"--{flag}: {first['msg'].removeprefix('Value error, ')}") from None


def _of_own(config: TrainConfig, own: OwnImages) -> dict[str, Any]:
    """The fields that follow from images of one's own: a fifth of them, at most, validate."""
    fields: dict[str, Any] = {"own": own, "n_train": None}
    fields["n_validation"] = min(config.n_validation, own.n_train // 5)
    if config.mean is not None and len(config.mean) != own.channels:
        fields |= {"mean": None, "std": None}
    return fields


def value_of(field: str, text: str) -> Any:
    """What a flag's text means where pydantic cannot see it."""
    if text.lower() == "none" and field not in ("augment", "averaging"):
        return None
    if field == "threat":
        try:
            return str(ThreatModel.asked(text))
        except InvalidInput as error:
            raise InvalidInput(f"--threat: {error}") from None
    if field in ("milestones", "mean", "std"):
        return [part for part in text.split(",") if part]
    if field == "arch_args":
        pairs = [part.partition("=") for part in text.split(",") if part]
        return {key: number(value) for key, _, value in pairs}
    if field == "awp":
        raise InvalidInput(
            f"--awp takes only none, got {text!r}; fields: --awp.gamma 0.01 and so on"
        )
    return text


def number(text: str) -> int | float | str:
    """The number that a text writes, or the text."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def parse_seeds(text: str) -> list[int]:
    """`3` is a count: seeds 0, 1, 2; `0,4` or `7,` are the seeds themselves."""
    try:
        seeds = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        seeds = [-1]
    if "," not in text and seeds:
        seeds = list(range(seeds[0]))
    if not seeds or min(seeds) < 0:
        raise InvalidInput(f"--seeds takes a count such as 6 or a list such as 0,1,2; got {text!r}")
    return sorted(set(seeds))


def parse_fraction(text: str | None) -> float:
    """The share of extra images in a batch; InvalidInput outside 0 to 1."""
    fraction = 0.5 if text is None else number(text)
    if isinstance(fraction, str) or not 0 < fraction < 1:
        raise InvalidInput(f"--{FRACTION} lies between 0 and 1, got {text!r}")
    return fraction
