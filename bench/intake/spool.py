"""The spool: bytes of strangers in a private folder, under our own names, hashed as they come.

Nothing here parses them. A file is complete or it is not there; what a killed writer leaves is a
`.part`, which `sweep` removes.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from bench.intake.refusal import Refusal
from bench.records.store import flush_names
from bench.schema import InvalidInput

DAY = 86_400.0  # seconds that a cut-off upload is kept
_STEP = 4 * 2**20  # bytes between two looks at quotas and disk
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Limits:
    """Bytes."""

    file: int = 512 * 10**6  # of one upload
    submitter: int = 4 * 10**9  # of one submitter's files
    all: int = 64 * 10**9  # of everybody's
    reserve: int = 5 * 10**9  # that stay free on the disk


@dataclass(frozen=True)
class Kept:
    """A file of the spool."""

    sha256: str
    size: int
    path: Path
    new: bool = True  # False: it had been here before


@dataclass(frozen=True)
class Spool:
    """A folder of received files and of the weights that were made of them."""

    root: Path
    limits: Limits = Limits()

    def known(self, sha256: str) -> Kept | None:
        """The file of a sha256 (hex), where it was received before. Raises InvalidInput."""
        if not _SHA256.fullmatch(sha256):
            raise InvalidInput(f"a sha256 is 64 hexadecimal digits, got {sha256[:80]!r}")
        path = self.root / "files" / sha256
        with contextlib.suppress(FileNotFoundError):
            return Kept(sha256, path.stat().st_size, path, new=False)
        return None

    def all(self) -> list[Kept]:
        """Every file that was received, in no order."""
        folder = self.root / "files"
        return [
            Kept(name, state.st_size, folder / name, new=False)
            for name, state in _files(folder).items()
        ]

    def weights(self, name: str) -> Path:
        """Where weights lie that were made of a file, if they were; a name begins with its sha256."""
        return self.root / "weights" / f"{name}.safetensors"

    def receive(
        self, chunks: Iterable[bytes], *, submitter: str, size: int | None = None,
        sha256: str | None = None,
    ) -> Kept:  # fmt: skip
        """Writes the chunks as they come; the file is in place, on the disk, when this returns.

        submitter is whatever tells submitters apart; only a hash of it is kept. size and sha256 are
        what the sender says of the file: a known one is answered before a chunk is asked for. Raises
        Refusal, and what `chunks` raises; nothing is left of it then.
        """
        if sha256 is not None and (there := self.known(sha256)):
            return there
        if size is not None and size > self.limits.file:
            raise self._too_large(f"{size:,}")
        owner = self._owner(submitter)
        part = self._folder("incoming") / f"{owner}.{secrets.token_hex(16)}.part"
        try:
            with _disk():
                file = open(part, "xb", buffering=0, opener=private)  # noqa: SIM115
            with file:
                self._room(owner, 0 if size is None else size)
                written, digest = self._written(chunks, file, owner)
                with _disk():
                    os.fsync(file.fileno())
            _check_whole(written, digest, size, sha256)
            return self._placed(part, digest, written, owner)
        finally:
            part.unlink(missing_ok=True)

    def remove(self, sha256: str) -> None:
        """Forgets a received file, what was made of it, and whose it was. Raises InvalidInput."""
        if self.known(sha256) is None:
            return
        with self._alone():
            for place in (
                *self.root.glob(f"weights/{sha256}-*"),
                *self.root.glob(f"owners/*/{sha256}"),
            ):
                place.unlink(missing_ok=True)
            (self.root / "files" / sha256).unlink(missing_ok=True)

    def sweep(self, now: float) -> list[Path]:
        """Removes what killed writers left: parts that nobody wrote to for a day; their paths."""
        gone = []
        for folder in ("incoming", "weights"):
            for name, state in _files(self.root / folder).items():
                if name.endswith(".part") and state.st_mtime < now - DAY:
                    gone.append(self.root / folder / name)
                    gone[-1].unlink(missing_ok=True)
        return gone

    # ---------------------------------------------------------------- receiving

    def _written(self, chunks: Iterable[bytes], file: FileIO, owner: str) -> tuple[int, str]:
        """(bytes, sha256) of the chunks, which are in the file."""
        digest, written, looked = hashlib.sha256(), 0, 0
        for chunk in chunks:
            written += len(chunk)
            if written > self.limits.file:
                raise self._too_large("more")
            if written - looked >= _STEP:  # never is more than this and a chunk beyond a limit
                self._room(owner, len(chunk))
                looked = written
            digest.update(chunk)
            with _disk():
                left = memoryview(chunk)
                while left:
                    left = left[file.write(left) :]
        return written, digest.hexdigest()

    def _placed(self, part: Path, sha256: str, size: int, owner: str) -> Kept:
        path = self._folder("files") / sha256
        with self._alone():
            if there := self.known(sha256):  # another one was faster
                return there
            self._room(owner, 0)
            (self._folder("owners", owner) / sha256).touch(mode=0o600)
            os.rename(part, path)
            flush_names(path.parent)
        return Kept(sha256, size, path)

    def _room(self, owner: str, more: int) -> None:
        """Raises Refusal where `more` bytes of a submitter are beyond a limit."""
        coming, here = self._sizes("incoming"), self._sizes("files")
        own = sum(here.get(name, 0) for name in _files(self.root / "owners" / owner))
        own += sum(n for name, n in coming.items() if name.startswith(f"{owner}."))
        if own + more > self.limits.submitter:
            raise Refusal(
                "quota", f"your files together would have more than {self.limits.submitter:,} bytes",
                "Withdraw a submission that is no longer wanted, or wait until one is through.",
            )  # fmt: skip
        self.check_room(more)

    def check_room(self, more: int) -> None:
        """Raises Refusal where `more` bytes are too many for the disk, or for all submissions."""
        here = sum(sum(self._sizes(folder).values()) for folder in ("incoming", "files", "weights"))
        disk = os.statvfs(self.root)
        free = disk.f_bavail * disk.f_frsize
        if here + more > self.limits.all or free < self.limits.reserve + more:
            raise _no_room()

    def _sizes(self, folder: str) -> dict[str, int]:
        return {name: state.st_size for name, state in _files(self.root / folder).items()}

    def _too_large(self, came: str) -> Refusal:
        return Refusal(
            "too-large", f"a file may have {self.limits.file:,} bytes, this one has {came}",
            "Save the state_dict() of one network alone, without optimiser and averages.",
        )  # fmt: skip

    # ---------------------------------------------------------------- names

    def _folder(self, *names: str) -> Path:
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.root.stat().st_mode & 0o077:
            raise InvalidInput(
                f"{self.root} is open to others: chmod 700 it, or name another folder"
            )
        folder = self.root.joinpath(*names)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder

    def _owner(self, submitter: str) -> str:
        """A name for a submitter that nobody can go back from without the salt of this spool."""
        self._folder("owners")
        salt = self.root / "salt"
        with self._alone():
            if not salt.exists() or not salt.stat().st_size:
                salt.touch(mode=0o600)
                salt.write_bytes(secrets.token_bytes(32))
        text = submitter.encode("utf-8", errors="backslashreplace")
        return hashlib.blake2s(text, key=salt.read_bytes(), digest_size=12).hexdigest()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """One process and one thread at a time, for a moment; the kernel lets go of the dead."""
        with open(self.root / "lock", "ab", opener=private) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _check_whole(written: int, digest: str, size: int | None, sha256: str | None) -> None:
    if size is not None and written != size:
        raise Refusal(
            "cut-off", f"{written:,} bytes came of a file of {size:,}", "Send it again."
        )  # fmt: skip
    if sha256 is not None and digest != sha256:
        raise Refusal(
            "cut-off", f"what came has the sha256 {digest}, not {sha256}", "Send it again."
        )  # fmt: skip
    if not written:
        raise Refusal("cut-off", "the file is empty", "Send the file of weights itself.")


def _no_room() -> Refusal:
    return Refusal(
        "no-room", "the server has no room for this file now",
        "Nothing is wrong with it: try again later.",
    )  # fmt: skip


@contextlib.contextmanager
def _disk() -> Iterator[None]:
    """What the system says of a full disk, as a Refusal."""
    try:
        yield
    except OSError:
        raise _no_room() from None


def _files(folder: Path) -> dict[str, os.stat_result]:
    """Regular files of a folder, as they are now."""
    found = {}
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):  # taken to its place meanwhile
                if entry.is_file(follow_symlinks=False):
                    found[entry.name] = entry.stat(follow_symlinks=False)
    return found


def private(path: str, flags: int) -> int:
    """Opens a file that is ours alone and no link: an opener of `open`."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)
