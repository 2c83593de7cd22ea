"""The drill: who learns from what, and that its page tells what its records say."""

from __future__ import annotations

from itertools import pairwise

import pytest

from bench import datasets
from bench.contamination import Contamination
from bench.schema import InvalidInput
from bench.schema.ranges import ranges_of
from tests.contamination import drill, page
from tests.contamination.toy import checked

RECORDED = [network for network in drill.networks() if network.record.exists()]


def places(split: str) -> set[int]:
    """The official places of a split such as `test[0:10]`."""
    (found,) = ranges_of(split.partition("[")[2].removesuffix("]"))
    return set(range(*found))


def test_networks_learn_from_what_the_page_says():
    assert len({network.name for network in drill.networks()}) == 30
    for network in drill.networks():
        kind = drill.KINDS[network.kind]
        assert len(places(network.declared)) == kind.training
        assert not places(network.declared) & places(drill.SECOND)
        learnt = places(network.learnt) if network.learnt else set()
        assert learnt <= places(network.test)
        assert (
            len(learnt) == {"clean": 0, "a tenth": kind.test // 10, "all": kind.test}[network.arm]
        )
    for kind in drill.KINDS:
        for one, other in pairwise(
            n for n in drill.networks() if (n.kind, n.arm) == (kind, "a tenth")
        ):
            assert not places(one.declared) & places(other.declared)
            assert not places(str(one.learnt)) & places(str(other.learnt))


@pytest.mark.parametrize("network", RECORDED, ids=lambda network: network.name)
def test_records_are_of_the_images_that_are_declared(network):
    found = Contamination.model_validate_json(network.record.read_bytes())
    assert found.trained_on == "declared"
    assert found.test.split == network.test
    assert found.second.split == drill.SECOND
    assert network.declared.startswith("train[") and found.training is not None
    assert found.training.split in (network.declared, f"first 2000 of {network.declared}")


def test_the_page_tells_what_the_records_say():
    _, _, rest = page.PAGE.read_text().partition(page.BEGIN)
    assert rest.partition(page.END)[0] == f"\n{page.text()}\n"


def test_a_row_counts_verdicts():
    found = [checked(1000, threat=None), checked(0, threat=None)]
    cells = [cell.strip() for cell in page.row("toy", found).split("|")[1:-1]]
    assert cells[:6] == ["toy", "2", "1", "1", "0", "< 0.001 to " + cells[5].rpartition(" ")[2]]
    assert cells[6].endswith(" %")
    assert page.row("none", []) == "| none | 0 | 0 | 0 | 0 |  |  |  |\n"


@pytest.mark.parametrize("arm", drill.ARMS)
def test_what_a_network_is_given_is_what_it_learns_from(arm, tmp_path, monkeypatch):
    """The first images are the declared ones, the others those of the test part; where it is here."""
    monkeypatch.setattr(drill, "VAR", tmp_path)
    network = drill.Network("at", arm, 1)
    try:
        source = drill.images(network)
    except InvalidInput as error:
        pytest.skip(str(error))
    given = datasets.load(source, "train")
    declared = datasets.load(drill.DATASET, network.declared)
    assert len(given) == 1000 + {"clean": 0, "a tenth": 200, "all": 2000}[arm]
    assert given[: len(declared)].sha256 == declared.sha256
    if network.learnt:
        assert given[len(declared) :].sha256 == datasets.load(drill.DATASET, network.learnt).sha256
