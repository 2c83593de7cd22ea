"""What README says that AWP did: sentences of ours, every figure filled in from the studies and tables.

They stand between two lines of the README beside the results folder. A README without these lines is
left alone; a figure that nothing gives any more is named, and nothing is written in its place.
"""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from awp_train.findings import Judged
from bench.notation import points_interval
from bench.records.one_read import is_file, read_whole
from bench.schema import InvalidInput
from bench.stats.contrasts import Answer, answers
from bench.stats.intervals import Interval
from bench.stats.study_files import GAP, WORST_CASE, Finding, standing
from bench.stats.verdicts import Verdict
from bench.table import Group

NAME = "README.md"
BEGIN = "<!-- written by `python -m awp_train retell`: change awp_train/readme.py instead -->"
END = "<!-- to here -->"
_WIDTH = 118  # characters
_LARGEST = 2**20  # bytes


# ---------------------------------------------------------------- what can be quoted


@dataclass(frozen=True)
class Quoted:
    """A contrast as a sentence quotes it: its effect, what may be said of it, and on what it rests."""

    effect: Interval  # mean over seeds
    n: int
    seeds: int
    verdict: str
    narrowed: Interval | None = None  # of the gap between training and validation images

    def __str__(self) -> str:
        """`+2.9 points [+0.5, +5.3]`."""
        return points_interval(self.effect)

    @property
    def gap(self) -> str:
        if self.narrowed is None:
            raise InvalidInput(
                f"{NAME} quotes the gap of a contrast whose logs have no counts of it"
            )
        return points_interval(self.narrowed)

    @property
    def said(self) -> str:
        """`better; n = 1,000, 6 seeds`."""
        return f"{self.verdict}; n = {self.n:,}, {self.seeds} seed{'s' * (self.seeds > 1)}"


@dataclass(frozen=True)
class OfStudy:
    """A contrast of a study at one kept epoch."""

    study: str
    contrast: str
    kept: str  # best or last

    def found(self, judged: Judged, groups: Sequence[Group]) -> Quoted:
        """Raises InvalidInput where the study does not hold it."""
        for finding, verdict in _of(self.study, judged):
            if (finding.contrast, finding.kept) == (self.contrast, self.kept):
                return _quoted(finding, verdict)
        raise _missing(f"{self.contrast}, {self.kept}, of the study {self.study}", self.study)


@dataclass(frozen=True)
class Every:
    """The verdicts of all contrasts of a study whose treated run has such a name, best and last."""

    study: str
    ending: str  # of the treated run's preset

    def found(self, judged: Judged, groups: Sequence[Group]) -> str:
        """`nothing shown for 10 of 10 contrasts`. Raises InvalidInput without any."""
        said = Counter(
            verdict.standing
            for finding, verdict in _of(self.study, judged)
            if finding.contrast.split()[0].endswith(self.ending)
        )
        if not said:
            raise _missing(f"the contrasts of …{self.ending} of the study {self.study}", self.study)
        of = f"of {said.total()} contrasts"
        return ", ".join(f"{words} for {count} {of}" for words, count in said.most_common())


@dataclass(frozen=True)
class OfTable:
    """AWP minus its twin in a table of records, over the seeds of a run."""

    dataset: str
    threat: str
    protocol: str
    n: int
    run: str
    kept: str

    def found(self, judged: Judged, groups: Sequence[Group]) -> Quoted:
        """Raises InvalidInput where no table has it, or several do."""
        asked = (self.dataset, self.threat, self.protocol, self.n)
        tables = [g for g in groups if (g.dataset, str(g.threat), g.protocol.name, g.n) == asked]
        found = [answer for table in tables for answer in answers(table) if self._is(answer)]
        if len(found) != 1:
            raise _missing(f"{self.run}, {self.kept}, in one table of {', '.join(map(str, asked))}")
        method, verdict = found[0].method, found[0].verdict
        return Quoted(method.effect().over_seeds, self.n, method.seeds, verdict.standing)

    def _is(self, answer: Answer) -> bool:
        name = rf"{re.escape(self.run)}-s[a-z]*\d+-{self.kept}"
        first = answer.method.pairs[0].awp.card.name
        return answer.control is None and re.fullmatch(name, first) is not None


Source = OfStudy | Every | OfTable


def _of(study: str, judged: Judged) -> Iterable[tuple[Finding, Verdict]]:
    for file, verdicts in judged:
        if file.name == study:
            yield from zip(file.findings, verdicts, strict=True)


def _quoted(finding: Finding, verdict: Verdict) -> Quoted:
    gap = finding.interval(GAP) if GAP in finding.differences else None
    said = standing(finding, verdict)
    return Quoted(finding.interval(WORST_CASE), finding.n, len(finding.seeds), said, gap)


def _missing(what: str, study: str = "") -> InvalidInput:
    remedy = f"carry it out (make study NAME={study}), " if study else "measure it, "
    return InvalidInput(
        f"{NAME} quotes {what}, and the results hold no such figure; {remedy}or take the sentence "
        "out of awp_train/readme.py"
    )


