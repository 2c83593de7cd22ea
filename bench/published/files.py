"""Reads results/published: tables of published numbers and RobustBench's model_info files.

Each of the latter (arXiv 2010.09670) is one model of its leaderboard as JSON, with percentages as texts
such as "56.17", at model_info/<data set>/<norm>/<id>.json. A line or file that cannot be read is named
in a note and skipped; the rest is used.
"""

from __future__ import annotations

import csv
import functools
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError

from bench.notation import plain
from bench.published import AUTOATTACK, Published, PublishedRow
from bench.records import json_files
from bench.records.one_read import read_whole
from bench.records.store import write_atomic
from bench.schema import InvalidInput, Text, ThreatModel, safe_name
from bench.schema.threat import PUBLISHED_NORMS, format_eps, parse_eps

_TABLES, _MODEL_INFO = "*.csv", "model_info/*/*/*.json"
FOLDER = "published"  # under the results folder
# Those that come along: in the checkout, or inside this folder where bench was installed.
_INSTALLED = Path(__file__).with_name("numbers")
SHIPPED = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).parents[2] / "results" / FOLDER
_LARGEST_FILE = 4 * 2**20  # bytes
_DEFAULT_EPS = {"L2": "0.5", "Linf": "8/255"}  # of RobustBench's boards, where a file has no eps
_IMAGENET_EPS = {"Linf": "4/255"}
_LIKELY = {"model_id", "repository", "commit", "file", "default", "arxiv"}  # headings


Awp = Literal["yes", "likely", "no"]


class Likely(NamedTuple):
    """That the code which trained a model of RobustBench's defaults to AWP, and who says so."""

    dataset: str
    norm: str
    name: str
    source: str


def files(folder: Path) -> list[Path]:
    """The files that load() reads, in a fixed order; opens none."""
    return sorted((*folder.glob(_TABLES), *folder.glob(_MODEL_INFO)))


def load(folder: Path) -> Published:
    """Every published row under a folder such as results/published; what cannot be read is noted."""
    found = [answer for path in sorted(folder.glob(_TABLES)) for answer in _table_rows(path)]
    for path in sorted(folder.glob(_MODEL_INFO)):
        try:
            found.append(row_of_model_info(read_model_info(path), path))
        except InvalidInput as error:
            found.append(f"{error}; skipped")
    rows = _once([answer for answer in found if isinstance(answer, PublishedRow)])
    likely = [answer for answer in found if isinstance(answer, Likely)]
    notes = [answer for answer in found if isinstance(answer, str)]
    rows, idle = _marked(rows, likely)
    return Published(tuple(rows), tuple(plain(note, 500) for note in (*notes, *idle)))


def _table_rows(path: Path) -> Iterator[PublishedRow | Likely | str]:
    """What the lines of one CSV file say; a sentence that names file and line for each one skipped."""
    try:
        text = read_whole(path, largest=_LARGEST_FILE).decode("utf-8")
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        headings = set(reader.fieldnames or ())
    except (OSError, ValueError, csv.Error) as error:
        why = "it is no UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
        yield f"{path} cannot be read ({why}); skipped"
        return
    place = re.fullmatch(r"robustbench_([a-z0-9]+)_(linf|l2|l1)\.csv", path.name)
    read: Callable[[dict[str, str]], PublishedRow | Likely]
    if place and "model_id" in headings:
        read = functools.partial(_robustbench_row, dataset=place[1], norm=place[2])
    elif {"attack", "robust_accuracy_percent"} <= headings:
        read = _awp_row
    elif headings >= _LIKELY:
        read = _likely
    else:
        yield f"{path} has the headings of no known table of published numbers; skipped"
        return
    while True:
        try:
            line = next(reader, None)
            if line is None:
                return
            if None in line or None in line.values():
                raise ValueError("not as many fields as headings")
            row = read(line)
        except (KeyError, ValueError, csv.Error) as error:
            yield f"{path}, line {reader.line_num}: {_reason(error)}; skipped"
        else:
            yield row


def _reason(error: Exception, whole: str = "row") -> str:
    if isinstance(error, ValidationError):
        return json_files.first_mistake(error, whole)
    return f"no field {error}" if isinstance(error, KeyError) else str(error)


