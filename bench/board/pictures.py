"""The images that tell two rows of a table apart, as pictures that wrap on a phone, each with words.

C channels, S seeds.
"""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import streamlit as st
from markupsafe import Markup

from bench.board import article, gallery
from bench.notation import plain
from bench.records import store
from bench.schema import EvaluationRecord
from bench.stats.versus import Telling, Versus
from bench.table import Row

_SHOWN = 12  # images of each
_SMALL = 2_000  # images up to which all evidence of a record is opened for a few of them

Picture = tuple[np.ndarray, str, str]  # (C, H, W) in [0, 1], what it is, what was made of it


def address(picture: np.ndarray) -> str:
    """A picture (C, H, W) in [0, 1] as a PNG in a data address, a pixel a value."""
    from PIL import Image

    if len(picture) not in (1, 3):
        picture = picture.mean(axis=0, keepdims=True)
    bytes_of = (picture.transpose(1, 2, 0) * 255).round().clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(bytes_of[..., 0] if len(picture) == 1 else bytes_of).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def strip(pictures: Iterable[Picture]) -> Markup:
    """Pictures beside each other, each above its words."""
    form = '<figure><img src="{}" alt="{}"><figcaption>{}<br>{}</figcaption></figure>'
    drawn = ((address(p), f"{said}, {more}", said, more) for p, said, more in pictures)
    return Markup('<div class="board-pictures">{}</div>').format(article.each(form, drawn))


def show_telling(one: Versus) -> None:
    """The images that one of the two withstands and the other does not, some of each."""
    form = '<h3 class="board-versus">{} {} withstands{}</h3>'
    for turned, found in enumerate(one.telling()):
        mine = one.b if turned else one.a
        count = f"{len(found):,} image{'' if len(found) == 1 else 's'} that"
        count, more = (
            (count, f" with at least {-(-one.seeds // 2)} seeds more")
            if one.over_seeds
            else (f"{count} only", "")
        )
        heading = Markup(form).format(count, plain(mine.name, 80), more)
        fooled = [pair[1 - turned] for pair in one.pairs]
        st.html(heading + (_some(fooled, found[:_SHOWN], one.seeds) if found else Markup()))


def _some(fooled: Sequence[Row], found: Sequence[Telling], seeds: int) -> Markup:
    """Images with their labels and what the networks that fell took them for."""
    whole = [row.record.whole for row in fooled]
    record, places = whole[0], [each.place for each in found]
    names = article.class_names(record)
    answers = np.array([_answers(each)[places] for each in whole])  # (S, images)
    said = []
    for each, given in zip(found, answers.T, strict=True):
        label = int(record.label_array[each.place])
        wrong = Counter(names[k] for k in given if k != label).most_common(1)
        taken = f"taken for {wrong[0][0]}" if wrong else "a tie"  # which counts as broken
        how = f", {each.standing} of {seeds} seeds against {each.others}" if seeds > 1 else ""
        said.append((f"image {each.place:,}: {names[label]}", f"{taken}{how}"))
    clean, kept = gallery.clean_images(record), _adversarial(record, fooled[0].path, places)
    small = '<p class="board-p board-small">{}</p>'
    if clean is None and len(kept) < len(places):
        listed = "; ".join(f"{what}, {answer}" for what, answer in said)
        return Markup(small).format(f"{listed}. The images themselves are not on this machine.")
    shown = [kept.get(place, None if clean is None else clean[place]) for place in places]
    drawn = ((p, *words) for p, words in zip(shown, said, strict=True) if p is not None)
    what = "Clean images" if not kept else "Adversarial images"
    some = ", the clean one where none is kept" if 0 < len(kept) < len(places) else ""
    where = f"Numbers count from 0 in {plain(record.split, 60)}."
    return strip(drawn) + Markup(small).format(f"{what}{some}. {where}")


def _answers(record: EvaluationRecord) -> np.ndarray:
    """(n,) int64: what a network answered in the end, under the last column that broke an image."""
    answers = record.clean_prediction_array
    for column in record.columns:
        broken = record.adversarial_predictions(column)
        answers = np.where(broken >= 0, broken, answers)
    return answers


def _adversarial(
    record: EvaluationRecord, path: Path, places: Sequence[int]
) -> dict[int, np.ndarray]:
    """Place -> the adversarial image (C, H, W) of the last column that has its evidence here."""
    evidence = store.evidence_path(path, record)
    found: dict[int, np.ndarray] = {}
    if record.n > _SMALL or not evidence.exists():
        return found
    for column in reversed(record.columns):
        examples = gallery.read_examples(evidence, column, record, most=record.n)
        for example in examples if isinstance(examples, list) else ():
            if example.index in places and example.adversarial is not None:
                found.setdefault(example.index, example.adversarial)
    return found
