"""A gallery of what broke a model: clean image, perturbation, adversarial image, both answers.

Evidence holds perturbations, so an adversarial image needs its clean one. The page has those of digits,
which come with a library, and of MNIST and Fashion-MNIST where their files are on this machine; it
never loads torch, and never reads a data set from a path that a record names.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import streamlit as st

from bench import digits_split
from bench.board import article
from bench.board.article import small
from bench.catalogue import DATASETS
from bench.notation import plain
from bench.readers import idx
from bench.records import npz, store
from bench.records.one_read import read_whole
from bench.schema import EvaluationRecord, InvalidInput

_SHOWN = 6  # examples
_SIDE = 112  # pixels of a picture at least; the style sheet fits them to the page
_LARGEST = 2**26  # bytes of evidence that a page will open, and of an array in it


@dataclass(frozen=True)
class Example:
    """One broken image; pictures are (C, H, W) float32, None where they cannot be had."""

    index: int  # in the images of the record
    label: int
    before: int  # predicted class of the clean image
    after: int  # and of the adversarial one
    clean: np.ndarray | None
    perturbation: np.ndarray | None
    adversarial: np.ndarray | None


def show(record: EvaluationRecord, path: Path, column: str) -> None:
    """Some of the images that a column broke, a class each, from the evidence of the record."""
    evidence = store.evidence_path(path, record)
    if not evidence.exists():
        small("No evidence lies beside this record, so there is nothing to show.")
        return
    found = read_examples(evidence, column, record)
    if isinstance(found, str):
        small(found)
        return
    if not found:
        small("The evidence of this column holds no image: nothing was broken.")
        return
    names = article.class_names(record)
    with st.container(key="gallery"):
        for example in found:
            _show_example(example, names)
    article.caption("gallery", record.threat, plain(record.split, 60))
    if found[0].clean is None:
        small(f"The clean images of {plain(record.dataset, 60)} are not on this machine.")


def _show_example(example: Example, names: list[str]) -> None:
    change = example.perturbation
    if change is not None:  # as a picture: 0.5 is no change
        change = change / (2 * (float(np.abs(change).max()) or 1.0)) + 0.5
    pictures = {
        names[example.before]: example.clean,
        "change": change,
        f"taken for {names[example.after]}": example.adversarial,
    }
    with st.container(gap="xsmall"):
        small(f"Image {example.index:,}")
        row = st.container(horizontal=True, key=f"example-{example.index}")
    for words, picture in pictures.items():
        if picture is not None:
            # Captions and alternative texts are Markdown: class names are ours, or "class 7".
            row.image(_as_picture(picture), caption=words, width=_SIDE, alt=words)


def _as_picture(picture: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 of (C, H, W) in [0, 1]; the style sheet keeps a browser from blurring it."""
    if len(picture) not in (1, 3):
        picture = picture.mean(axis=0, keepdims=True)
    shown = np.broadcast_to(picture, (3, *picture.shape[1:]))
    return (shown.transpose(1, 2, 0) * 255).round().clip(0, 255).astype(np.uint8)


# ---------------------------------------------------------------- what the evidence holds


def read_examples(
    evidence: Path, column: str, record: EvaluationRecord, *, most: int = _SHOWN
) -> list[Example] | str:
    """At most so many broken images of a column, of different classes first; why not, where not."""
    try:
        if evidence.lstat().st_size > _LARGEST:
            return "The evidence is too large to be opened by a page."
        raw = read_whole(evidence, largest=_LARGEST)
        if hashlib.sha256(raw).hexdigest() != record.evidence_sha256:
            return "The evidence beside this record is not the one that it names; it is not shown."
        with npz.opened(raw) as archive:
            index, steps, scale, exact = npz.perturbations(
                archive, f"{column}/", record.n, None, largest=_LARGEST
            )
    except npz.UNREADABLE:  # InvalidInput is one
        return "The evidence beside this record cannot be read for this column."
    labels, before = record.label_array, record.clean_prediction_array
    after, clean = record.adversarial_predictions(column), clean_images(record)
    broken = np.flatnonzero(after[index] >= 0)
    _, first = np.unique(labels[index[broken]], return_index=True)
    found = []
    for place in (*broken[np.sort(first)], *np.delete(broken, first))[:most]:
        image = int(index[place])
        original = None if clean is None else clean[image]
        if place < len(steps):
            change = steps[place].astype(np.float32) * scale[place]
            adversarial = None if original is None else (original + change).clip(0, 1)
        else:
            adversarial = exact[place - len(steps)]
            change = None if original is None else adversarial - original
        answers = int(labels[image]), int(before[image]), int(after[image])
        found.append(Example(image, *answers, original, change, adversarial))
    return found


# ---------------------------------------------------------------- clean images


def clean_images(record: EvaluationRecord) -> np.ndarray | None:
    """(n, C, H, W) float32: exactly the images of a record, by their hash; None where not here."""
    split = re.fullmatch(r"test\[(\d{1,6}):(\d{1,6})\]", record.split)
    here = images_here(record.dataset) if split is not None else None
    if split is None or here is None:
        return None
    images, labels = (each[int(split[1]) : int(split[2])] for each in here)
    if examples_sha256(images, labels) != record.examples_sha256:
        return None
    return images.astype(np.float32) / 255 if images.dtype == np.uint8 else images


@st.cache_resource(show_spinner=False, max_entries=8, ttl=600)
def images_here(dataset: str) -> tuple[np.ndarray, np.ndarray] | None:
    """All test images of a data set and their labels, as a measurement sees them; None: not here."""
    info = DATASETS.get(dataset)
    if info is None:
        return None
    if info.whole is not None:  # some of its classes
        found = images_here(info.whole)
        if found is None:
            return None
        images, labels = found
        first = DATASETS[info.whole].classes.index(info.classes[0])
        kept = (labels >= first) & (labels < first + info.class_count)
        return images[kept], labels[kept] - first
    if dataset == "digits":
        return digits_split.read("test")
    try:
        return idx.read(dataset, idx.DATA_ROOT, "test") if dataset in idx.KINDS else None
    except InvalidInput:  # a damaged file: as if it were not here
        return None


def examples_sha256(*arrays: np.ndarray) -> str:
    """Over dtype, shape and bytes, as records name their examples."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
