"""The pooled audit's sums, on bits made up, and which networks and images chose the plan."""

from __future__ import annotations

import numpy as np
import pytest

from bench.schema.packing import pack_bits
from tests.cascade import pooled
from tests.cascade.pooled import Pooled, chose, page


def made(name, dataset, cascade, autoattack):
    n = len(cascade)
    return Pooled(
        name=name, dataset=dataset, family="at vanilla", n=n, threat="linf:0.1", seeds=(0, 0),
        weights_sha256="0" * 64, examples_sha256="1" * 64, column_id="c" * 12, autoattack="a" * 16,
        engine="ours", standing_cascade=pack_bits(np.array(cascade, bool)), passes=10 * n, seconds=1,
        standing_autoattack=pack_bits(np.array(autoattack, bool)),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "dataset", "n", "count"),
    [
        ("digits-at-s0-last", "digits", 1000, 400),
        ("digits-at-s0-best", "digits", 1000, 400),  # another epoch of the same run
        ("digits-none-s0-last", "digits", 1000, 0),
        ("fashion_mnist-subset-at-s0-last", "fashion_mnist", 1000, 0),  # walked, but never chose
    ],
)
def test_what_chose_the_plan(name, dataset, n, count):
    taken = chose(made(name, dataset, [1] * n, [1] * n))
    assert taken.sum() == count
    if count:
        assert taken[:200].all() and taken[500:700].all()


def test_pairs_are_counted_where_they_belong(monkeypatch):
    monkeypatch.setattr(pooled, "chose", lambda each: np.arange(each.n) < 2 * (each.n == 4))
    found = [
        made("a", "digits", [1, 1, 1, 0], [0, 1, 1, 1]),  # one hit, one the other way
        made("b", "fashion_mnist", [1, 0, 1], [0, 0, 0]),
    ]
    rows = [line.split(" | ") for line in page(found).splitlines() if line.startswith("| ")]
    told = {row[0].removeprefix("| "): row[1:] for row in rows}
    for heading, networks, left, auto, hits, only, worst in (
        ("digits, images that chose the plan", 1, 2, 1, 1, 0, 1),
        ("digits, the other images of those runs", 1, 1, 2, 0, 1, 0),
        ("Fashion-MNIST, which chose nothing", 1, 2, 0, 2, 0, 2),
        ("together", 2, 5, 3, 3, 1, 2),
    ):
        row = told[heading]
        assert [row[0], row[1], row[2]] == [str(networks), str(left), str(auto)]
        assert (row[3].split()[0], row[4], row[5].rstrip(" |")) == (
            str(hits),
            str(only),
            str(worst),
        )
    assert "took 14 passes" in page(found)  # 70 of 5 that stand
