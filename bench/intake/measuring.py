"""What a worker's child does with admitted weights: examine, attack, publish, rank.

The worker asks by a line of JSON and reads lines until one ends the answer. The child keeps what is
finished on disk, so that another one goes on from there; it ends with its worker. Without torch until
it is asked for something.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from bench.intake.refusal import Refusal
from bench.intake.report import Seen
from bench.intake.settings import Settings
from bench.intake.ticket import BY_SUBMITTER, Form, Ticket
from bench.records import proven, store
from bench.records.lock import InUse
from bench.schema import AwpConfig, BenchError, Figure, InvalidInput, MeasurementFailed
from bench.schema.errors import visible
from bench.schema.frozen import Frozen, Name

if TYPE_CHECKING:
    from bench.measure.sweep import Job

_EXAMINED = 256  # images that the doctor looks at
_AT_MOST, _IMAGES = re.compile(r"at most ([0-9.]+)% standing"), re.compile(r"(\d+)/\d+ images done")
Tell = Callable[..., None]


class Task(Frozen):
    """What a child works on."""

    ticket: Ticket
    protocol: Name
    seen: Seen
    weights: Path  # safetensors that admission made
    settings: Settings
    record: str = ""  # below the folder of what was measured, once it is

    @property
    def measured(self) -> Path:
        """The folder of records with all that backs them; nothing of it is published yet."""
        return self.settings.root / "measured"


class Said(Frozen):
    """A line of a child: how far it is, or how it ended."""

    share: float | None = None  # of the attack
    at_most: float | None = None  # robust accuracy so far
    images: int | None = None  # attacked by everything
    done: dict[str, Any] | None = None
    refused: tuple[str, str] | None = None  # reason and remedy; the submitter's to mend
    later: str = ""  # why it has to be tried again; nobody's fault
    broken: str = ""  # a traceback: ours


# ---------------------------------------------------------------- examined


def examine(task: Task, tell: Tell) -> dict[str, Any]:
    """The doctor's findings on the first images, with how many images and shards there are."""
    from bench.measure import sweep
    from bench.measure.shards import shard_count
    from bench.reliability import doctor
    from bench.sources import opening

    job = _job(task)
    model, card = opening.open_model(job.source, job.device)
    data = sweep.examples(job)
    some = data.first(min(_EXAMINED, len(data)))
    found = doctor.examine(
        model, some.x.to(job.device), some.labels.to(job.device), threat=job.threat, card=card,
        claimed=task.ticket.form.claimed_clean,
    )  # fmt: skip
    wrong = [line for line in found if line.state != "ok"]
    return {
        "n": len(data), "shards": shard_count(len(data)), "weights_sha256": card.weights_sha256,
        "red": doctor.failed(found),
        "wrong": [(line.state, line.name, line.figure, line.remedy) for line in wrong],
    }  # fmt: skip


def _job(task: Task) -> Job:
    """The measurement of a ticket. Raises Refusal where its card or its question cannot be."""
    from bench.measure import sweep

    form, settings = task.ticket.form, task.settings
    try:
        return sweep.make_job(
            _checkpoint(task), dataset=form.dataset, threat=str(form.threat), protocol=task.protocol,
            n=task.ticket.n, out=task.measured, work=settings.root / "parts",
        )  # fmt: skip
    except InvalidInput as error:
        remedy = "Submit it again with this corrected."
        raise Refusal("content", visible(str(error)).rstrip("."), remedy) from None


def _checkpoint(task: Task) -> Path:
    """The checkpoint folder of a ticket; the same one again changes nothing. Raises InvalidInput."""
    from bench.sources import checkpoint

    form, seen = task.ticket.form, task.seen
    arguments = {k: v for k, v in seen.arch_args.items() if k not in ("num_classes", "in_channels")}
    model, card = checkpoint.foreign(
        task.weights, arch=seen.arch, dataset=form.dataset, name=form.name, arch_args=arguments,
        mean=seen.mean, std=seen.std, details=_stated(task.ticket),
    )  # fmt: skip
    if seen.note:
        card = card.model_copy(update={"weights_note": seen.note})
    for path in sorted(task.settings.out.glob(f"*/*/{form.name}/*.json")):
        if len(path.stem) != 16 or store.is_withdrawn(path):
            continue
        with contextlib.suppress(InvalidInput):
            if store.read(path).card.weights_sha256 != card.weights_sha256:
                raise _Taken(f"another network on the board is called {form.name}")
    return checkpoint.add(model, card, out=task.settings.checkpoints)


class _Taken(Exception):
    pass


def _stated(ticket: Ticket) -> dict[str, Any]:
    """Fields of the card that a ticket states, and which of them are its submitter's word."""
    form = ticket.form
    stated = form.stated
    parts = (
        [f"awp.{part}" for part in form.awp.model_fields_set]
        if isinstance(form.awp, AwpConfig)
        else []
    )
    if figures := _figures(form):
        stated["figures"] = figures
    stated["declared"] = (*stated, *sorted(parts))
    if form.consent == "hashes only":  # no copy of the weights lies beside a record
        stated["file_sha256"] = ticket.file_sha256
    return stated


