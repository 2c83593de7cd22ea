"""What to cite, as BibTeX: this board, the papers behind its numbers, and every model with a link."""

from __future__ import annotations

import re
from collections.abc import Sequence

from bench.exports.latex import escape
from bench.exports.view import View
from bench.notation import plain, web_address
from bench.published import MARK, PublishedRow
from bench.records.card_text import declared_note
from bench.table import Group, Row

_PAPERS = r"""@inproceedings{wu2020adversarial,
  title = {Adversarial Weight Perturbation Helps Robust Generalization},
  author = {Wu, Dongxian and Xia, Shu-Tao and Wang, Yisen},
  booktitle = {Advances in Neural Information Processing Systems},
  volume = {33},
  year = {2020},
  eprint = {2004.05884},
  archiveprefix = {arXiv}
}

@inproceedings{croce2020reliable,
  title = {Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks},
  author = {Croce, Francesco and Hein, Matthias},
  booktitle = {International Conference on Machine Learning},
  year = {2020},
  eprint = {2003.01690},
  archiveprefix = {arXiv}
}"""  # noqa: E501 - a title is one line
_ROBUSTBENCH = r"""@inproceedings{croce2021robustbench,
  title = {RobustBench: a standardized adversarial robustness benchmark},
  author = {Croce, Francesco and Andriushchenko, Maksym and Sehwag, Vikash and Debenedetti, Edoardo and Flammarion, Nicolas and Chiang, Mung and Mittal, Prateek and Hein, Matthias},
  booktitle = {Advances in Neural Information Processing Systems, Datasets and Benchmarks Track},
  year = {2021},
  eprint = {2010.09670},
  archiveprefix = {arXiv}
}"""  # noqa: E501 - a list of authors is one line


def bibtex(view: View) -> str:
    """One entry each, every key once; a model without a link has nothing to cite but its record."""
    dates = [row.record.created[:10] for group in view.groups for row in group.rows]
    entries = {"board": _board(dates), "papers": _PAPERS}
    if view.published:
        entries["robustbench"] = _ROBUSTBENCH
    for group in view.groups:
        for row in group.rows:
            if web_address(row.card.link):
                key = _key(row.card.name)
                entries.setdefault(key, _model(key, group, row))
    for rows in view.published.values():
        for published in rows:
            if published.title and web_address(published.link):
                key = _key(published.name.split("_")[0])  # variants of one paper share its entry
                entries.setdefault(key, _published(key, published))
    return "\n\n".join(entries.values()) + "\n"


def bibtex_of_model(group: Group, row: Row) -> str:
    """This board, the papers behind its attacks, and the model itself where it has a link."""
    entries = [_board([row.record.created[:10]]), _PAPERS]
    if web_address(row.card.link):
        entries.append(_model(_key(row.card.name), group, row))
    return "\n\n".join(entries) + "\n"


def _board(dates: Sequence[str]) -> str:
    newest = plain(max(dates, default=""))
    year = {"year": newest[:4]} if re.fullmatch(r"\d{4}-\d\d-\d\d", newest) else {}
    note = f"Records up to {newest}" if year else "No records yet"
    return _entry(
        "misc",
        "awp-robustness-board",
        {
            "title": "{Robustness leaderboard of adversarially trained image classifiers, with and "
            "without adversarial weight perturbation}",
            "author": "{AWP robustness board}",
            **year,
            "note": note,
        },
    )


def _model(key: str, group: Group, row: Row) -> str:
    card = row.card
    measured = f"Measured as record {row.record.id}: {group.heading}"
    note = ". ".join(filter(None, (measured, declared_note(card))))
    fields = {"title": f"{{{escape(card.name)}}}", "author": _authors(card.authors)}
    return _entry("misc", key, {**fields, "url": _url(card.link), "note": escape(note, 600)})


def _published(key: str, row: PublishedRow) -> str:
    year = re.search(r"\b(19|20)\d\d\b", row.venue)
    fields = {"title": f"{{{escape(row.title)}}}", "author": _authors(row.authors)}
    fields["journal"] = escape(row.venue)
    if year:
        fields["year"] = year[0]
    note = escape(f"Numbers {MARK}: {row.source}", 400)
    return _entry("article", key, {**fields, "url": _url(row.link), "note": note})


def _authors(text: str) -> str:
    """`Wu et al.` is `Wu and others`; commas between people become `and`."""
    names, others = re.subn(r"\s+et al\.?$", "", plain(text))
    people = [escape(name) for name in re.split(r",\s*|\s+and\s+", names) if name]
    return " and ".join([*(f"{{{name}}}" for name in people), *["others"] * others])


def _url(link: str) -> str:
    """An address as BibTeX's url field takes it: no character that ends or opens a group."""
    address = web_address(link) or ""
    return "".join(f"%{ord(c):02X}" if c in '{}\\"^`|<>' else c for c in address)


def _key(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.:+-]", "", name)[:100] or "unnamed"


def _entry(kind: str, key: str, fields: dict[str, str]) -> str:
    lines = ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items() if value)
    return f"@{kind}{{{key},\n{lines}\n}}"