def _robustbench_row(line: dict[str, str], *, dataset: str, norm: str) -> PublishedRow:
    """A line of RobustBench's model_info as a table."""
    folder = f"model_info/{dataset}/{norm.capitalize()}"
    return PublishedRow(
        dataset=dataset,
        threat=ThreatModel.parse(f"{norm}:{line['eps']}"),
        name=line["model_id"],
        attack=AUTOATTACK,
        robust=Decimal(_number(line["autoattack_acc"])),
        clean=_optional(line["clean_acc"]),
        best_known=_optional(line["external_acc"]),
        reported=_optional(line["reported_acc"]),
        architecture=line["architecture"],
        extra_data=_bool(line["additional_data"]),
        unreliable=_bool(line["unreliable"]),
        title=line["title"],
        authors=line["authors_short"],
        venue=line["venue"],
        link=line["link"],
        source=f"RobustBench/robustbench {folder}/{line['model_id']}.json",
    )


def _awp_row(line: dict[str, str]) -> PublishedRow:
    """A line of published_awp.csv: one value, with its source."""
    awp, notes, source = _bool(line["awp"]), line["notes"], line["source"]
    method = f"{line['method']}-AWP" if awp else line["method"]
    file = re.search(r"/([^/]+)\.json$", source)
    return PublishedRow(
        dataset=line["dataset"],
        threat=ThreatModel.parse(f"{line['norm']}:{line['eps']}"),
        name=file[1] if file and source.startswith("RobustBench/") else method,
        attack=line["attack"],
        robust=Decimal(_number(line["robust_accuracy_percent"])),
        clean=_optional(line["clean_accuracy_percent"]),
        architecture=line["architecture"],
        method=method,
        awp=awp,
        extra_data=True if "additional data" in notes or "RST" in line["method"] else None,
        checkpoint=line["checkpoint"],
        link=address(source),
        source=source,
        notes=notes,
    )


def _likely(line: dict[str, str]) -> Likely:
    """A line of likely_awp.csv: which script trained an entry, and what it does by default."""
    forms = {
        "repository": r"[\w.-]+/[\w.-]+",
        "commit": "[0-9a-f]{7,40}",
        "arxiv": r"\d{4}\.\d{4,5}",
    }
    for heading in ("model_id", "repository", "commit", "file", "default", "arxiv"):
        if not re.fullmatch(forms.get(heading, r"\S.*"), line[heading]):
            raise ValueError(
                f"{heading}: a likely AWP needs its source, got {line[heading][:40]!r}"
            )
    source = plain("{repository}@{commit} {file} {default}, arXiv {arxiv}".format_map(line), 300)
    return Likely(line["dataset"], line["norm"].lower(), line["model_id"], source)


def _number(text: str) -> str:
    """The text of a percentage; ValueError for anything but plain digits."""
    if not re.fullmatch(r"\d{1,3}(\.\d{1,6})?", text):
        raise ValueError(f"a percentage is written like 56.17, got {text[:40]!r}")
    return text


def _optional(text: str) -> Decimal | None:
    return Decimal(_number(text)) if text else None


def _bool(text: str) -> bool | None:
    known = {"True": True, "False": False, "": None}
    if text not in known:
        raise ValueError(f"expected True, False or nothing, got {text[:40]!r}")
    return known[text]


def address(source: str) -> str:
    """Where `owner/repository@commit file:line` can be read."""
    found = re.fullmatch(r"([\w.-]+/[\w.-]+)(?:@(\w+))? ([^\s:]+)(?::(\d+))?", source)
    if found is None:
        return ""
    repository, commit, file, line = found.groups()
    if commit is None:
        return f"https://github.com/{repository}"
    anchor = f"#L{line}" if line else ""
    return f"https://github.com/{repository}/blob/{commit}/{file}{anchor}"


def _once(rows: Sequence[PublishedRow]) -> list[PublishedRow]:
    """Each of RobustBench's entries once: as read last, with what an earlier file said of its method.

    published_awp.csv comes first and names methods; files added by hand come last.
    """
    kept: dict[object, PublishedRow] = {}
    for row in rows:
        key = _entry_of(row) or len(kept)
        known = kept.pop(key, None)
        if known is not None:
            said = {"method": known.method, "awp": known.awp, "notes": known.notes}
            new = {name: value for name, value in said.items() if getattr(row, name) in (None, "")}
            if new.get("awp") is not None:  # what is stated is not likely
                new |= {"awp_likely": False, "awp_source": known.awp_source}
            row = row.model_copy(update=new)
        kept[key] = row
    return list(kept.values())


def _entry_of(row: PublishedRow) -> tuple[str, str, str] | None:
    """Which entry of RobustBench a row is: data set, norm, id; None of a row of another source."""
    if not row.source.startswith(("RobustBench/", "model_info/")):
        return None
    return row.dataset, row.threat.norm, row.name


