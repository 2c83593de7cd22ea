"""The command line of training: python -m awp_train list | run | resume | all | study | choose | …"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from awp_train import flags
from awp_train.presets import family_for, find, trained_for
from bench.catalogue import OBJECTIVES
from bench.cli.arguments import failed, not_installed
from bench.cli.interrupt import INTERRUPTED, exit_with
from bench.cli.terminal import plain_streams
from bench.schema import BenchError, InvalidInput

if TYPE_CHECKING:
    from awp_train.run_files import Places
    from bench.schema import OwnImages

# What the commands do is imported where they are called, so that others stay quick.


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command: 0 done, 1 training failed, 2 the call was wrong, 130 interrupted."""
    with plain_streams():
        return _answered(arguments)


def _answered(arguments: Sequence[str] | None) -> int:
    words = list(sys.argv[1:] if arguments is None else arguments)
    call, unknown = _parser().parse_known_args(words)
    call.again = "python -m awp_train " + shlex.join(words)
    try:
        if unknown:
            raise flags.unknown(words[0], unknown)
        return call.command(call)
    except InvalidInput as error:
        return _say(f"error: {error}", 2)
    except BenchError as error:
        return _say(f"error: {error}", 1)
    except OSError as error:
        return failed(error)
    except ModuleNotFoundError as error:
        return not_installed(error)
    except KeyboardInterrupt:
        return _say("interrupted", INTERRUPTED)


# ---------------------------------------------------------------- commands


def list_presets(call: argparse.Namespace) -> int:
    """Prints the presets, or those of one data set, with cost and source."""
    from awp_train.listing import listing

    print(listing(call.dataset))
    return 0


def run(call: argparse.Namespace) -> int:
    """Trains one preset, with fields changed where asked, and first what it needs."""
    from awp_train.plan import asked_for, job_of

    texts = flags.given(call)
    files, places = _files(call)
    dataset, own, places = _images(call.dataset, places)
    if dataset:
        texts["dataset"] = dataset
    config = flags.configured(find(call.preset).config, texts, own).model_copy(update=files)
    asked_for(call.preset, config)
    job = job_of(call.preset, config, out=call.out, runs=call.runs, places=places, name=call.name)
    return _train_in_order(job, call)


def resume(call: argparse.Namespace) -> int:
    """Goes on with an interrupted run."""
    from awp_train.plan import Job
    from awp_train.run_files import read_run

    before = read_run(call.runs, call.run)
    call.yes = True  # its start was confirmed
    job = Job(
        call.run, before.config, before.pair, call.out, call.runs, before.control_of, before.places
    )
    return _train_in_order(job, call)


def train_all(call: argparse.Namespace) -> int:
    """Trains the presets of a family over seeds, several at a time."""
    from awp_train.plan import LONG, asked_for, job_of, train_jobs

    here = trained_for(family_for(call.dataset, call.family), controls=call.controls)
    # Whole words: `at` is not in `natural`.
    chosen = [name for name in here if f"-{call.only}-" in f"-{name}-" or not call.only]
    if not chosen:
        raise InvalidInput(
            f"no preset of {call.family or call.dataset} named {call.only!r}: {', '.join(here)}"
        )
    files, places = _files(call)
    changed = {field: text for field, text in flags.given(call).items() if field != "dataset"}
    own = None
    if call.family:
        dataset, own, places = _images(call.dataset, places)
        changed["dataset"] = dataset
    jobs = []
    for preset in chosen:
        for seed in flags.parse_seeds(call.seeds):
            base = find(preset).config
            texts = flags.fitting(changed, base) | {"seed": str(seed)}
            config = flags.configured(base, texts, own)
            # Of the files given for many runs, those that a run of this method takes.
            needs = OBJECTIVES[config.objective]
            takes = {"extra": needs.unlabelled > 0, "start": needs.starts}
            config = config.model_copy(update={k: v for k, v in files.items() if takes[k]})
            asked_for(preset, config)
            jobs.append(job_of(preset, config, out=call.out, runs=call.runs, places=places))
    longest = None if call.yes else LONG
    done = train_jobs(jobs, workers=call.workers, longest=longest, again=call.again)
    for job in done:
        for which in ("best", "last"):
            folder = job.out / f"{job.name}-{which}"
            if call.kept in (which, "all") and folder.exists():
                print(folder)
    return 0 if len(done) == len(jobs) else 1


def choose_settings(call: argparse.Namespace) -> int:
    """Tries what is missing of arms and grids on validation images, and prints what they say."""
    from awp_train.plan import LONG
    from awp_train.run_choice import asked, choose

    text = choose(
        asked(call.names, call.only),
        out=call.out,
        home=call.runs,
        workers=call.workers,
        longest=None if call.yes else LONG,
        again=call.again,
    )
    print(text)
    return 0


def study(call: argparse.Namespace) -> int:
    """Trains and measures what a study still lacks, and prints what it says."""
    from awp_train.plan import LONG
    from awp_train.run_study import run_study

    text = run_study(
        call.study,
        seeds=flags.parse_seeds(call.seeds) if call.seeds else None,
        only=call.only,
        out=call.out,
        checkpoints=call.checkpoints,
        runs=call.runs,
        workers=call.workers,
        longest=None if call.yes else LONG,
        again=call.again,
    )
    print(text)
    return 0


