"""Hostile records, and what lies beside them: withdrawals, logs, gaps, studies, published numbers.

A results folder holds two good records; a third file is hostile. The tables stand and name it.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.hostile.member import (
    Accepted,
    Act,
    Build,
    Member,
    Outcome,
    Refused,
    Stands,
    command,
    page,
)

COMMITTED = Path(__file__).parents[2] / "results" / "digits" / "linf-0.15"
PLACE = Path("results/digits/linf-0.15")
GOOD = {"digits-at-awp-s0-last": "20c4237f58429e30", "digits-at-s0-last": "c665754e2ab4c558"}
MODEL, ID = "digits-at-s1-last", "623efcb7e9ded033"  # the third, which is made hostile
TABLE = command("table", "--results", "results")
Json = dict[str, Any]


def good(folder: Path) -> Path:
    """Lays out the two good records; returns the folder of the third one's model, empty."""
    for model, record in GOOD.items():
        there = folder / PLACE / model
        there.mkdir(parents=True)
        for name in (f"{record}.json", "card.json", "train.jsonl", "gap.json"):
            shutil.copy(COMMITTED / model / name, there / name)
    (folder / PLACE / MODEL).mkdir()
    return folder / PLACE / MODEL


@functools.cache
def _text() -> str:
    return (COMMITTED / MODEL / f"{ID}.json").read_text()


def record() -> Json:
    """The third record as JSON holds it, sound."""
    return dict(json.loads(_text()))


def signed(raw: Json) -> Json:
    """With the id of what it says now, as far as it can be read at all."""
    from bench.measure.request import Request
    from bench.schema import EvaluationRecord

    try:
        return {**raw, "id": Request.of(EvaluationRecord.model_validate({**raw, "id": ID})).id}
    except ValueError:
        return raw


def _put(folder: Path, content: str | bytes, name: str = f"{ID}.json") -> None:
    raw = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    (good(folder) / name).write_bytes(raw)


def _changed(change: Callable[[Json], object]) -> Build:
    """The third record after a change, with its id and its file's name made to fit again."""

    def build(folder: Path) -> None:
        raw = record()
        change(raw)
        raw = signed(raw)
        _put(folder, json.dumps(raw), f"{raw['id']}.json")

    return build


def _written(write: Callable[[str], str | bytes]) -> Build:
    """The third record as text, after a change of the text."""
    return lambda folder: _put(folder, write(_text()))


def inside(key: str, value: object) -> Callable[[Json], object]:
    """Puts a value at a place such as card.name or columns.fgsm.outcomes.0.broken."""

    def change(raw: Any) -> None:
        *way, last = key.split(".")
        for step in way:
            raw = raw[int(step) if step.isdigit() else step]
        raw[int(last) if last.isdigit() else last] = value

    return change


DEEP = "[" * 100_000 + "]" * 100_000