def _marked(
    rows: Sequence[PublishedRow], likely: Sequence[Likely]
) -> tuple[list[PublishedRow], list[str]]:
    """The rows, those marked whose AWP is likely and not stated; a note for each mark of no row."""
    left = {(each.dataset, each.norm, each.name): each.source for each in likely}
    marked = []
    for row in rows:
        entry = _entry_of(row)
        source = left.pop(entry, None) if entry else None
        if source and row.awp is None and not row.awp_likely:
            row = row.model_copy(update={"awp_likely": True, "awp_source": source})
        marked.append(row)
    return marked, [
        f"AWP of {name} ({dataset}, {norm}) is called likely by {source}, but there is no such row; "
        "skipped"
        for (dataset, norm, name), source in left.items()
    ]


# ---------------------------------------------------------------- RobustBench's files

NORMS = {theirs: ours for ours, theirs in PUBLISHED_NORMS.items()}
_LARGEST_INFO = 2**20  # bytes


def _percentage(value: object) -> object:
    """Percentages are strings, but older files hold numbers; neither may be an exponent."""
    if isinstance(value, str) and not value.strip():
        return None
    if isinstance(value, bool) or (isinstance(value, str) and "e" in value.lower()):
        raise ValueError("a percentage is written like 56.17")
    return str(value) if isinstance(value, float) else value


def _text(value: object) -> object:
    """A text that is not there is an empty one: RobustBench's code expects these keys in a file."""
    return "" if value is None else value


def _awp(value: object) -> object:
    """Whether weights were perturbed may be written as true or false."""
    return ("yes" if value else "no") if isinstance(value, bool) else value


def _radius(value: object) -> object:
    """The radius may have been written as a number: 0.03137254901960784 is 8/255."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return format_eps(parse_eps(value, "l1"))


_Percentage = Annotated[
    Annotated[Decimal, Field(ge=0, le=100, max_digits=20)] | None,
    BeforeValidator(_percentage),
    PlainSerializer(lambda v: None if v is None else str(v), return_type=str | None),
]

_TextOrNone = Annotated[Text, BeforeValidator(_text)]


class ModelInfo(BaseModel):
    """One model of RobustBench's leaderboard; fields it does not name here are kept."""

    model_config = ConfigDict(frozen=True, extra="allow")

    link: _TextOrNone = ""
    name: _TextOrNone = ""  # title of the paper
    authors: _TextOrNone = ""
    additional_data: bool | None = None
    number_forward_passes: int | None = Field(default=None, ge=0)
    dataset: Text
    venue: _TextOrNone = ""
    architecture: _TextOrNone = ""
    eps: Annotated[Text | None, BeforeValidator(_radius)] = None  # "8/255", of the pixel range
    clean_acc: _Percentage = None
    reported: _Percentage = None  # by the authors
    autoattack_acc: _Percentage = None
    external: _Percentage = None  # the lowest that anybody found; the rank key where it is there
    unreliable: bool | None = None
    footnote: Text | None = None
    # Two that RobustBench's own files have not; what is likely needs its source.
    awp: Annotated[Awp | None, BeforeValidator(_awp)] = None
    awp_source: Text | None = None

    def json_text(self) -> str:
        """The file; fields without a value are left out, as RobustBench's own files do."""
        value = self.model_dump(mode="json", exclude_none=True)
        return json.dumps(value, indent=2, ensure_ascii=True) + "\n"


def read_model_info(path: Path, *, follow: bool = False) -> ModelInfo:
    """Reads one file. Raises InvalidInput naming it, and the field, where it cannot be read.

    follow: a link is read too.
    """
    raw = json_files.parsed(read_whole(path, largest=_LARGEST_INFO, follow=follow), path)
    if not isinstance(raw, dict):
        raise InvalidInput(f"{path} is not a JSON object")
    try:
        return ModelInfo.model_validate(raw)
    except ValidationError as error:
        raise InvalidInput(f"{path} is no model_info file: {_reason(error, 'file')}") from None