def demo(call: argparse.Namespace) -> int:
    """The main job on an embedded default."""
    from awp_train.demo import demo

    return demo(home=call.out, workers=call.workers)


def pseudo_label(call: argparse.Namespace) -> int:
    """Labels images with a trained network, and prints the file."""
    from awp_train import extra_images

    return extra_images.run(call)


def official(call: argparse.Namespace) -> int:
    """Draws a run over the official curve."""
    from awp_train import official

    return official.run(call)


def tensorboard(call: argparse.Namespace) -> int:
    """Writes the event files of logged runs."""
    from awp_train import tensorboard

    return tensorboard.run(call)


def retell(call: argparse.Namespace) -> int:
    """Writes the files of all studies again, or says which are stale."""
    from awp_train import retell

    return retell.run(call)


def _train_in_order(last: Any, call: argparse.Namespace) -> int:
    """Trains a job after what it needs, one after another; prints its checkpoint folders."""
    from awp_train import plan
    from awp_train.checks import check, check_settings, remarks

    order = [job for stage in plan.stages([last]) for job in stage]
    check_settings(last.config)
    if not last.needs:
        check(last.config)
    waiting = [job for job in order if not plan.is_finished(job)]
    if waiting:
        for job in waiting:
            _say(f"{job.name}: {job.config.model_dump_json(exclude_none=True)}")
            for remark in remarks(job.config):
                _say(f"{job.name}: note: {remark}")
        seconds = plan.estimated(waiting)
        first = [job.name for job in waiting if job is not last]
        also = f", {', '.join(first)} included" if first else ""
        _say(f"{last.name}: estimated time {plan.duration(seconds)} from the start{also}")
        if seconds > plan.LONG and not call.yes:
            over = f"That is over {plan.duration(plan.LONG)}"
            return _say(f"{over}. To start it: {call.again} --yes", 2)
    written: list[Path] = []
    for job in order:
        job = plan.prepared(job) if job.needs else job
        check(job.config)
        try:
            written = plan.train_one(job, tensorboard=call.tensorboard)
        except KeyboardInterrupt:
            folders = "".join(
                f" {flag} {value}"
                for flag, value in (("--out", call.out), ("--runs", call.runs))
                if value != _FOLDERS[flag]["default"]
            )
            _say(f"interrupted. Go on with: python -m awp_train resume {job.name}{folders}")
            raise
    print(*written, sep="\n")
    return 0


def _files(call: argparse.Namespace) -> tuple[dict[str, Any], Places]:
    """The fields that files and folders of the call stand for, and where they lie."""
    from awp_train.run_files import Places, describe_start

    fields: dict[str, Any] = {}
    fraction = getattr(call, flags.FRACTION)
    if call.extra:
        from awp_train.extra_images import describe_extra

        fields["extra"] = describe_extra(call.extra, fraction=flags.parse_fraction(fraction))
    elif fraction is not None:
        raise InvalidInput(f"--{flags.FRACTION} belongs to --extra FILE")
    if call.start:
        fields["start"] = describe_start(call.start)
    return fields, Places(call.extra, call.start)


def _images(dataset: str | None, places: Places) -> tuple[str, OwnImages | None, Places]:
    """The data set's name and, where a form and a folder are given, what lies there and where."""
    if dataset is None or ":" not in dataset:
        return dataset or "", None, places
    from bench.datasets import own_images

    try:
        name, own = own_images(dataset)
    except InvalidInput as error:
        raise InvalidInput(f"--dataset: {error}") from None
    form, _, folder = dataset.partition(":")
    whole = Path(folder).expanduser().resolve()
    return name, own, replace(places, data=f"{form}:{whole}")


# ---------------------------------------------------------------- arguments

