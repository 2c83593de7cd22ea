"""What a run needs before it: a teacher that labels its extra images, a network to start from.

A job names the jobs it needs; `stages` puts them in order, and `prepared` names their results in
the configuration of the job, once they are finished.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from awp_train.extra_images import describe_extra, pseudo_label
from awp_train.presets import control_name, find, pair_name, run_name, start_of, teacher_of
from awp_train.run_files import Places, describe_start, finished
from bench import training_log
from bench.catalogue import dataset_info
from bench.schema import InvalidInput, ModelCard, TrainConfig
from bench.sources import checkpoint


@dataclass(frozen=True)
class Job:
    """One run, and what has to be finished before it."""

    name: str
    config: TrainConfig
    pair: str | None  # run name of the vanilla twin
    out: Path
    runs: Path
    control_of: str | None = None  # run name of the AWP run that this is a stronger control of
    places: Places = Places()
    teacher: Job | None = None  # its last network labels the extra images
    extra_n: int | None = None  # at most so many of them
    start: Job | None = None  # its last network is what this run starts from

    @property
    def needs(self) -> tuple[Job, ...]:
        return tuple(job for job in (self.teacher, self.start) if job is not None)

    @property
    def last(self) -> Path:
        """The checkpoint folder that is there once the run is finished."""
        return self.out / f"{self.name}-last"

    def recorded(self, results: Path, kept: str) -> Path | None:
        """Where the records of its best or last network lie, with the card; None if there are none."""
        if self.config.threat is None:
            return None
        group = results / self.config.dataset / self.config.threat.folder
        folder = group / f"{self.name}-{kept}"
        return folder if (folder / checkpoint.CARD).is_file() else None


def job_of(
    preset: str,
    config: TrainConfig,
    *,
    out: Path,
    runs: Path,
    places: Places | None = None,
    name: str | None = None,
) -> Job:
    """The run of a preset, with the jobs that make what its configuration does not name yet."""
    teacher = start = None
    if config.extra is None and (found := teacher_of(preset, config)):
        teacher = job_of(*found, out=out, runs=runs)
    if config.start is None and (found := start_of(preset, config)):
        start = job_of(*found, out=out, runs=runs)
    return Job(
        name or run_name(preset, config),
        config,
        pair_name(preset, config),
        out,
        runs,
        control_name(preset, config),
        places or Places(),
        teacher,
        find(preset).extra_n,
        start,
    )


def stages(jobs: Iterable[Job]) -> list[list[Job]]:
    """The jobs and all they need, once each: a stage needs nothing but the stages before it."""
    depths: dict[str, int] = {}
    every: dict[str, Job] = {}

    def depth(job: Job) -> int:
        if job.name not in depths:
            depths[job.name] = 1 + max(map(depth, job.needs), default=-1)
            every[job.name] = job
        return depths[job.name]

    deepest = max(map(depth, jobs), default=-1)
    return [
        [job for name, job in every.items() if depths[name] == level]
        for level in range(deepest + 1)
    ]


def is_finished(job: Job) -> bool:
    """Whether the run's checkpoints are there, whatever files they were trained with.

    Raises InvalidInput where the name belongs to a model of other settings.
    """
    if not job.last.exists():
        return False
    config = _supplied(job, checkpoint.read_card(job.last))
    return bool(finished(config, job.name, job.out))


def is_of(job: Job, folder: Path) -> bool:
    """Whether the card in a folder is of the run's settings, whatever files it was trained with."""
    card = checkpoint.read_card(folder)
    return card.train == _supplied(job, card)


def _supplied(job: Job, card: ModelCard) -> TrainConfig:
    """The settings of a run, with the files that the card names where those are made on the way."""
    if card.train is None or not job.needs:
        return job.config
    return job.config.model_copy(update={"extra": card.train.extra, "start": card.train.start})


def prepared(job: Job) -> Job:
    """The job with its extra file made and its starting point named in the configuration.

    The jobs it needs are finished. Extra files lie beside the checkpoints' folder, in `extra`.
    """
    fields: dict[str, object] = {}
    places = job.places
    if job.teacher is not None:
        left = left_over(job.teacher.config)
        n = left if job.extra_n is None else min(left, job.extra_n)
        file = pseudo_label(job.teacher.last, out=job.out.parent / "extra", n=n)
        fields["extra"] = describe_extra(file)
        places = replace(places, extra=file)
    if job.start is not None:
        fields["start"] = describe_start(job.start.last)
        places = replace(places, start=job.start.last)
    return replace(job, config=job.config.model_copy(update=fields), places=places)


def bring_back(job: Job, results: Path) -> None:
    """Copies a run that was trained before from where its records lie, if its settings are these.

    Records keep small weights with card and curve beside them, so nobody has to train them again.
    """
    last = job.recorded(results, "last")
    if job.last.exists() or last is None or checkpoint.read_card(last).train != job.config:
        return
    wanted = (checkpoint.WEIGHTS, checkpoint.CARD, training_log.NAME)
    if not all((last / file).is_file() for file in wanted):
        return
    for folder in (job.recorded(results, "best"), last):  # last: marks the end
        if folder and all((folder / file).is_file() for file in wanted):
            target = job.out / folder.name
            target.mkdir(parents=True, exist_ok=True)
            for file in wanted:
                shutil.copyfile(folder / file, target / file)


def left_over(config: TrainConfig) -> int:
    """How many training images of its data set a run takes neither to learn from nor to validate."""
    if config.n_train is None:
        return 0
    return dataset_info(config.dataset).n_train - config.n_train - config.n_validation


def asked_for(preset: str, config: TrainConfig) -> None:
    """Raises InvalidInput where a run needs images or a network that nobody gives it."""
    found = find(preset)
    supplied = found.supplied
    field = "extra" if supplied.startswith("--extra") else "start"
    if supplied and getattr(config, field) is None:
        raise InvalidInput(f"{preset} needs {supplied}")
    if found.teacher and config.extra is None and left_over(config) < 1:
        raise InvalidInput(
            f"{preset}: {config.n_train} images for training and {config.n_validation} for "
            f"validation leave none of {config.dataset} for {found.teacher} to label: lower "
            "--n_train, or give --extra FILE"
        )