def row_of_model_info(info: ModelInfo, path: Path) -> PublishedRow:
    """The published row of one of RobustBench's files, `<data set>/<Linf, L2 or L1>/<id>.json`.

    Raises InvalidInput where it holds no accuracy under AutoAttack in a norm ball.
    """
    norm = path.parent.name
    if norm not in NORMS:
        raise InvalidInput(
            f"{path}: the folder of such a file names its norm, {', '.join(NORMS)}; got {norm!r}"
        )
    if info.autoattack_acc is None:
        raise InvalidInput(f"{path} has no autoattack_acc: only accuracy under AutoAttack is read")
    usual = _IMAGENET_EPS if info.dataset == "imagenet" else _DEFAULT_EPS
    eps = usual.get(norm) if info.eps is None else info.eps
    if eps is None:
        raise InvalidInput(f"{path} has no eps, and {norm} has no usual one")
    try:
        return PublishedRow(
            dataset=info.dataset,
            threat=ThreatModel.model_validate({"norm": NORMS[norm], "eps": eps}),
            name=path.stem,
            attack=AUTOATTACK,
            robust=info.autoattack_acc,
            clean=info.clean_acc,
            best_known=info.external,
            reported=info.reported,
            architecture=info.architecture,
            awp={"yes": True, "no": False}.get(info.awp or ""),
            awp_likely=info.awp == "likely",
            awp_source=info.awp_source or "",
            extra_data=info.additional_data,
            forward_passes=info.number_forward_passes,
            unreliable=info.unreliable,
            title=info.name,
            authors=info.authors,
            venue=info.venue,
            link=info.link,
            source=f"model_info/{info.dataset}/{norm}/{path.name}",
            notes=info.footnote or "",
        )
    except (ValidationError, InvalidInput) as error:
        raise InvalidInput(f"{path}: {_reason(error)}") from None


_AWP: dict[bool | None, Awp | None] = {True: "yes", False: "no", None: None}


def model_info_of_row(row: PublishedRow) -> ModelInfo:
    """Inverse of row_of_model_info."""
    return ModelInfo(
        link=row.link,
        name=row.title,
        authors=row.authors,
        additional_data=row.extra_data,
        number_forward_passes=row.forward_passes,
        dataset=row.dataset,
        venue=row.venue,
        architecture=row.architecture,
        eps=row.threat.eps,
        clean_acc=row.clean,
        reported=row.reported,
        autoattack_acc=row.robust,
        external=row.best_known,
        unreliable=row.unreliable,
        footnote=row.notes or None,
        awp="likely" if row.awp_likely else _AWP[row.awp],
        awp_source=row.awp_source or None,
    )


def _refuse_unlikely(file: Path, row: PublishedRow) -> None:
    """Raises InvalidInput where the accuracies of a file cannot be what they are said to be."""
    said = {"robust": row.robust, "clean": row.clean, "best known": row.best_known}
    given = {name: value for name, value in said.items() if value is not None}
    if 0 < max(given.values()) <= 1:
        raise InvalidInput(
            f"{file}: {', '.join(f'{k} {v}' for k, v in given.items())} look like shares; "
            "percent are wanted, such as 56.3"
        )
    if row.clean is not None and row.robust > row.clean:
        raise InvalidInput(
            f"{file}: robust accuracy {row.robust} % above clean accuracy {row.clean} %; "
            "are they swapped?"
        )


def add(
    file: Path,
    folder: Path,
    *,
    norm: str | None = None,
    awp: Awp | None = None,
    awp_source: str | None = None,
) -> Path:
    """Copies one of RobustBench's files to where `load` finds it; returns where.

    norm is "Linf", "L2" or "L1"; by default the name of the file's folder. awp is "yes", "likely" or
    "no", which is written into the copy with its source; a likely one needs it. Raises InvalidInput
    where the file cannot be a row, says something else of AWP, or another one has its place.
    """
    info = read_model_info(file, follow=True)
    given = {"awp": awp, "awp_source": awp_source}
    for name, value in given.items():
        written = getattr(info, name)
        if value is not None and written not in (None, value):
            raise InvalidInput(
                f"{file} says {name} {written!r}, and {value!r} was given: which is it?"
            )
    info = info.model_copy(update={name: value for name, value in given.items() if value})
    if info.awp_source and not info.awp:
        raise InvalidInput(f"{file}: awp_source {info.awp_source!r} says where, expected awp too")
    norm = norm or file.resolve().parent.name
    target = folder / "model_info" / safe_name(info.dataset) / norm / f"{safe_name(file.stem)}.json"
    _refuse_unlikely(file, row_of_model_info(info, target))
    if target.exists() and read_model_info(target) != info:
        raise InvalidInput(
            f"{target} says something else already. Remove it first, or give the new file another "
            "name"
        )
    write_atomic(target, info.json_text())
    return target
