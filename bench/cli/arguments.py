"""How arguments are read on the command line, and how failures and times are said."""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Sequence

from bench.schema import InvalidInput, Scalar

LONG = 2 * 3600  # seconds of estimated time above which a job wants to be confirmed
# Packages that a bare installation leaves out -> the extra that brings them.
_EXTRAS = {
    **dict.fromkeys(("jinja2", "markupsafe", "plotly", "pyarrow", "streamlit", "yaml"), "board"),
    **dict.fromkeys(("dbos", "psycopg"), "host"),
    **dict.fromkeys(("PIL", "lightning", "sklearn", "torchvision"), "train"),
    **dict.fromkeys(("pyautoattack", "robustbench"), "zoo"),
}
# What the system says of a path that cannot be: the call was wrong, and not the disk full.
_NO_PLACE = frozenset(
    {
        *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP),
        *(errno.ENAMETOOLONG, errno.EACCES, errno.EPERM, errno.EROFS),
    }
)
_END = 500  # characters of a long message that are kept at either end
SMALL = 1_000_000  # parameters below which threads cost more than they give


def duration(seconds: float) -> str:
    """`40 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def confirm(seconds: float, what: str, *, yes: bool) -> None:
    """Says how long a job takes; above two hours it needs --yes. Raises InvalidInput."""
    print(f"{what}: at most about {duration(seconds)}", file=sys.stderr)
    if seconds > LONG and not yes:
        command = " ".join(["python", "-m", "bench", *sys.argv[1:], "--yes"])
        raise InvalidInput(
            f"that is above {LONG // 3600} hours. To go ahead: {command} (or make … YES=1)"
        )


def failed(error: BaseException | str, where: object = "") -> int:
    """Says an error on stderr; the exit status that it means."""
    text, wrong = str(error), isinstance(error, InvalidInput)
    if isinstance(error, OSError) and error.filename and error.strerror:  # without its number
        text = f"{error.filename} cannot be read or written ({error.strerror})"
        if wrong := error.errno in _NO_PLACE:
            text += "; name another file or folder"
    said = f"{where}: {text}" if where else text
    print(f"error: {shortened(said)}", file=sys.stderr)
    return 2 if wrong else 1


def shortened(text: str) -> str:
    """A text for the terminal, its middle left out where it is longer than any sentence of ours."""
    return text if len(text) <= 2 * _END else f"{text[:_END]} … {text[-_END:]}"


def not_installed(error: ModuleNotFoundError) -> int:
    """Says which extra brings a package that is not here; any other missing module is raised again."""
    package = (error.name or "").partition(".")[0]
    if package not in _EXTRAS:
        raise error
    extra = f"pip install 'awp-robustness-board[{_EXTRAS[package]}]'"
    return failed(InvalidInput(f"this needs {package}, which is not installed: {extra}"))


def answer(document: object, text: str, *, as_json: bool) -> None:
    """Prints a result, last and alone: one JSON document, or lines that can be pasted."""
    if as_json or text:
        print(json.dumps(document, indent=1) if as_json else text)


def pairs(texts: Sequence[str]) -> dict[str, Scalar]:
    """{name: number} from texts such as `width=16`."""
    found: dict[str, Scalar] = {}
    for text in texts:
        key, _, value = text.partition("=")
        try:
            number = float(value)
        except ValueError:
            raise InvalidInput(f"--arch-arg is written name=number, got {text!r}") from None
        found[key] = int(number) if number.is_integer() else number
    return found


def whole_numbers(text: str, flag: str) -> list[int]:
    """The numbers of a text such as `0,1`; flag names it in the error."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise InvalidInput(
            f"{flag} is written as whole numbers with commas, got {text!r}"
        ) from None


def floats(text: str | None, flag: str) -> tuple[float, ...] | None:
    """The numbers of a text such as `0.5,0.5,0.5`; flag names it in the error."""
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InvalidInput(f"{flag} is written as numbers with commas, got {text!r}") from None