# Flag -> how argparse reads it.
_FOLDERS: dict[str, dict[str, Any]] = {
    "--out": {"type": Path, "default": Path("var/checkpoints"), "help": "checkpoints"},
    "--runs": {"type": Path, "default": Path("var/runs"), "help": "run states"},
    "--yes": {"action": "store_true", "help": "start even above 2 hours"},
}
_WATCHED: dict[str, dict[str, Any]] = {
    "--tensorboard": {
        "type": Path, "metavar": "DIR", "help": "write TensorBoard's files there too",
    },
}  # fmt: skip
_LOGGED = {"metavar": "RUN", "help": "a run, a checkpoint folder, or a train.jsonl"}
_WORKERS = {"type": int, "help": "at a time; default: cores, or 1 on a GPU"}
# Command -> what runs it, its one line, its arguments.
COMMANDS: dict[str, tuple[Any, str, dict[str, dict[str, Any]]]] = {
    "list": (
        list_presets,
        "presets with cost and source",
        {"--dataset": {"help": "those of one data set or family alone"}},
    ),
    "run": (
        run,
        "train one preset; every field of it can be given as a flag",
        {
            "preset": {"metavar": "PRESET"},
            "--name": {"help": "of the run; by default preset, changed fields and seed"},
            **flags.of_fields(),
            **flags.OF_FILES,
            **_FOLDERS,
            **_WATCHED,
        },
    ),
    "resume": (
        resume,
        "go on with an interrupted run",
        {"run": {"metavar": "RUN"}, **_FOLDERS, **_WATCHED},
    ),
    "all": (
        train_all,
        "train natural and all methods with and without AWP, over seeds; fields of all can be given",
        {
            **flags.of_fields("seed", "awp"),
            "--dataset": {
                "required": True, "metavar": "D",
                "help": "a family of presets (digits, cifar10-l2 …); with --family a data set, or "
                "parquet:, arrays: or imagefolder:FOLDER",
            },
            "--family": {"help": "whose presets are trained on a data set that has none"},
            "--controls": {"action": "store_true", "help": "and the controls of AWP"},
            "--only": {
                "default": "", "metavar": "TEXT", "help": "presets named so, e.g. trades or at-awp",
            },
            "--seeds": {
                "default": "6", "help": "a count, or 0,1,2; default 6, as headlines need",
            },
            "--workers": _WORKERS,
            "--kept": {
                "choices": ("last", "best", "all"), "default": "all",
                "help": "folders that are printed",
            },
            **flags.OF_FILES,
            **_FOLDERS,
        },
    ),
    "study": (
        study,
        "train, measure and compare what a study asks",
        {
            "study": {"metavar": "NAME", "help": "digits-methods and so on"},
            "--seeds": {"help": "a count, or 0,1,2; default: the study's own"},
            "--only": {"help": "a word of its arms, such as n_train=2000; the others as they are"},
            "--workers": _WORKERS,
            "--checkpoints": _FOLDERS["--out"],
            **_FOLDERS,
            "--out": {"type": Path, "default": Path("results"), "help": "records and summary"},
        },
    ),
    "choose": (
        choose_settings,
        "choose weight decay, gamma and the like on validation images; what is tried is kept",
        {
            "names": {
                "metavar": "NAME", "nargs": "+",
                "help": "an arm such as digits-at-awp-tuned, a grid such as digits, or all: every arm",
            },
            "--only": {"metavar": "TEXT", "help": "arms named so, e.g. digits or trades-awp-tuned"},
            "--workers": _WORKERS,
            **_FOLDERS,
            "--out": {
                "type": Path, "default": Path("results/choices"), "help": "a list of tries a name"
            },
            "--runs": {"type": Path, "default": Path("var/choices"), "help": "networks and states"},
        },
    ),
    "demo": (
        demo,
        "train, attack and compare on digits; make demo calls this",
        {"--out": {"type": Path, "default": Path("var/demo")}, "--workers": {"type": int}},
    ),
    "pseudo-label": (
        pseudo_label,
        "label images with a trained network, for rst",
        {
            "teacher": {"type": Path, "metavar": "TEACHER", "help": "a checkpoint folder"},
            "--dataset": {
                "metavar": "FORM:FOLDER", "help": "where the teacher's images lie, if one's own"
            },
            "--n": {"type": int, "help": "label the first N images; default: all there are"},
            "--images": {
                "type": Path, "metavar": "FILE",
                "help": "images of your own (.npz with images and layout, or with image); "
                "default: those of the data set that the teacher left",
            },
            "--out": {
                "type": Path, "default": Path("var/extra"), "help": "folder, default var/extra",
            },
        },
    ),
    "official": (
        official,
        "draw a run over the authors' published curve",
        {
            "run": _LOGGED,
            "--official": {
                "metavar": "NAME", "help": "such as cifar10_linf/preactresnet18_awp; default: that "
                "of the run's own settings",
            },
            "--curves": {"type": Path, "help": "file of official curves"},
            "--out": {"type": Path, "help": "an .html file; default var/official/<run>.html"},
        },
    ),
    "tensorboard": (
        tensorboard,
        "TensorBoard's files of a run that was logged",
        {
            "runs": {**_LOGGED, "nargs": "+"},
            "--out": {
                "type": Path, "default": Path("var/tensorboard"),
                "help": "folder, default var/tensorboard",
            },
        },
    ),
    "retell": (
        retell,
        "write the files of all studies, and what README says of them, again from their records",
        {
            "--out": {"type": Path, "default": Path("results"), "help": "records and summaries"},
            "--check": {
                "action": "store_true",
                "help": "write nothing; exit 1 where a file is not up to date",
            },
        },
    ),
}  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m awp_train", description="Trains classifiers with and without AWP."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (function, text, arguments) in COMMANDS.items():
        added = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        added.set_defaults(command=function)
        for flag, how in arguments.items():
            added.add_argument(flag, **how)
    return parser


def _say(text: str, status: int = 0) -> int:
    print(text, file=sys.stderr)
    return status


def script() -> NoReturn:
    """`awp-train`, where it is installed: as `python -m awp_train`."""
    exit_with(main)


if __name__ == "__main__":
    script()
