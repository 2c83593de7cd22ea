"""The command line of training: python -m awp_train list | run | resume | all | choose | demo."""

from __future__ import annotations

import argparse
import inspect
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from awp_train.presets import PRESETS, check, find, fitted_arguments, pair_name, run_name
from bench import parallel
from bench.catalogue import DATASETS, dataset_info
from bench.schema import AwpConfig, BenchError, InvalidInput, TrainConfig

LONG = 2 * 3600  # seconds of estimated time from which on a call wants --yes
_NESTED = "awp."


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command: 0 done, 1 training failed, 2 the call was wrong, 130 interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    call = _parser().parse_args(words)
    call.words = words
    try:
        return call.command(call)
    except InvalidInput as error:
        return _say(f"error: {error}", 2)
    except BenchError as error:
        return _say(f"error: {error}", 1)
    except KeyboardInterrupt:
        return _say("interrupted", 130)


# ---------------------------------------------------------------- commands


def list_presets(call: argparse.Namespace) -> int:
    """Prints name, cost, description and source of every preset."""
    width = max(map(len, PRESETS))
    cost = max(len(p.cost) for p in PRESETS.values())
    for name, preset in PRESETS.items():
        print(f"{name:{width}}  {preset.cost:{cost}}  {preset.description} [{preset.source}]")
    return 0


def run(call: argparse.Namespace) -> int:
    """Trains one preset, with fields changed where asked."""
    config = configured(find(call.preset).config, _given(call))
    name = call.name or run_name(call.preset, config)
    return _train(config, name, pair_name(call.preset, config), call)


def resume(call: argparse.Namespace) -> int:
    """Goes on with an interrupted run."""
    from awp_train.state import read_run

    run = read_run(call.runs, call.run)
    call.yes = True  # its start was confirmed
    return _train(run.config, call.run, run.pair, call)


def train_all(call: argparse.Namespace) -> int:
    """Trains every preset of a data set over seeds, several at a time."""
    from awp_train.pool import Job, train_jobs

    dataset_info(call.dataset)
    here = [name for name, preset in PRESETS.items() if preset.config.dataset == call.dataset]
    # Whole words: `at` is not in `natural`.
    chosen = [name for name in here if f"-{call.only}-" in f"-{name}-" or not call.only]
    if not here:
        raise InvalidInput(
            f"there is no preset of {call.dataset} yet; see python -m awp_train list"
        )
    if not chosen:
        raise InvalidInput(f"no preset of {call.dataset} named {call.only!r}: {', '.join(here)}")
    jobs = []
    for preset in chosen:
        changed = {"arch": call.arch} if call.arch else {}
        for seed in parse_seeds(call.seeds):
            config = configured(PRESETS[preset].config, changed | {"seed": str(seed)})
            pair = pair_name(preset, config)
            jobs.append(Job(run_name(preset, config), config, pair, call.out, call.runs))
    again = "python -m awp_train " + shlex.join(call.words)
    return train_jobs(jobs, workers=call.workers, longest=None if call.yes else LONG, again=again)


def choose(call: argparse.Namespace) -> int:
    """Tries a family's grid on validation images and prints what it says."""
    from awp_train import choice

    print(choice.choose(call.family, out=call.out, workers=call.workers or parallel.cores()))
    return 0


def demo(call: argparse.Namespace) -> int:
    """The main job on an embedded default."""
    from awp_train.demo import demo as run_demo

    return run_demo(home=call.out, workers=call.workers)


def _train(config: TrainConfig, name: str, pair: str | None, call: argparse.Namespace) -> int:
    check(config)
    from awp_train.cards import finished
    from awp_train.cost import described, estimated_seconds
    from awp_train.train import train

    if not finished(config, name, call.out):
        _say(f"{name}: {config.model_dump_json(exclude_none=True)}")
        seconds = estimated_seconds(config)
        _say(f"{name}: estimated time {described(seconds)} from the start")
        if seconds > LONG and not call.yes:
            again = "python -m awp_train " + shlex.join(call.words)
            return _say(f"That is over {described(LONG)}. To start it: {again} --yes", 2)
    try:
        written = train(config, name=name, pair=pair, out=call.out, runs=call.runs)
    except KeyboardInterrupt:
        return _say(f"interrupted. Go on with: {_resume_command(call, name)}", 130)
    print(*written, sep="\n")
    return 0


def _resume_command(call: argparse.Namespace, name: str) -> str:
    folders = "".join(
        f" --{flag} {value}"
        for flag, value in (("out", call.out), ("runs", call.runs))
        if value != _FOLDERS[flag]
    )
    return f"python -m awp_train resume {name}{folders}"


