"""Hostile words of a command line: names, radii, seeds and counts that nobody should have given."""

from __future__ import annotations

from pathlib import Path

from tests.hostile import archives
from tests.hostile.cards import FOLDER, checkpoint
from tests.hostile.member import Accepted, Act, Member, Outcome, Refused, command, imported
from tests.hostile.results import GOOD, PLACE, good

_LONG = "n" * 10**6
_ESCAPES = "\x1b[2J\x1b]0;owned\x07\u202e"
_EPS = {
    "nan": "linf:nan",
    "inf": "linf:inf",
    "-1": "linf:-1",
    "0": "linf:0",
    "1e400": "linf:1e400",
    "1e999999999": "linf:1e999999999",
    "8/0": "linf:8/0",
    "eight/255": "linf:eight/255",
    "8": "linf:8",
    "nothing": "linf:",
    "no norm": "8/255",
    "l3": "l3:1",
    "a million digits": "linf:" + "9" * 10**6,
    "escapes": f"linf:{_ESCAPES}",
}


def _pt(folder: Path) -> None:
    (folder / archives.FILE).write_bytes(archives.saved(archives.weights()))


def _evaluate(*options: str) -> Act:
    kept = ("--protocol", "only-fgsm", "--workers", "1", "--out", "made")
    return command("evaluate", str(FOLDER), *kept, *options)


def _compare(*options: str) -> Act:
    a, b = (f"{PLACE}/{model}/{record}.json" for model, record in GOOD.items())
    return command("compare", a, b, *options)


def _import(*options: str) -> Act:
    return imported(archives.FILE, *options)


_FIGURES = {
    "nothing": "",
    "a million letters": _LONG,
    "escapes": f"clean={_ESCAPES},source={_ESCAPES}",
    "half a character": "clean=1/2,source=a\udcff",
    "10^30 images": f"clean=1/{10**30},source=x",
    "a million digits": f"clean=0.{'9' * 10**6},source=x",
    "infinity": "clean=inf,source=x",
    "no images": "clean=0/0,source=x",
    "a name with ../": "clean=1/2,dataset=../x,source=x",
    "a radius of NaN": "proven=1/2,threat=linf:nan,source=x",
    "a source of a million letters": f"clean=1/2,source={_LONG}",
    "a thousand fields": "clean=1/2," * 1000 + "source=x",
}
_LISTS: dict[str, bytes] = {
    "empty": b"",
    "100,000 deep": b'{"network":' + b"[" * 100_000,
    "2 MB of keys": b"{" + b",".join(b'"k%d":1' % k for k in range(200_000)) + b"}",
    "of no networks": b'{"network": []}',
    "of a path": b'{"network": [{"name": "a", "file": "../net.pt"}]}',
    "of words": b'{"network": [{"name": "a", "n": "all"}]}',
}


def _list(name: str) -> Act:
    return command("submissions", f"{name}.json", "--files", ".")


