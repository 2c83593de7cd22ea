"""One file that holds all that a host knows of its tickets, and the way back from it.

The database of the jobs is not in it: it is made anew from the tickets, and what had been finished
lies in files.
"""

from __future__ import annotations

import contextlib
import os
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from bench.intake.settings import Settings
from bench.intake.store import Store
from bench.records import proven
from bench.schema import InvalidInput

# In this order: a file of a later folder is never older than what a ticket says of it.
_FOLDERS = (
    "tickets", "news", "contacts", "owners", "files", "weights", "work", "parts", "measured"
)  # fmt: skip
_FILES = ("salt",)
_RECORDS = "records"  # where those of tickets lie in the archive


def write(settings: Settings, file: Path) -> int:
    """Writes a backup, while workers work or not; how many tickets are in it.

    Raises InvalidInput where something lies there, OSError where it cannot be written.
    """
    if os.path.lexists(file):
        raise InvalidInput(f"{file} is there already: name another file")
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, draft = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(handle, "wb") as raw, tarfile.open(fileobj=raw, mode="w:gz") as archive:
            for path, name in _all(settings):
                with contextlib.suppress(FileNotFoundError):  # finished meanwhile
                    archive.add(path, name, recursive=False)
        os.rename(draft, file)
    finally:
        Path(draft).unlink(missing_ok=True)
    return len(Store(settings.root).all())


def _all(settings: Settings) -> Iterator[tuple[Path, str]]:
    """(path, name in the archive) of every file."""
    for path in _files(settings.root):
        yield path, path.relative_to(settings.root).as_posix()
    store, out = Store(settings.root), settings.out
    records = {(out / news.record).parent for t in store.all() if (news := store.news(t.id)).record}
    for path in [*(p for folder in sorted(records) for p in folder.glob("*")), out / proven.NAME]:
        if path.is_file() and not path.is_symlink():
            yield path, f"{_RECORDS}/{path.relative_to(out).as_posix()}"


def _files(root: Path) -> Iterator[Path]:
    found = [root / name for name in _FILES]
    found += [path for folder in _FOLDERS for path in sorted((root / folder).rglob("*"))]
    for path in found:
        draft = path.name.startswith(".") or path.suffix in (".part", ".lock")
        if not draft and path.is_file() and not path.is_symlink():
            yield path


def read(settings: Settings, file: Path) -> int:
    """Puts a backup back where no ticket is; how many there are then. Workers go on from it.

    Raises InvalidInput where tickets are there, and where the file is no backup; nothing is written
    then.
    """
    store = Store(settings.root)
    if store.all() or store.damaged():
        raise InvalidInput(f"{settings.root} holds tickets: restore into an empty folder")
    store.prepare()
    try:
        with tarfile.open(file, mode="r:gz") as archive:
            members = [(member, _place(settings, member)) for member in archive]
            for member, place in members:
                _put(archive, member, place, settings)
    except (tarfile.TarError, EOFError, OSError) as error:
        if (
            isinstance(error, OSError)
            and not isinstance(error, tarfile.TarError)
            and error.filename
        ):
            raise
        raise InvalidInput(f"{file} is no backup that can be read ({error})") from None
    return len(store.all())


def _place(settings: Settings, member: tarfile.TarInfo) -> Path:
    """Where a file of an archive belongs. Raises InvalidInput for what no backup holds."""
    path = PurePosixPath(member.name)
    plain = member.isreg() and not path.is_absolute() and ".." not in path.parts
    if not plain or path.parts[0] not in (*_FOLDERS, *_FILES, _RECORDS):
        raise InvalidInput(f"no backup of ours: it holds {member.name[:100]!r}")
    if path.parts[0] == _RECORDS:
        return settings.out.joinpath(*path.parts[1:])
    return settings.root / path


def _put(
    archive: tarfile.TarFile, member: tarfile.TarInfo, place: Path, settings: Settings
) -> None:
    """Writes one file; one of the records that is there already stays."""
    ours = place.is_relative_to(settings.root)
    source = archive.extractfile(member)
    assert source is not None
    for folder in reversed(place.relative_to(settings.root).parents if ours else ()):
        (settings.root / folder).mkdir(mode=0o700, exist_ok=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.name == proven.NAME and place.exists():
        with tempfile.TemporaryDirectory() as aside:
            (Path(aside) / proven.NAME).write_bytes(source.read())
            for proof in proven.read(Path(aside))[0].values():
                proven.add(place.parent, proof)
        return
    if place.exists():
        return
    draft = place.with_name(f".{place.name}.draft")
    with open(draft, "wb", opener=lambda p, f: os.open(p, f, 0o600 if ours else 0o644)) as made:
        while piece := source.read(2**20):
            made.write(piece)
        made.flush()
        os.fsync(made.fileno())
    os.rename(draft, place)