# ---------------------------------------------------------------- configuration from flags


def configured(config: TrainConfig, given: dict[str, str]) -> TrainConfig:
    """A configuration with fields replaced by texts, `awp.gamma` for nested ones.

    Another architecture or data set brings its own arguments: channels, image size, classes. Raises
    InvalidInput with one readable line.
    """
    fields: dict[str, Any] = config.model_dump()
    nested = {k.removeprefix(_NESTED): v for k, v in given.items() if k.startswith(_NESTED)}
    plain = {k: _value(k, v) for k, v in given.items() if not k.startswith(_NESTED)}
    if "awp" in plain and nested:
        raise InvalidInput("--awp none and --awp.… contradict each other")
    if nested:
        fields["awp"] = (config.awp or AwpConfig()).model_dump() | nested
    fields |= plain
    if {"arch", "dataset", "arch_args"} & plain.keys():
        same = fields["arch"] == config.arch and fields["dataset"] == config.dataset
        kept = config.arch_args if same else {}
        others = {**kept, **plain.get("arch_args", {})}
        fields["arch_args"] = fitted_arguments(fields["arch"], fields["dataset"], **others)
    try:
        return TrainConfig.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        flag = ".".join(str(part) for part in first["loc"])
        raise InvalidInput(f"--{flag}: {first['msg'].removeprefix('Value error, ')}") from None


def _value(field: str, text: str) -> Any:
    """What a flag's text means where pydantic cannot see it."""
    if text.lower() == "none" and field != "augment":
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


def _given(call: argparse.Namespace) -> dict[str, str]:
    flags = (*TrainConfig.model_fields, *(_NESTED + f for f in AwpConfig.model_fields))
    return {f: getattr(call, f) for f in flags if getattr(call, f) is not None}


# ---------------------------------------------------------------- arguments

_FOLDERS = {"out": Path("var/checkpoints"), "runs": Path("var/runs")}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m awp_train", description="Trains classifiers with and without AWP."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, function: Any, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        added.set_defaults(command=function)
        if function is not list_presets:
            added.add_argument("--out", type=Path, default=_FOLDERS["out"], help="checkpoints")
            added.add_argument("--runs", type=Path, default=_FOLDERS["runs"], help="run states")
            added.add_argument("--yes", action="store_true", help="start even above 2 hours")
        return added

    command("list", list_presets, "presets with cost, description and source")

    one = command("run", run, "train one preset; every field of it can be given as a flag")
    one.add_argument("preset", metavar="PRESET")
    one.add_argument("--name", help="of the run; by default preset, changed fields and seed")
    for prefix, model in (("", TrainConfig), (_NESTED, AwpConfig)):
        for field, meaning in _meanings(model).items():
            one.add_argument(f"--{prefix}{field}", metavar="VALUE", help=meaning)

    again = command("resume", resume, "go on with an interrupted run")
    again.add_argument("run", metavar="RUN")

    many = command("all", train_all, "train every preset of a data set over seeds")
    many.add_argument("--dataset", required=True, metavar="|".join(DATASETS))
    many.add_argument("--arch", help="instead of the presets' architecture")
    many.add_argument(
        "--only", default="", metavar="TEXT", help="presets named so, e.g. subset or at-awp"
    )
    many.add_argument(
        "--seeds", default="6", help="a count, or 0,1,2; default 6, as headlines need"
    )
    many.add_argument("--workers", type=int, help="runs at a time; default: cores, or 1 on a GPU")

    for name, function, text, out in (
        (
            "choose",
            choose,
            "choose gamma, warm-up and budget on validation images",
            "results/choices",
        ),
        ("demo", demo, "train, attack and compare on digits; make demo calls this", "var/demo"),
    ):
        added = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        added.set_defaults(command=function)
        if function is choose:
            added.add_argument("family", metavar="FAMILY", help="digits and so on")
        added.add_argument("--out", type=Path, default=Path(out))
        added.add_argument("--workers", type=int)
    return parser


def _meanings(model: type[BaseModel]) -> dict[str, str]:
    """Field -> the comment behind it in the schema, which is where fields are explained."""
    lines = inspect.getsource(model).splitlines()
    texts = {line.split(":")[0].strip(): line.partition("  # ")[2] for line in lines}
    return {field: texts.get(field, "").replace("%", "%%") for field in model.model_fields}


def _say(text: str, status: int = 0) -> int:
    print(text, file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
