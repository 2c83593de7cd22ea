"""A member of the corpus: the files, the entrance they come through, what must come of it."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SECRET = "the-words-of-a-private-file"  # stands in files that hostile names link to
CANARY = "canary"  # a file that appears where a member's code ran
KINDS = ("weights", "records", "data", "calls")
# Escapes of a terminal, what turns the direction of writing, halves of characters.
_CONTROL = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
_MOST_SAID = 20_000  # characters; a refusal is a sentence

Build = Callable[[Path], object]  # makes the files in an empty folder
Act = Callable[[], int]  # runs in that folder; returns an exit status, prints as a command does


@dataclass(frozen=True)
class Ran:
    """What came of one member."""

    status: int | None  # exit status; None: it did not end by itself
    out: str
    err: str
    died: str = ""  # how, where it did not end by itself
    memory: float = 0.0  # MB at the highest, beyond the process that had imported everything
    seconds: float = 0.0
    canary: bool = False  # code of the member ran
    changed: tuple[str, ...] = ()  # files of the member that are not what they were

    @property
    def said(self) -> str:
        return self.out + self.err


@dataclass(frozen=True)
class Refused:
    """Exit status 2 and an error that holds the words (a pattern, in any case)."""

    words: str

    def wrong(self, ran: Ran) -> str:
        if ran.status != 2:
            return f"expected exit status 2, came {ran.status}"
        errors = "\n".join(re.findall(r"(?m)^.*error: (?s:.*)", ran.err))
        return "" if _holds(errors, self.words) else f"expected an error with /{self.words}/"


@dataclass(frozen=True)
class Stands:
    """Exit status 0 with the good rows on stdout; what was skipped is named by the words."""

    words: str
    good: tuple[str, ...] = ("digits-at-awp-s0-last", "digits-at-s0-last")

    def wrong(self, ran: Ran) -> str:
        if ran.status != 0:
            return f"expected exit status 0, came {ran.status}"
        missing = [name for name in self.good if name not in ran.out]
        if missing:
            return f"expected the rows {missing}"
        return "" if _holds(ran.said, self.words) else f"expected /{self.words}/ to be named"


@dataclass(frozen=True)
class Accepted:
    """Exit status 0 and the value (a pattern) on stdout."""

    words: str

    def wrong(self, ran: Ran) -> str:
        if ran.status != 0:
            return f"expected exit status 0, came {ran.status}"
        return "" if _holds(ran.out, self.words) else f"expected /{self.words}/ on stdout"


@dataclass(frozen=True)
class Unproven:
    """verify reads all, ends with exit status 1 and says what is not proven."""

    words: str

    def wrong(self, ran: Ran) -> str:
        if ran.status != 1:
            return f"expected exit status 1, came {ran.status}"
        return "" if _holds(ran.said, self.words) else f"expected /{self.words}/"


@dataclass(frozen=True)
class Either:
    """One of several outcomes that are all right."""

    first: Refused
    other: Stands | Accepted | Unproven

    def wrong(self, ran: Ran) -> str:
        return self.first.wrong(ran) and self.other.wrong(ran)


Outcome = Refused | Stands | Accepted | Unproven | Either


def _holds(text: str, words: str) -> bool:
    return re.search(words, text, re.IGNORECASE | re.DOTALL) is not None


@dataclass(frozen=True)
class Member:
    """One hostile or odd thing, and the right outcome of it."""

    name: str
    kind: str  # of KINDS
    build: Build
    act: Act
    expected: Outcome
    short: bool = False  # tried on every change, too
    needs_a_user: bool = False  # root may read what is closed to others

    def wrong(self, ran: Ran, *, seconds: float, memory: float) -> str:
        """Why the outcome is not the right one; nothing where it is."""
        return (
            ran.died
            or ("its code ran" if ran.canary else "")
            or _wrong_words(ran.said)
            or (f"{ran.seconds:.1f} s" if ran.seconds > seconds else "")
            or (f"{ran.memory:.0f} MB" if ran.memory > memory else "")
            or (f"changed {', '.join(ran.changed)}" if ran.changed else "")
            or self.expected.wrong(ran)
        )


def _wrong_words(said: str) -> str:
    """What no output may hold, whatever came in."""
    if "Traceback (most recent call last)" in said:
        return f"a traceback: {said.strip().splitlines()[-1][:200]}"
    if SECRET in said:
        return "the words of a private file"
    if found := _CONTROL.search(said):
        return f"a control character, {found[0]!r}"
    if found := re.search(r"\b\w*Warning: .{0,100}", said):
        return f"a warning: {found[0]}"
    return f"{len(said):,} characters of output" if len(said) > _MOST_SAID else ""


# ---------------------------------------------------------------- entrances


def command(*argv: str) -> Act:
    """`python -m bench …`, in this process: what it prints and the status it ends with."""

    def act() -> int:
        from bench.__main__ import main

        return main(argv)

    return act


def imported(file: str, *options: str) -> Act:
    """`bench import` of a file as the weights of a small_cnn on digits."""
    named = (
        "--arch",
        "small_cnn",
        "--arch-arg",
        "width=4",
        "--dataset",
        "digits",
        "--name",
        "mine",
    )
    return command("import", file, *named, *options)


def called(function: Callable[[], object]) -> Act:
    """A function of the Python interface, with its answer printed and errors told as commands do."""

    def act() -> int:
        from bench.schema import BenchError

        try:
            print(function())
        except BenchError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        return 0

    return act


def page(shown: str = "", /, **address: str) -> Act:
    """The board on the folder `results`, headless: prints what it shows; 1 where it has an error."""

    def act() -> int:
        from streamlit.testing.v1 import AppTest

        sys.argv = ["app.py", "--results", "results"]
        root = Path(__file__).parents[2]
        app = AppTest.from_file(root / "app.py", default_timeout=20).run()
        if shown:
            app = app.switch_page(f"bench/board/{shown}.py")
            for key, value in address.items():
                app.query_params[key] = value
            app.run()
        for frame in app.dataframe:
            print(frame.value.to_string())
        bodies = (element.proto.body for element in app.get("html"))
        print(*(body for body in bodies if not body.startswith("<style>")), sep="\n")
        for kind in ("markdown", "caption", "info", "warning"):
            print(*(element.value for element in app.get(kind)), sep="\n")
        for each in (*app.exception, *app.error):
            print(each.value, file=sys.stderr)
        return int(bool(app.exception or app.error))

    return act
