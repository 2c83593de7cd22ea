"""What others handed in, on the page of a model and beside its row."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bench.records import challenges, proven, store
from bench.records.proven import Proof
from bench.schema import EvaluationRecord
from bench.schema.challenge import Challenge
from bench.schema.packing import pack_bits, pack_ints
from tests.board.board_pages import Open, headers, html, methods
from tests.board.board_records import named, prove, write_all

MARKUP = '<img src=x onerror="alert(1)"> & Co'


def handed_in(
    record: EvaluationRecord, root: Path, *, by: str, count: int, file: str = "0"
) -> Path:
    """A challenge that breaks so many images that stand, listed as proven."""
    places = np.flatnonzero(record.worst_case_standing)[:count]
    broken = np.isin(np.arange(record.n), places)
    asked = (record.card.weights_sha256, record.examples_sha256)
    made = Challenge(
        id=Challenge.id_of(*asked, record.threat, file * 64), name=record.card.name,
        weights_sha256=asked[0], dataset=record.dataset, split=record.split, n=record.n,
        examples_sha256=asked[1], threat=record.threat, by=by, link="https://example.org/how",
        file_sha256=file * 64, handed=pack_bits(broken), outside_box=0, outside_ball=0,
        clean_wrong=0, right=0, broken=pack_bits(broken), new=pack_bits(broken),
        adversarial_predictions=pack_ints(np.ones(count)), uint8_survivors=0,
        largest_perturbation=0.1, evidence_sha256="0" * 64, engine_version="2.0",
        created=f"2026-01-0{1 + int(file)}T00:00:00Z",
    )  # fmt: skip
    path = challenges.place_of(made, root)
    path.write_text(challenges.text_of(made))
    sha256, below = store.sha256_of(path), path.relative_to(root).as_posix()
    proven.add(root, Proof(record=below, sha256=sha256, date=made.created, engine="2.0"))
    return path


def test_the_model_page_thanks_and_tells_the_history(open_app: Open, tmp_path: Path) -> None:
    record = named("a", 0.6)
    write_all(tmp_path, [record, named("b", 0.5)])
    prove(tmp_path, record)
    handed_in(record, tmp_path, by=MARKUP, count=7)
    gone = handed_in(record, tmp_path, by="Mallory", count=3, file="1")
    challenges.withdraw(gone, "<b>no</b>")
    app = open_app(tmp_path, "model", name="a")
    page = html(app)
    assert "Challenges" in headers(app)
    assert (
        "&lt;img src=x onerror=&#34;alert(1)&#34;&gt; &amp; Co" in page and "<img src=x" not in page
    )
    assert 'href="https://example.org/how" rel="nofollow noopener noreferrer"' in page
    assert "withdrawn: &lt;b&gt;no&lt;/b&gt;" in page and "Mallory" in page
    assert "this record and 1 challenge" in page
    other = open_app(tmp_path, "model", name="b")
    assert "Challenges" not in headers(other)


def test_a_row_says_who_challenged_it_and_keeps_its_rank(open_app: Open, tmp_path: Path) -> None:
    record = named("a", 0.6)
    write_all(tmp_path, [record, named("b", 0.5)])
    prove(tmp_path, record)
    before = open_app(tmp_path)
    handed_in(record, tmp_path, by=MARKUP, count=30)
    app = open_app(tmp_path)
    page = html(app)
    assert "challenged" not in html(before)
    assert 'title="challenged by &lt;img src=x' in page and "which moves no rank" in page
    ranks = [[(row["name"], row["rank"]) for row in methods(each)] for each in (before, app)]
    assert ranks[0] == ranks[1] and len(ranks[0]) == 2
