"""A configuration from the texts of flags: `--epochs 40 --awp.gamma 0.005`."""

from __future__ import annotations

import argparse
import difflib
import inspect
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from awp_train.recipes import fitted_arguments
from bench.schema import AwpConfig, InvalidInput, TrainConfig

_NESTED = "awp."
# Fields that are read from a file or folder, which the call names instead.
FILES = {
    "extra": "file of pseudo-labelled images (made by pseudo-label, or RST's and DDPM's own)",
    "start": "checkpoint folder that fine-tuning starts from",
}
FRACTION = "extra.fraction"
_PLAIN = tuple(field for field in TrainConfig.model_fields if field not in FILES)


def add(parser: argparse.ArgumentParser) -> None:
    """A flag for every field, with the meaning that the schema gives it."""
    for prefix, model in (("", TrainConfig), (_NESTED, AwpConfig)):
        for field, meaning in _meanings(model).items():
            if prefix or field in _PLAIN:
                parser.add_argument(f"--{prefix}{field}", metavar="VALUE", help=meaning)
    add_files(parser)


def add_files(parser: argparse.ArgumentParser) -> None:
    """The flags of what lies outside the data set."""
    parser.add_argument("--extra", metavar="FILE", help=FILES["extra"])
    parser.add_argument(f"--{FRACTION}", metavar="VALUE", help="share of each batch drawn from it")
    parser.add_argument("--start", metavar="FOLDER", help=FILES["start"])


def given(call: argparse.Namespace) -> dict[str, str]:
    """Field -> text of every plain or nested field that the call gives."""
    flags = (*_PLAIN, *(_NESTED + f for f in AwpConfig.model_fields))
    return {f: getattr(call, f) for f in flags if getattr(call, f) is not None}


def unknown(command: str, arguments: Sequence[str]) -> InvalidInput:
    """The error for what a command does not take; of a run the flag that may be meant is told.

    `--gamma` is `--awp.gamma`, and `--eps` a part of `--threat`.
    """
    flag = next((a for a in arguments if a.startswith("-")), arguments[0]).split("=")[0]
    name = flag.lstrip("-").replace("-", "_")
    fields = (*_PLAIN, *FILES, FRACTION, *(_NESTED + f for f in AwpConfig.model_fields))
    near = [f for f in fields if f.rpartition(".")[2] == name] or difflib.get_close_matches(
        name, fields, n=1, cutoff=0.7
    )
    hint = f" Did you mean --{near[0]}?" if near else ""
    if name in ("eps", "epsilon", "norm"):
        hint = " The ball is one flag: --threat linf:8/255."
    return InvalidInput(
        f"{command} takes no {flag}.{hint if command == 'run' else ''} "
        f"What it takes is listed by: python -m awp_train {command} --help"
    )


def configured(config: TrainConfig, texts: dict[str, str]) -> TrainConfig:
    """A configuration with fields replaced by texts, `awp.gamma` for nested ones.

    Another architecture or data set brings its own arguments: channels, image size, classes. Raises
    InvalidInput with one readable line.
    """
    nested = {k.removeprefix(_NESTED): v for k, v in texts.items() if k.startswith(_NESTED)}
    plain = {k: value_of(k, v) for k, v in texts.items() if not k.startswith(_NESTED)}
    if "awp" in plain and nested:
        raise InvalidInput("--awp none and --awp.… contradict each other")
    if nested:
        several = {k: v.split(",") for k, v in nested.items() if k in ("include", "exclude")}
        plain["awp"] = (config.awp or AwpConfig()).model_dump() | nested | several
    if {"arch", "dataset", "arch_args"} & plain.keys():
        config = _another_network(config, plain)
    try:
        return TrainConfig.model_validate(config.model_dump() | plain)
    except ValidationError as error:
        first = error.errors()[0]
        flag = ".".join(str(part) for part in first["loc"])
        raise InvalidInput(f"--{flag}: {first['msg'].removeprefix('Value error, ')}") from None


def _another_network(config: TrainConfig, plain: dict[str, Any]) -> TrainConfig:
    """The network fitted to its data set; takes arch, dataset and arch_args out of plain."""
    arch, dataset = plain.pop("arch", config.arch), plain.pop("dataset", config.dataset)
    same = (arch, dataset) == (config.arch, config.dataset)
    kept = config.arch_args if same else {}
    arguments = fitted_arguments(arch, dataset, **{**kept, **plain.pop("arch_args", {})})
    return config.model_copy(update={"arch": arch, "dataset": dataset, "arch_args": arguments})


def value_of(field: str, text: str) -> Any:
    """What a flag's text means where pydantic cannot see it."""
    if text.lower() == "none" and field not in ("augment", "averaging"):
        return None
    if field in ("milestones", "mean", "std"):
        return [part for part in text.split(",") if part]
    if field == "arch_args":
        pairs = [part.partition("=") for part in text.split(",") if part]
        return {key: _number(value) for key, _, value in pairs}
    if field == "awp":
        raise InvalidInput(
            f"--awp takes only none, got {text!r}; fields: --awp.gamma 0.01 and so on"
        )
    return text


def _number(text: str) -> int | float | str:
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
    try:
        fraction = 0.5 if text is None else float(text)
    except ValueError:
        fraction = -1.0
    if not 0 < fraction < 1:
        raise InvalidInput(f"--{FRACTION} lies between 0 and 1, got {text!r}")
    return fraction


def _meanings(model: type[BaseModel]) -> dict[str, str]:
    """Field -> the comment behind it in the schema, which is where fields are explained."""
    lines = inspect.getsource(model).splitlines()
    texts = {line.split(":")[0].strip(): line.partition("  # ")[2] for line in lines}
    return {field: texts.get(field, "").replace("%", "%%") for field in model.model_fields}
