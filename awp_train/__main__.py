"""The command line of training: python -m awp_train list | run | resume | all | study | choose | …"""

from __future__ import annotations

import argparse
import importlib
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from awp_train import flags
from awp_train.presets import family_of, find
from bench.cli.interrupt import INTERRUPTED, exit_with
from bench.measure import processes
from bench.schema import BenchError, InvalidInput, TrainConfig

LONG = 2 * 3600  # seconds of estimated time from which on a call wants --yes
# Commands whose modules bring their own arguments: loaded only where they are called, so that the
# others stay quick. Each has add_arguments(parser) and run(call) -> exit status.
ELSEWHERE = {
    "pseudo-label": ("awp_train.extra_images", "label images with a trained network, for rst"),
    "official": ("awp_train.official", "draw a run over the authors' published curve"),
    "tensorboard": ("awp_train.tensorboard", "TensorBoard's files of a run that was logged"),
    "retell": ("awp_train.retell", "write the files of all studies again from their records"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command: 0 done, 1 training failed, 2 the call was wrong, 130 interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    call, unknown = _parser(words).parse_known_args(words)
    call.words = words
    try:
        if unknown:
            raise flags.unknown(words[0], unknown)
        return call.command(call)
    except InvalidInput as error:
        return _say(f"error: {error}", 2)
    except BenchError as error:
        return _say(f"error: {error}", 1)
    except KeyboardInterrupt:
        return _say("interrupted", INTERRUPTED)


# ---------------------------------------------------------------- commands


def list_presets(call: argparse.Namespace) -> int:
    """Prints every preset, or those of one data set, with cost and source."""
    from awp_train.listing import listing

    print(listing(call.dataset))
    return 0


def run(call: argparse.Namespace) -> int:
    """Trains one preset, with fields changed where asked, and first what it needs."""
    from awp_train.stages import asked_for, job_of

    config = flags.configured(find(call.preset).config, flags.given(call))
    files, places = _files(call)
    config = config.model_copy(update=files)
    asked_for(call.preset, config)
    job = job_of(call.preset, config, out=call.out, runs=call.runs, places=places, name=call.name)
    return _train_in_order(job, call)


def resume(call: argparse.Namespace) -> int:
    """Goes on with an interrupted run."""
    from awp_train.run_files import read_run
    from awp_train.stages import Job

    before = read_run(call.runs, call.run)
    call.yes = True  # its start was confirmed
    job = Job(
        call.run, before.config, before.pair, call.out, call.runs, before.control_of, before.places
    )
    return _train_in_order(job, call)


def train_all(call: argparse.Namespace) -> int:
    """Trains the presets of a family over seeds, several at a time."""
    from awp_train.pool import train_jobs
    from awp_train.stages import asked_for, job_of

    here = family_of(call.dataset, controls=call.controls)
    # Whole words: `at` is not in `natural`.
    chosen = [name for name in here if f"-{call.only}-" in f"-{name}-" or not call.only]
    if not chosen:
        raise InvalidInput(f"no preset of {call.dataset} named {call.only!r}: {', '.join(here)}")
    files, places = _files(call)
    jobs = []
    for preset in chosen:
        changed = {"arch": call.arch} if call.arch else {}
        for seed in flags.parse_seeds(call.seeds):
            config = flags.configured(find(preset).config, changed | {"seed": str(seed)})
            config = _with_own_files(preset, config, files)
            asked_for(preset, config)
            jobs.append(job_of(preset, config, out=call.out, runs=call.runs, places=places))
    done = train_jobs(
        jobs, workers=call.workers, longest=None if call.yes else LONG, again=_again(call)
    )
    for job in done:
        for which in ("best", "last"):
            folder = job.out / f"{job.name}-{which}"
            if call.kept in (which, "all") and folder.exists():
                print(folder)
    return 0 if len(done) == len(jobs) else 1


def choose(call: argparse.Namespace) -> int:
    """Tries a family's grid on validation images and prints what it says."""
    from awp_train import choice

    print(choice.choose(call.family, out=call.out, workers=call.workers or processes.cores()))
    return 0


def study(call: argparse.Namespace) -> int:
    """Trains and measures what a study still lacks, and prints what it says."""
    from awp_train.carry_out import carry_out

    print(
        carry_out(
            call.study,
            seeds=flags.parse_seeds(call.seeds) if call.seeds else None,
            only=call.only,
            out=call.out,
            checkpoints=call.checkpoints,
            runs=call.runs,
            workers=call.workers,
            longest=None if call.yes else LONG,
            again=_again(call),
        )
    )
    return 0


def demo(call: argparse.Namespace) -> int:
    """The main job on an embedded default."""
    from awp_train.demo import demo as run_demo

    return run_demo(home=call.out, workers=call.workers)


def _train_in_order(last: Any, call: argparse.Namespace) -> int:
    """Trains a job after what it needs, one after another; prints its checkpoint folders."""
    from awp_train.checks import check, check_settings, remarks
    from awp_train.cost import described, estimated_seconds
    from awp_train.pool import as_costly
    from awp_train.stages import is_finished, prepared, stages

    order = [job for stage in stages([last]) for job in stage]
    check_settings(last.config)
    if not last.needs:
        check(last.config)
    waiting = [job for job in order if not is_finished(job)]
    if waiting:
        for job in waiting:
            _say(f"{job.name}: {job.config.model_dump_json(exclude_none=True)}")
            for remark in remarks(job.config):
                _say(f"{job.name}: note: {remark}")
        seconds = sum(estimated_seconds(as_costly(job.config)) for job in waiting)
        first = [job.name for job in waiting if job is not last]
        also = f", {', '.join(first)} included" if first else ""
        _say(f"{last.name}: estimated time {described(seconds)} from the start{also}")
        if seconds > LONG and not call.yes:
            return _say(f"That is over {described(LONG)}. To start it: {_again(call)} --yes", 2)
    written: list[Path] = []
    for job in order:
        job = prepared(job) if job.needs else job
        check(job.config)
        written = _train(job, call)
    print(*written, sep="\n")
    return 0


def _train(job: Any, call: argparse.Namespace) -> list[Path]:
    from awp_train.train import train

    try:
        return train(
            job.config, name=job.name, pair=job.pair, control_of=job.control_of,
            places=job.places, out=job.out, runs=job.runs, tensorboard=call.tensorboard,
        )  # fmt: skip
    except KeyboardInterrupt:
        _say(f"interrupted. Go on with: {_resume_command(call, job.name)}")
        raise


def _resume_command(call: argparse.Namespace, name: str) -> str:
    folders = "".join(
        f" --{flag} {value}"
        for flag, value in (("out", call.out), ("runs", call.runs))
        if value != _FOLDERS[flag]
    )
    return f"python -m awp_train resume {name}{folders}"


def _files(call: argparse.Namespace) -> tuple[dict[str, Any], Any]:
    """The fields that files and folders of the call stand for, and where they lie."""
    from awp_train.run_files import Places, describe_start

    fields: dict[str, Any] = {}
    if call.extra:
        from awp_train.extra_images import describe_extra

        fraction = flags.parse_fraction(getattr(call, flags.FRACTION))
        fields["extra"] = describe_extra(Path(call.extra), fraction=fraction)
    elif getattr(call, flags.FRACTION) is not None:
        raise InvalidInput(f"--{flags.FRACTION} belongs to --extra FILE")
    if call.start:
        fields["start"] = describe_start(Path(call.start))
    places = Places(*(Path(path) if path else None for path in (call.extra, call.start)))
    return fields, places


def _with_own_files(preset: str, config: TrainConfig, files: dict[str, Any]) -> TrainConfig:
    """Of the files given for many runs, those that a run of this method takes."""
    takes = {"rst": "extra", "pretrain": "start"}.get(config.objective)
    return config.model_copy(update={k: v for k, v in files.items() if k == takes})


def _again(call: argparse.Namespace) -> str:
    return "python -m awp_train " + shlex.join(call.words)


# ---------------------------------------------------------------- arguments

_FOLDERS = {"out": Path("var/checkpoints"), "runs": Path("var/runs")}


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m awp_train", description="Trains classifiers with and without AWP."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, function: Any, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        added.set_defaults(command=function)
        return added

    def folders(added: argparse.ArgumentParser, out: str = "out") -> None:
        added.add_argument(f"--{out}", type=Path, default=_FOLDERS["out"], help="checkpoints")
        added.add_argument("--runs", type=Path, default=_FOLDERS["runs"], help="run states")
        added.add_argument("--yes", action="store_true", help="start even above 2 hours")

    def watched(added: argparse.ArgumentParser) -> None:
        added.add_argument(
            "--tensorboard", type=Path, metavar="DIR", help="write TensorBoard's files there too"
        )

    added = command("list", list_presets, "presets with cost and source")
    added.add_argument("--dataset", help="those of one data set or family alone")

    added = command("run", run, "train one preset; every field of it can be given as a flag")
    added.add_argument("preset", metavar="PRESET")
    added.add_argument("--name", help="of the run; by default preset, changed fields and seed")
    flags.add(added)
    folders(added)
    watched(added)

    added = command("resume", resume, "go on with an interrupted run")
    added.add_argument("run", metavar="RUN")
    folders(added)
    watched(added)

    added = command(
        "all", train_all, "train natural and all methods with and without AWP, over seeds"
    )
    added.add_argument("--dataset", required=True, metavar="FAMILY", help="digits, cifar10-l2 …")
    added.add_argument("--controls", action="store_true", help="and the controls of AWP")
    added.add_argument("--arch", help="instead of the presets' architecture")
    added.add_argument(
        "--only", default="", metavar="TEXT", help="presets named so, e.g. trades or at-awp"
    )
    added.add_argument(
        "--seeds", default="6", help="a count, or 0,1,2; default 6, as headlines need"
    )
    added.add_argument("--workers", type=int, help="runs at a time; default: cores, or 1 on a GPU")
    added.add_argument(
        "--kept", choices=("last", "best", "all"), default="all", help="folders that are printed"
    )
    flags.add_files(added)
    folders(added)

    added = command("study", study, "train, measure and compare what a study asks")
    added.add_argument("study", metavar="NAME", help="digits-methods and so on")
    added.add_argument("--seeds", help="a count, or 0,1,2; default: the study's own")
    added.add_argument(
        "--only", help="a word of its arms, such as n_train=2000; the others as they are"
    )
    added.add_argument("--out", type=Path, default=Path("results"), help="records and summary")
    added.add_argument("--workers", type=int, help="at a time; default: cores, or 1 on a GPU")
    folders(added, "checkpoints")

    added = command("choose", choose, "choose gamma and the like on validation images")
    added.add_argument("family", metavar="FAMILY", help="digits, digits-trades and so on")
    added.add_argument("--out", type=Path, default=Path("results/choices"))
    added.add_argument("--workers", type=int)

    added = command("demo", demo, "train, attack and compare on digits; make demo calls this")
    added.add_argument("--out", type=Path, default=Path("var/demo"))
    added.add_argument("--workers", type=int)

    for name, (module, text) in ELSEWHERE.items():
        added = command(name, None, text)
        if name in words:
            loaded = importlib.import_module(module)
            loaded.add_arguments(added)
            added.set_defaults(command=loaded.run)
    return parser


def _say(text: str, status: int = 0) -> int:
    print(text, file=sys.stderr)
    return status


if __name__ == "__main__":
    exit_with(main)
