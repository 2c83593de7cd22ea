"""What runs in a locked child: `look` at a file's layout, then `convert` it, which imports torch.

Each prepares everything that it may need, on a file of its own, then locks itself, and only then reads
the upload. `bench.intake.admission` starts them, and reads the report and the weights.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Literal

from bench import catalogue
from bench.intake.locking import Allowance, lock
from bench.intake.refusal import Code, Refusal
from bench.intake.report import Ask, Locked, Refused, Report, Seen
from bench.schema import InvalidInput, Scalar
from bench.schema.errors import visible
from bench.sources import weight_files
from bench.sources.pickles import Stored

AGAIN = (
    "Save the weights again with torch.save(model.state_dict(), path) or "
    "safetensors.torch.save_file(model.state_dict(), path), and send that file."
)
_PIECE = 2**20
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_USUAL_SIZE = 32  # pixels; of architectures that are made for no size

Work = Callable[[IO[bytes], IO[bytes], Ask], Seen | None]


def look(*arguments: str) -> None:
    """Bounds, checksums and layout of a file, without torch."""
    _work(_look, *arguments)


def convert(*arguments: str) -> None:
    """The weights of the network of the catalogue that a file holds."""
    import torch

    torch.set_num_threads(1)
    _rehearse()
    _work(_convert, *arguments)


def _work(
    work: Work, source: str, made: str, report: str, allowance: str, lockable: str, ask: str
) -> None:
    """Locks this process, does the work, writes the report; a defect ends with a traceback."""
    asked = Ask.model_validate_json(ask)
    codecs.lookup("cp437")  # of names in archives: nothing can be imported once this is locked
    with (
        os.fdopen(int(source), "rb") as file,
        os.fdopen(int(made), "wb") as out,
        os.fdopen(int(report), "wb") as said,
    ):
        file.seek(0)
        words = lock(Allowance.read(allowance), landlock=lockable == "landlock")
        said.write(Locked(locked=words).model_dump_json().encode() + b"\n")
        said.flush()
        try:
            answer = Report(seen=work(file, out, asked))
            out.flush()
        except Refusal as why:
            answer = Report(refused=_refused(why.code, why.reason, why.remedy))
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "memory" not in str(error):
                raise
            answer = Report(refused=_too_much_memory())
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            answer = Report(refused=_refused("no-room", "the disk is full", "Try again later."))
        said.write(answer.model_dump_json().encode())


def _refused(code: Code, reason: str, remedy: str) -> Refused:
    return Refused(code=code, reason=visible(reason)[:2_000], remedy=remedy)


def _too_much_memory() -> Refused:
    return _refused(
        "too-much", "reading this file takes more memory than a file of its size may", AGAIN
    )


# ---------------------------------------------------------------- look


def _look(file: IO[bytes], out: IO[bytes], asked: Ask) -> None:
    where = Path(asked.file_name)
    with _told("unreadable", AGAIN):
        held = weight_files.read(file, where)
        if held.note == weight_files.NO_CHECKSUM:
            raise InvalidInput(
                f"{where} is of the format that torch.save wrote before version 1.6, which has no "
                "checksums"
            )
        if _container(file) == "zip":
            _check_sums(file, where)


def _container(file: IO[bytes]) -> Literal["zip", "safetensors"]:
    file.seek(0)
    return "zip" if file.read(2) == b"PK" else "safetensors"


def _check_sums(file: IO[bytes], where: Path) -> None:
    """Reads every entry to its end, which is where zipfile compares the checksum."""
    with zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            try:
                with archive.open(entry) as stream:
                    while stream.read(_PIECE):
                        pass
            except (zipfile.BadZipFile, EOFError, RuntimeError, NotImplementedError):
                raise InvalidInput(
                    f"{where} is damaged: a part does not match its checksum"
                ) from None


class _told:
    """What the readers say inside, as a Refusal with a code and a remedy."""

    def __init__(self, code: Code, remedy: str) -> None:
        self.code, self.remedy = code, remedy

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, InvalidInput) and not isinstance(error, Refusal):
            raise Refusal(self.code, str(error).rstrip("."), self.remedy) from None


# ---------------------------------------------------------------- convert


def _convert(file: IO[bytes], out: IO[bytes], asked: Ask) -> Seen:
    from bench.sources import checkpoint, fitting
    from bench.sources.state_dicts import unwrap

    where = Path(asked.file_name)
    container = _container(file)
    with _told("unreadable", AGAIN):
        held = weight_files.read(file, where)
    with _told("content", "Save the state_dict() of one network alone, or say which set is meant."):
        tensors = unwrap(held.content, where, weights=asked.weights)
    named = ", ".join(catalogue.ARCHITECTURES)
    remedy = f"The catalogue has {named}; another architecture comes as a pull request."
    with _told("misfit", remedy):
        arch, arguments = _architecture(tensors, asked)
        fit = fitting.fit(
            tensors, arch, arguments, str(where), mean=asked.mean, std=asked.std
        )  # fmt: skip
        catalogue.check_pixels(fit.mean, fit.std)
    with _told("content", AGAIN):
        model = checkpoint.fitted(fit, arch, arguments, str(where))
        size = catalogue.DATASETS[asked.dataset].image_size if asked.dataset else _USUAL_SIZE
        checkpoint.check_answers(model, arguments, size, str(where))
    out.write(checkpoint.as_safetensors(model))
    return Seen(
        container=container, arch=arch, arch_args={k: int(v) for k, v in arguments.items()},
        n_parameters=sum(p.numel() for p in model.net.parameters()),
        mean=fit.mean, std=fit.std, note=fit.note,
    )  # fmt: skip


def _architecture(tensors: Mapping[str, Stored], asked: Ask) -> tuple[str, dict[str, Scalar]]:
    """The architecture that was named, or else the one that the tensors are of. Raises InvalidInput."""
    from bench.sources import fitting

    if asked.arch is not None:
        if asked.dataset is None:
            raise InvalidInput("an architecture is named without a data set")
        return asked.arch, catalogue.fitted_arguments(asked.arch, asked.dataset, **asked.arch_args)
    first: InvalidInput | None = None
    for arch, read in fitting.found(tensors):
        schema = catalogue.ARCHITECTURES[arch].arguments
        arguments: dict[str, Scalar] = {
            k: v for k, v in read.items() if not (schema[k].later and v == schema[k].default)
        }
        try:
            fitting.fit(tensors, arch, arguments, asked.file_name)
            return arch, arguments
        except InvalidInput as error:
            first = first or error
    raise first or InvalidInput(f"{asked.file_name} fits no architecture of the catalogue")


def _rehearse() -> None:
    """Reads networks of its own as it will read the upload: what is imported late, is imported now."""
    import torch

    from bench import models
    from bench.sources import checkpoint, fitting

    for arch in catalogue.ARCHITECTURES:
        fitting.shapes_of(arch, {})
    small = {"in_channels": 1, "image_size": 8, "num_classes": 2, "width": 1}
    model = models.build("small_cnn", small).eval()
    packed = io.BytesIO()
    torch.save(model.net.state_dict(), packed)
    for raw in (packed.getvalue(), checkpoint.as_safetensors(model)):
        for ask in (Ask(), Ask(arch="vgg19_bn", dataset="cifar10")):
            try:
                _convert(io.BytesIO(raw), io.BytesIO(), ask)
            except Refusal as why:
                _refused(why.code, why.reason, why.remedy)