def _figures(form: Form) -> tuple[Figure, ...]:
    """What is claimed, to stand beside what is measured."""
    said = (("clean", form.claimed_clean, None), ("attacked", form.claimed_robust, form.threat))
    return tuple(
        Figure.model_validate(
            {"what": what, "share": f"{share:.6f}".rstrip("0").rstrip("."), "dataset": form.dataset,
             "threat": threat, "source": "its submitter"}
        )
        for what, share, threat in said
        if share is not None
    )  # fmt: skip


# ---------------------------------------------------------------- attacked


def attack(task: Task, tell: Tell) -> dict[str, Any]:
    """The record of a ticket, with its evidence, in the private folder; tells of every attack."""
    from bench.measure import sweep

    def report(share: float, text: str) -> None:
        most, images = _AT_MOST.search(text), _IMAGES.search(text)
        tell(
            share=min(1.0, share), at_most=float(most[1]) / 100 if most else None,
            images=int(images[1]) if images else None,
        )  # fmt: skip

    outcome = sweep.measure(_job(task), report)
    record = outcome.record
    return {
        "record": outcome.path.relative_to(task.measured).as_posix(), "n": record.n,
        "clean": record.clean_accuracy, "robust": record.worst_case,
    }  # fmt: skip


# ---------------------------------------------------------------- published and ranked


def publish(task: Task, tell: Tell) -> dict[str, Any]:
    """Copies a measured record to where records live, with as much as its submitter agreed to.

    Under "hashes only" neither weights nor evidence leave the private folder.
    """
    from bench.measure import keeping
    from bench.measure.evaluate import Measurement
    from bench.records.one_read import LARGEST_EVIDENCE, read_whole

    here, out = task.measured / task.record, task.settings.out
    record, sha256 = store.read_hashed(here)
    if task.ticket.form.consent == "hashes only":
        there = store.write(record, out)
    else:
        evidence = read_whole(store.evidence_path(here, record), largest=LARGEST_EVIDENCE)
        folder = task.settings.checkpoints / record.card.name
        there = keeping.keep(Measurement(record, evidence), folder, out)
    _count_again(there)
    known = proven.read(task.measured)[0].get(sha256)
    if known is not None and store.read_hashed(there)[1] == sha256:
        proven.add(out, known)
    return {"record": there.relative_to(out).as_posix()}


def _count_again(path: Path) -> None:
    """A record that its submitter withdrew counts again once it was submitted again."""
    marker = path.with_suffix(store.WITHDRAWN)
    with contextlib.suppress(FileNotFoundError):
        if json.loads(marker.read_bytes()).get("reason") == BY_SUBMITTER:
            marker.unlink()


def rank(task: Task, tell: Tell) -> dict[str, Any]:
    """The rank range of a published record, and its difference to the twin."""
    from bench import table
    from bench.cli import told

    record = store.read(task.settings.out / task.record)
    rank, twin = told.placed(record, table.build(task.settings.out))
    return {"rank": rank[:300], "twin": (twin if record.card.pair else "")[:300]}


WORK: dict[str, Callable[[Task, Tell], dict[str, Any]]] = {
    "examine": examine, "attack": attack, "publish": publish, "rank": rank,
}  # fmt: skip


# ---------------------------------------------------------------- the child


def main() -> None:
    """Answers what is asked on stdin, a line a question, until the worker is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_worker, daemon=True).start()
    with os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8") as channel:
        os.dup2(2, 1)  # what a library prints is no answer
        import torch

        torch.set_num_threads(1)
        for line in _lines():
            said = _answered(json.loads(line), channel)
            print(said.model_dump_json(exclude_defaults=True), file=channel)


def _lines() -> Iterator[bytes]:
    """Lines of stdin, read without holding any back from the thread that looks for its end."""
    while line := sys.stdin.buffer.readline():
        yield line


def _end_with_the_worker() -> None:
    waiting = select.poll()
    waiting.register(0, select.POLLHUP)
    waiting.poll()
    os._exit(1)


def _answered(asked: dict[str, Any], channel: IO[str]) -> Said:
    def tell(**news: Any) -> None:
        print(Said(**news).model_dump_json(exclude_defaults=True), file=channel)

    try:
        task = Task.model_validate(asked["task"])
        return Said(done=WORK[asked["what"]](task, tell))
    except Refusal as error:
        return Said(refused=(error.reason, error.remedy))
    except _Taken as error:
        return Said(refused=(str(error), "Submit it again under another name."))
    except MeasurementFailed as error:
        remedy = (
            "A network answers every batch of images with finite logits: mend it and submit it."
        )
        return Said(refused=(f"the measurement failed: {visible(str(error))[:1500]}", remedy))
    except (InUse, OSError) as error:
        return Said(later=str(error) or type(error).__name__)
    except BenchError as error:
        if isinstance(error.__cause__, OSError):
            return Said(later=str(error))
        return Said(broken=traceback.format_exc())
    except Exception:
        return Said(broken=traceback.format_exc())


if __name__ == "__main__":
    main()