_WRONG: dict[str, tuple[Act, str]] = {
    "no such command": (command("frobnicate"), "frobnicate"),
    "a command of a million letters": (command(_LONG), "no command named"),
    "a command of escapes": (command(_ESCAPES), "no command named"),
    "nothing": (command(), "required|command"),
    "a flag that is none": (command("table", "--frobnicate"), "frobnicate"),
    "a flag of a million letters": (command("table", f"--{_LONG}"), "unrecognized"),
    "a flag of escapes": (command("table", f"--{_ESCAPES}"), "unrecognized"),
    "a format that is none": (command("table", "--format", "docx"), "docx"),
    "a results folder of a million letters": (command("verify", _LONG), "n"),
    "a path of escapes": (command("verify", _ESCAPES), "no record"),
    "a path of half a character": (command("verify", "a\udcff"), "no record"),
    "a protocol that is none": (_evaluate("--n", "20", "--protocol", "nonsense"), "nonsense"),
    "a protocol of a million letters": (_evaluate("--protocol", _LONG), "protocol"),
    "a protocol of escapes": (_evaluate("--protocol", _ESCAPES), "protocol"),
    "an attack that is none": (_evaluate("--protocol", "only-nonsense"), "nonsense"),
    "a data set of a million letters": (_evaluate("--dataset", _LONG), "data set"),
    "a data set of escapes": (_evaluate("--dataset", _ESCAPES), "data set"),
    "a data folder that is none": (_evaluate("--dataset", "arrays:/nowhere"), "nowhere"),
    "a split of words": (_evaluate("--split", "all"), "split"),
    "a split backwards": (_evaluate("--split", "test[9:3]"), r"test\[9:3\]"),
    "a split of 10^30": (_evaluate("--split", f"test[0:{10**30}]"), "test"),
    "a device that is none": (_evaluate("--n", "20", "--device", "moon"), "moon|device"),
    "n of 0": (_evaluate("--n", "0"), "n must|at least 1|--n"),
    "n below zero": (_evaluate("--n", "-5"), "n must|at least 1|--n"),
    "n of 10^30": (_evaluate("--n", str(10**30)), "n"),
    "n of words": (_evaluate("--n", "all"), "--n"),
    "workers of 0": (_evaluate("--n", "20", "--workers", "-1"), "workers"),
    "batch of 0": (_evaluate("--n", "20", "--batch", "0"), "batch"),
    "batch below zero": (_evaluate("--n", "20", "--batch", "-8"), "batch"),
    "a seed below zero": (_evaluate("--n", "20", "--seed", "-1"), "seed"),
    "a seed of 2^70": (_evaluate("--n", "20", "--seed", str(2**70)), "seed"),
    "a seed of a half": (_evaluate("--n", "20", "--seed", "0.5"), "seed"),
    "a level of NaN": (_compare("--level", "nan"), "level"),
    "a level of 2": (_compare("--level", "2"), "level"),
    "a claim of 84": (command("doctor", str(FOLDER), "--n", "20", "--claimed", "84"), "claimed"),
    "a name of a million letters": (_import("--name", _LONG), "name"),
    "a name of escapes": (_import("--name", _ESCAPES), "name"),
    "a name with ../": (_import("--name", "../../escaped"), "name"),
    "a name of nothing": (_import("--name", ""), "name"),
    "a name of HTML": (_import("--name", "<script>"), "name"),
    "an author of half a character": (_import("--authors", "a\udcff"), "authors|text|unicode"),
    "an author of a million letters": (_import("--authors", _LONG), "authors"),
    "a mean of NaN": (_import("--mean", "nan"), "mean"),
    "a mean of words": (_import("--mean", "grey"), "mean"),
    "a std of 0": (_import("--std", "0"), "std"),
    "a width of 10^9": (_import("--arch-arg", "width=1e9"), "width|small_cnn|parameters"),
    "a width of infinity": (_import("--arch-arg", "width=inf"), "width|arch-arg"),
    "a width of NaN": (_import("--arch-arg", "width=nan"), "width|arch-arg"),
    "gamma of NaN": (_import("--awp", "gamma=nan"), "gamma"),
    "gamma of 1e400": (_import("--awp", "gamma=1e400"), "gamma"),
    "epochs below zero": (_import("--epochs", "-1"), "epochs"),
    "a twin with ../": (_import("--twin", "../x"), "twin"),
    **{
        f"a figure of {name}": (_import("--figure", figure), "--figure|figure|eps")
        for name, figure in _FIGURES.items()
    },
    "weights that are not copied and lie nowhere": (_import("--no-copy"), "--link"),
    **{f"a list of networks that is {name}": (_list(name), r"\.json") for name in _LISTS},
    "weights of a million letters": (_import("--weights", _LONG), "weights"),
    "weights of escapes": (_import("--weights", _ESCAPES), "weights"),
    **{
        f"eps {name}": (_evaluate("--n", "20", "--threat", eps), "eps|threat")
        for name, eps in _EPS.items()
    },
}


def _all(folder: Path) -> None:
    checkpoint(folder)
    _pt(folder)
    good(folder)
    for name, content in _LISTS.items():
        (folder / f"{name}.json").write_bytes(content)


def _member(name: str, act: Act, outcome: Outcome, *, short: bool = False) -> Member:
    return Member(f"call: {name}", "calls", _all, act, outcome, short)


MEMBERS = (
    *(
        _member(name, act, Refused(words), short=k % 6 == 0)
        for k, (name, (act, words)) in enumerate(_WRONG.items())
    ),
    _member("honest: list", command("list"), Accepted("small_cnn"), short=True),
    _member("honest: compare", _compare(), Accepted("A minus B"), short=True),
    _member(
        "honest: evaluate",
        _evaluate("--n", "20", "--threat", "linf:0.15"),
        Accepted("fgsm"),
        short=True,
    ),
    _member(
        "honest: a radius as it is meant",
        _evaluate("--n", "20", "--threat", "linf:1.5e-1"),
        Accepted("fgsm"),
    ),
)