# Texts that are no JSON of a record, whatever the record; of a card, too.
TEXTS: dict[str, Callable[[str], str | bytes]] = {
    "empty": lambda text: "",
    "a web page": lambda text: "<!DOCTYPE html><html>not found</html>",
    "cut in the middle": lambda text: text[: len(text) // 2],
    "a list": lambda text: "[1, 2]",
    "null": lambda text: "null",
    "a number": lambda text: "7",
    "2 million unknown fields": lambda text: (
        text.rstrip()[:-1] + "," + ",".join(f'"f{k}":0' for k in range(2_000_000)) + "}"
    ),
    "100,000 deep": lambda text: DEEP,
    "a field 100,000 deep": lambda text: text.rstrip()[:-1] + f', "x": {DEEP}}}',
    "a number of 100,000 digits": lambda text: text.replace('"seed": 1', '"seed": ' + "9" * 10**5),
    "NaN": lambda text: text.replace('"seed": 1', '"seed": NaN'),
    "infinity": lambda text: text.replace('"seed": 1', '"seed": Infinity'),
    "1e400": lambda text: text.replace('"seed": 1', '"seed": 1e400'),
    "a key twice": lambda text: text.rstrip()[:-1] + ', "seed": 5, "seed": 6}',
    "UTF-16": lambda text: text.encode("utf-16"),
    "bytes that are no UTF-8": lambda text: text.encode().replace(b"digits", b"\xff\xfe", 1),
    "null bytes": lambda text: bytes(1000),
    "half a character": lambda text: text.rstrip()[:-1] + ', "\\ud800": "\\udfff"}',
    "an unknown field with escapes": lambda text: text.rstrip()[:-1] + ', "\\u001b[2J\\u202e": 1}',
    "an unknown field of a million letters": lambda text: (
        text.rstrip()[:-1] + f', "{"k" * 10**6}": 1}}'
    ),
}

FIELDS: dict[str, Callable[[Json], object]] = {
    "a newer schema": inside("schema_version", 99),
    "schema of words": inside("schema_version", "two"),
    "no card": lambda raw: raw.pop("card"),
    "columns are a list": inside("columns", []),
    "no columns": inside("columns", {}),
    "n of 999": inside("n", 999),
    "n of 10^7": inside("n", 10**7),
    "n of 10^30": inside("n", 10**30),
    "n below zero": inside("n", -1000),
    "n is a text": inside("n", "1000; DROP TABLE"),
    "broken below zero": inside("columns.fgsm.outcomes.0.broken", -1),
    "broken that its bits are not": inside("columns.fgsm.outcomes.0.broken", 1),
    "bits cut short": inside("columns.fgsm.outcomes.0.standing", "AAAA"),
    "bits that are no base64": inside("columns.fgsm.outcomes.0.standing", "\x1b[2J"),
    "labels of nothing": inside("labels", ""),
    "labels that inflate to 1 GB": lambda raw: inside("labels", _bomb())(raw),
    "a name with escapes": inside("card.name", "\x1b[2Jowned"),
    "a name with ../": inside("card.name", "../../../escaped"),
    "a name with newlines": inside("card.name", "a\nerror: b"),
    "a name of a million letters": inside("card.name", "n" * 10**6),
    "a name of HTML": inside("card.name", "<script>alert(1)</script>"),
    "a name that is a formula": inside("card.name", "=1+1"),
    "a data set with ../": inside("dataset", "../digits"),
    "a split of a million letters": inside("split", "s" * 10**6),
    "a threat of 10^9": inside("threat.eps", "1e999999999"),
    "a threat of nothing": inside("threat", None),
    "a perturbation that is infinite": inside(
        "columns.fgsm.outcomes.0.largest_perturbation", "Infinity"
    ),
    "a perturbation that is no number": inside(
        "columns.fgsm.outcomes.0.largest_perturbation", "NaN"
    ),
}


def _bomb() -> str:
    import base64
    import zlib

    return base64.b64encode(zlib.compress(bytes(10**9), 9)).decode()


# ---------------------------------------------------------------- files that are no files


def _at(name: str, make: Callable[[Path], object]) -> Build:
    """Something else under a name in the third model's folder."""
    return lambda folder: make(good(folder) / name)


def _large(path: Path) -> None:
    with path.open("wb") as file:
        file.write(b"{")
        file.truncate(4 * 2**30)


THINGS: dict[str, Callable[[Path], object]] = {
    "a link to /dev/zero": lambda path: path.symlink_to("/dev/zero"),
    "a link to a private file": lambda path: path.symlink_to(Path("secret.json").absolute()),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to nowhere": lambda path: path.symlink_to("nowhere"),
    "a pipe": os.mkfifo,
    "a folder": lambda path: path.mkdir(),
    "4 GB of nothing": _large,
}


def _withdrawn(make: Callable[[Path], object]) -> Build:
    """A withdrawal of a good record that cannot be read: the record is out all the same."""

    def build(folder: Path) -> None:
        good(folder).rmdir()
        shutil.copytree(folder / PLACE / "digits-at-s0-last", folder / PLACE / MODEL)
        (folder / PLACE / MODEL / f"{GOOD['digits-at-s0-last']}.json").unlink()
        shutil.copy(COMMITTED / MODEL / f"{ID}.json", folder / PLACE / MODEL)
        make(folder / PLACE / MODEL / f"{ID}.withdrawn.json")

    return build


def _loops(folder: Path) -> None:
    for name in ("a", "b", "c"):
        (good(folder) if name == "a" else folder / PLACE / MODEL).joinpath(name).symlink_to("..")
    (folder / PLACE / "loop").symlink_to("../..")
    (folder / "results" / "loop").symlink_to(".")


def _odd_names(folder: Path) -> None:
    there = good(folder)
    for name in ("\x1b[2J0123456789", "0123456789\n12345", "<script>12345678"):
        (there / f"{name[:16].ljust(16, '0')}.json").write_text("{}")
    (Path(os.fsdecode(bytes(there) + b"/\xff\xfe0123456789abcd.json"))).write_text("{}")


def _rival(folder: Path) -> None:
    """A record of the best model's weights under another name, on which nothing stands."""
    best = COMMITTED / "digits-at-awp-s0-last" / f"{GOOD['digits-at-awp-s0-last']}.json"
    raw = json.loads(best.read_text())
    import numpy as np

    from bench.schema.packing import pack_bits, pack_ints, unpack_bits, unpack_ints

    labels = unpack_ints(raw["labels"], 1000)
    correct = unpack_ints(raw["clean_predictions"], 1000) == labels
    for column in raw["columns"].values():
        (outcome,) = column["outcomes"]
        outcome["standing"] = pack_bits(np.zeros(1000, bool))
        outcome["broken"] = int(correct.sum())
        outcome["adversarial_predictions"] = pack_ints((labels[correct] + 1) % 10)
        outcome["uint8_survivors"] = None
    assert unpack_bits(outcome["standing"], 1000).sum() == 0
    raw["seed"] = 5
    raw["card"]["name"] = "rival"
    raw = signed(raw)
    _put(folder, json.dumps(raw), f"{raw['id']}.json")


def _weaker(folder: Path, **labels: str) -> None:
    """`gradient` by its name, with one step of PGD, and with other headings."""
    raw = record()
    for column in raw["protocol"]["columns"]:
        column["label"] = labels.get(column["name"], column["label"])
    column = next(c for c in raw["protocol"]["columns"] if c["name"] == "pgd20")
    column["attacks"][0]["params"]["steps"] = 1
    from bench.schema import Protocol

    made = Protocol.model_validate(raw["protocol"])
    for each in made.columns:
        raw["columns"][each.name]["column_id"] = each.column_id
    held = raw["columns"]["pgd20"]["outcomes"][0]
    held["spec"]["params"]["steps"] = 1
    raw = signed(raw)
    _put(folder, json.dumps(raw), f"{raw['id']}.json")


def _beside(place: str, make: Callable[[Path], object]) -> Build:
    """Something at a path below the results folder."""

    def build(folder: Path) -> None:
        good(folder)
        path = folder / "results" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        make(path)

    return build


def _holding(text: str | bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(text if isinstance(text, bytes) else text.encode())


def _table(
    name: str, build: Build, words: str = ID, *, act: Act = TABLE, short: bool = False,
    outcome: Outcome | None = None,
) -> Member:  # fmt: skip
    return Member(name, "records", build, act, outcome or Stands(words), short)


_COMPARE = command(
    "compare",
    f"{PLACE}/{MODEL}/{ID}.json",
    f"{PLACE}/digits-at-s0-last/{GOOD['digits-at-s0-last']}.json",
)
_PAGE = page("model", name="digits-at-s0-last")
_NAMED = r"[0-9a-f]{16}\.json"
_LOGS = {
    "100,000 deep": DEEP,
    "numbers of 100,000 digits": '{"epoch": ' + "9" * 10**5 + "}\n",
    "NaN and infinity": '{"epoch": NaN, "validation_n": 1e999, "validation_robust_correct": 5}\n',
    "epochs of 10^12": '{"epoch": 1e12, "validation_n": 10, "validation_robust_correct": 5}\n' * 99,
    "counts below zero": '{"epoch": 1, "validation_n": -1, "validation_robust_correct": -5}\n',
    "half characters and escapes": '{"epoch": "\\ud800\\u001b[2J"}\n',
    "null bytes": bytes(10**5).decode(),
}

MEMBERS = (
    *(
        _table(f"record: {name}", _written(write), short=k % 5 == 0)
        for k, (name, write) in enumerate(TEXTS.items())
    ),
    *(
        _table(f"record: {name}", _changed(change), _NAMED, short=k % 6 == 0)
        for k, (name, change) in enumerate(FIELDS.items())
    ),
    *(
        _table(f"record is {name}", _at(f"{ID}.json", make), short=k % 2 == 0)
        for k, (name, make) in enumerate(THINGS.items())
    ),
    *(
        _table(
            f"board: record is {name}",
            _at(f"{ID}.json", make),
            "",
            act=page(),
            short=name == "a pipe",
        )
        for name, make in THINGS.items()
    ),
    *(
        _table(
            f"compare: record is {name}", _at(f"{ID}.json", make), act=_COMPARE, outcome=Refused(ID)
        )
        for name, make in THINGS.items()
        if name != "a folder"
    ),
    *(
        _table(f"compare: {name}", _written(TEXTS[name]), act=_COMPARE, outcome=Refused(ID))
        for name in ("100,000 deep", "2 million unknown fields", "null bytes", "UTF-16")
    ),
    *(
        _table(f"withdrawal is {name}", _withdrawn(make), "withdrawn", short=name == "a pipe")
        for name, make in THINGS.items()
        if "nowhere" not in name
    ),
    _table("withdrawal 100,000 deep", _withdrawn(_holding(f'{{"reason": {DEEP}}}')), "withdrawn"),
    _table(
        "withdrawal with escapes",
        _withdrawn(_holding('{"reason": "\\u001b[2J\\u202e<b>"}')),
        "withdrawn",
    ),
    *(
        _table(
            f"log is {name}",
            _beside(
                "digits/linf-0.15/digits-at-s0-last/train.jsonl",
                lambda path, make=make: (path.unlink(), make(path)),
            ),
            "",
            act=_PAGE,
            outcome=Accepted("digits-at-s0-last"),
        )
        for name, make in THINGS.items()
    ),  # type: ignore[misc]
    *(
        _table(
            f"log: {name}",
            _beside("digits/linf-0.15/digits-at-s0-last/train.jsonl", _holding(text)),
            "",
            act=_PAGE,
            outcome=Accepted("digits-at-s0-last"),
            short=k == 0,
        )
        for k, (name, text) in enumerate(_LOGS.items())
    ),
    *(
        _table(
            f"gap is {name}",
            _beside(
                "digits/linf-0.15/digits-at-s0-last/gap.json",
                lambda path, make=make: (path.unlink(), make(path)),
            ),
            "",
            act=_PAGE,
            outcome=Accepted("digits-at-s0-last"),
        )
        for name, make in THINGS.items()
    ),  # type: ignore[misc]
    *(
        _table(f"study is {name}", _beside("studies/odd.json", make), "odd")
        for name, make in THINGS.items()
    ),
    _table("study 100,000 deep", _beside("studies/odd.json", _holding(DEEP)), "odd"),
    *(
        _table(f"board: study is {name}", _beside("studies/odd.json", make), "", act=page("awp"))
        for name, make in THINGS.items()
    ),
    *(
        _table(
            f"published table is {name}",
            _beside("published/odd.csv", make),
            "odd",
            act=command("table", "--results", "results", "--published"),
        )
        for name, make in THINGS.items()
    ),
    *(
        _table(
            f"published number is {name}",
            _beside("published/model_info/cifar10/Linf/Odd.json", make),
            "Odd",
            act=command("table", "--results", "results", "--published"),
        )
        for name, make in THINGS.items()
    ),
    _table(
        "published number 100,000 deep",
        _beside("published/model_info/cifar10/Linf/Odd.json", _holding(DEEP)),
        "Odd",
        act=command("table", "--results", "results", "--published"),
    ),
    _table(
        "published table of escapes",
        _beside("published/odd.csv", _holding("attack,robust_accuracy_percent\n\x1b[2J,\x1b[2J\n")),
        "odd",
        act=command("table", "--results", "results", "--published"),
    ),
    _table(
        "published mark of escapes",
        _beside(
            "published/odd.csv",
            _holding(
                "dataset,norm,model_id,repository,commit,file,default,arxiv\n"
                "cifar10,Linf,Odd\x1b[2J,a/b,1234567,\x1b[2J,\x1b[2J,2210.09852\n"
            ),
        ),
        r"AWP of Odd.*no such row",
        act=command("table", "--results", "results", "--published"),
    ),
    _table("folders that lead to themselves", _loops, ""),
    _table("files of odd names", _odd_names, "not in the tables"),
    _table(
        "a rival's weights with nothing standing",
        _rival,
        r"digits-at-awp-s0-last +AT-AWP +94\.5 +74\.9 +67\.7 +68\.8 +67\.0",
    ),
    _table("a weaker protocol under a known name", _weaker, rf"gradient \(id|{_NAMED}"),
    _table(
        "a column under the heading of another",
        lambda folder: _weaker(folder, fgsm="AutoAttack"),
        rf"\A(?!.*AutoAttack)|{_NAMED}",
        short=True,
    ),
    _table("record: an id of another", _written(lambda text: text.replace(ID, "0123456789abcdef"))),
    _table(
        "the index is damaged",
        lambda folder: (
            good(folder),
            (folder / "var/board").mkdir(parents=True),
            *((folder / "var/board" / f"{k:016x}.index").write_bytes(bytes(99)) for k in range(3)),
        ),
        "",
    ),
)