# ---------------------------------------------------------------- the sentences


@dataclass(frozen=True)
class Sentence:
    """A line of the list, with the figures in the places of their names."""

    text: str
    figures: Mapping[str, Source]

    def told(self, judged: Judged, groups: Sequence[Group]) -> str:
        """Markdown. Raises InvalidInput for a figure that the results do not hold."""
        said = self.text.format(**{k: v.found(judged, groups) for k, v in self.figures.items()})
        return textwrap.fill(
            said, _WIDTH, initial_indent="* ", subsequent_indent="  ", break_on_hyphens=False,
            break_long_words=False,
        )  # fmt: skip


_FASHION = "fashion_mnist-subset-at"


def _size(preset: str, warm_up: int, n_train: int, epochs: int) -> OfStudy:
    both = f"n_train={n_train} epochs={epochs} craft_folded=true"
    name = f"{preset}-awp awp.warm_up={warm_up} minus {preset}, both {both}"
    return OfStudy("fashion-size", name, "last")


def _autoattack(kept: str) -> OfTable:
    return OfTable("digits", "linf:0.15", "standard", 1000, "digits-at-awp", kept)


def _control(vanilla: str, control: str, kept: str) -> OfStudy:
    study = f"{vanilla.split('_')[0].split('-')[0]}-controls"
    return OfStudy(study, f"{vanilla}-awp minus {vanilla}{control}", kept)


SENTENCES = (
    Sentence(
        "On digits, AT-AWP minus AT under AutoAttack: {best} at the epoch chosen on validation images "
        "({best.said}), {last} at the last ({last.said}). Under gradient attacks: {at} for AT "
        "({at.said}), {trades} for TRADES ({trades.said}), at the epoch chosen on validation images; "
        "all methods with AWP, both epochs: {awp}; a perturbation of the same size in a random "
        "direction: {random}.",
        {
            "best": _autoattack("best"),
            "last": _autoattack("last"),
            "at": OfStudy("digits-methods", "digits-at-awp minus digits-at", "best"),
            "trades": OfStudy("digits-methods", "digits-trades-awp minus digits-trades", "best"),
            "awp": Every("digits-methods", "-awp"),
            "random": Every("digits-methods", "-rwp"),
        },
    ),
    Sentence(
        "On Fashion-MNIST, AT-AWP minus AT at the last epoch: {s500} with 500 training images "
        "({s500.said}), {s2000} with 2,000 ({s2000.said}), {s10000} with 10,000 ({s10000.said}), "
        "{s59000} with 59,000 ({s59000.said}). The gap between training and validation images changes "
        "by {s500.gap} with 500 and by {s59000.gap} with 59,000. gamma was chosen at 500 images.",
        {
            "s500": _control(_FASHION, "", "last"),
            "s2000": _size(_FASHION, 10, 2000, 60),
            "s10000": _size("fashion_mnist-at", 5, 10000, 30),
            "s59000": _size("fashion_mnist-at", 2, 59000, 15),
        },
    ),
    Sentence(
        "A tuned baseline is the hard one to beat. AT-AWP minus AT whose weight decay was chosen among "
        "as many settings as AWP had, last epoch: {digits} on digits ({digits.said}), {fashion} on "
        "Fashion-MNIST ({fashion.said}). Minus AT with AWP's compute: {digits_compute} on digits "
        "({digits_compute.said}), {fashion_compute} on Fashion-MNIST ({fashion_compute.said}).",
        {
            "digits": _control("digits-at", "-best-vanilla", "last"),
            "fashion": _control(_FASHION, "-best-vanilla", "last"),
            "digits_compute": _control("digits-at", "-equal-compute", "last"),
            "fashion_compute": _control(_FASHION, "-equal-compute", "last"),
        },
    ),
)
_HOW = (
    "Worst case in points, mean over seeds with Student's t interval, 95 %; in parentheses the "
    "verdict\n([how to read it](#how-to-read-a-number)), n test images and the seeds."
)


# ---------------------------------------------------------------- the file


def beside(out: Path) -> Path:
    """The README that tells of a results folder."""
    return (out if out.name not in ("", "..") else out.resolve()).parent / NAME


def told(out: Path, judged: Judged, groups: Sequence[Group]) -> dict[Path, str]:
    """The README of a results folder with its sentences written anew; empty where it has no place.

    Raises InvalidInput where it has half a place, or quotes a figure that the results do not hold.
    """
    path = beside(out)
    text = read_whole(path, largest=_LARGEST).decode("utf-8") if is_file(path) else ""
    marks = text.count(BEGIN), text.count(END)
    if marks == (0, 0):
        return {}
    if marks != (1, 1) or text.index(END) < text.index(BEGIN):
        raise InvalidInput(f"{path}: expected one line {BEGIN!r} and one line {END!r} after it")
    lines = [_HOW, "", *(sentence.told(judged, groups) for sentence in SENTENCES)]
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    return {path: "\n".join([before + BEGIN, "", *lines, "", END + after])}
