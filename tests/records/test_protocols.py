"""Columns and protocols: pinned by their ids, defined or refused, with the published parameters."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest

from bench.attacks import ATTACKS
from bench.protocols import (
    COLUMNS,
    PROTOCOL_NAMES,
    protocol,
    protocol_meaning,
    undefined_columns,
)
from bench.schema import InvalidInput, Protocol
from bench.schema.threat import NORMS

PINNED = Path(__file__).parents[1] / "fixtures" / "protocol-ids.json"
CLASSES = (2, 3, 4, 10)
DEFINED = [(n, norm) for n in PROTOCOL_NAMES for norm in NORMS if not undefined_columns(n, norm)]
UNDEFINED = [(n, norm) for n in PROTOCOL_NAMES for norm in NORMS if undefined_columns(n, norm)]


def identities() -> dict[str, dict[str, str]]:
    """ "standard linf 10" -> {"protocol": id, column name: id}."""
    found = {}
    for name, norm in DEFINED:
        for classes in CLASSES:
            p = protocol(name, norm=norm, classes=classes)
            ids = {c.name: c.column_id for c in p.columns}
            found[f"{name} {norm} {classes}"] = {"protocol": p.protocol_id} | {
                f"column {column}": i for column, i in ids.items()
            }
    return found


def test_no_identity_changes_by_accident():
    """A change of any of these makes old records incomparable: bump the protocol's version.

    After an addition: python -m tests.records.test_protocols writes the table anew; look at it.
    """
    assert identities() == json.loads(PINNED.read_text())


def test_ids_of_the_first_records_are_those_of_today():
    """The ids that were pinned before the table was a file."""
    assert {n: protocol(n).protocol_id for n in ("standard", "gradient", "autoattack")} == {
        "standard": "5f3769d035ef",
        "gradient": "ef3923a853f7",
        "autoattack": "7717ec286743",
    }
    root = Path(__file__).parents[2]
    paths = [p for p in (root / "results").rglob("*.json") if "withdrawn" not in p.name]
    records = [json.loads(p.read_text()) for p in paths]
    kept = [r for r in records if "protocol" in r and r["protocol"]["name"] in PROTOCOL_NAMES]
    assert kept
    for record in kept:
        recorded = Protocol.model_validate(record["protocol"])
        now = protocol(
            recorded.name, norm=record["threat"]["norm"], classes=record["card"]["class_count"]
        )
        assert now.protocol_id == recorded.protocol_id


@pytest.mark.parametrize(("name", "norm"), UNDEFINED)
def test_what_is_undefined_is_refused_with_what_to_use(name, norm):
    with pytest.raises(InvalidInput, match="not defined under") as refused:
        protocol(name, norm=norm)
    said = str(refused.value)
    assert all(column in said for column in undefined_columns(name, norm))
    instead = said.split()[-1]
    assert (instead, norm) in DEFINED


def test_every_column_is_in_a_protocol_and_named_and_explained():
    used = {c.name for name in PROTOCOL_NAMES for c in protocol(name).columns}
    assert used == set(COLUMNS)
    for name, make in COLUMNS.items():
        assert make("linf", 10).name == name
        assert make("linf", 10).label
    meanings = {protocol_meaning(name) for name in PROTOCOL_NAMES}
    assert len(meanings) == len(PROTOCOL_NAMES)
    assert all(meaning.endswith(".") for meaning in meanings)


def test_a_name_means_one_thing_whatever_the_protocol():
    """Per norm and class count, columns of one name have one id, and other names other ids."""
    for norm in NORMS:
        for classes in CLASSES:
            names: dict[str, str] = {}
            for protocol_name in PROTOCOL_NAMES:
                if (protocol_name, norm) in DEFINED:
                    for c in protocol(protocol_name, norm=norm, classes=classes).columns:
                        assert names.setdefault(c.name, c.column_id) == c.column_id
            assert len(set(names.values())) == len(names)


def test_protocols_and_their_columns_cannot_be_changed():
    standard = protocol("standard")
    with pytest.raises(ValueError, match="frozen"):
        standard.version = 2
    assert standard.passes == 1
    assert protocol("autoattack-rand").passes == 20


def specs(name: str, **which) -> dict[str, dict]:
    (column,) = protocol(name, **which).columns
    return {spec.name: spec.params for spec in column.attacks}


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("version", ["standard", "plus", "rand"])
def test_autoattack_has_the_parameters_of_the_published_package(version, norm):
    from pyautoattack import AutoAttack

    theirs = AutoAttack(
        lambda x: x, norm={"linf": "Linf", "l2": "L2"}[norm], version=version, seed=0
    )
    ours = specs({"standard": "autoattack"}.get(version, f"autoattack-{version}"), norm=norm)
    assert list(ours) == theirs.attacks_to_run
    once = {"fab-t": 1}  # set to 1 at the call, whatever the version
    published = {
        "apgd-ce": (theirs.apgd.n_iter, theirs.apgd.n_restarts),
        "apgd-dlr": (theirs.apgd.n_iter, theirs.apgd.n_restarts),
        "apgd-t": (theirs.apgd_targeted.n_iter, theirs.apgd_targeted.n_restarts),
        "fab": (theirs.fab.n_iter, theirs.fab.n_restarts),
        "fab-t": (theirs.fab.n_iter, once["fab-t"]),
    }
    for name, params in ours.items():
        if name == "square":
            assert params["queries"] == theirs.square.n_queries
            assert params["p_init"] == theirs.square.p_init
            continue
        assert (params["steps"], params["restarts"]) == published[name]
        assert params.get("samples", 1) == theirs.apgd.eot_iter
    if version != "rand":
        assert ours["apgd-t"]["targets"] == theirs.apgd_targeted.n_target_classes
        assert ours["fab-t"]["targets"] == theirs.fab.n_target_classes


def test_few_classes_replace_the_losses_that_need_more():
    """Targeted DLR needs 4 classes, untargeted 3; targets are the wrong classes, nine at most."""
    names = {k: list(specs("autoattack-plus", classes=k)) for k in CLASSES}
    assert names[2] == ["apgd-ce", "apgd-margin", "fab", "square", "fab-t"]
    assert names[3] == ["apgd-ce", "apgd-dlr", "fab", "square", "apgd-margin", "fab-t"]
    assert names[4] == ["apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"]
    assert list(specs("autoattack-rand", classes=2)) == ["apgd-ce", "apgd-margin"]
    for classes in (4, 5, 7, 10, 100):
        plus = specs("autoattack-plus", classes=classes)
        assert plus["apgd-t"]["targets"] == plus["fab-t"]["targets"] == min(9, classes - 1)
    for classes in CLASSES:
        last = protocol("standard-restarts", classes=classes).columns[-1]
        assert [s.name for s in last.attacks][0] == "apgd-ce"
        assert all(s.params["restarts"] == 5 for s in last.attacks)


def test_legacy_steps_are_those_of_the_papers_at_their_radius():
    (trades, mart), (svhn,) = protocol("legacy").columns, protocol("published-svhn").columns
    for column, steps, loss in ((trades, 20, "cross_entropy"), (mart, 30, "margin")):
        params = column.attacks[0].params
        assert params["relative_step"] * 0.031 == pytest.approx(0.003, rel=1e-15)
        assert (params["steps"], params["loss"], params["iterate"]) == (steps, loss, "last")
    assert svhn.attacks[0].params["relative_step"] * 8 == 1


def test_protocols_extend_one_another_as_their_sentences_say():
    standard, restarts = protocol("standard"), protocol("standard-restarts")
    assert restarts.columns[:-1] == standard.columns
    assert protocol("curve").columns[0] == standard.columns[-1]  # all its evidence counts too


@pytest.mark.parametrize("name", ["spsa", "fmn", "pgd", "fgsm", "apgd-dlr"])
def test_attacks_take_the_parameters_that_columns_write_out(name):
    """And columns write out every parameter of the attack that its outcome depends on."""
    known = inspect.signature(ATTACKS[name].function).parameters
    free = {"problem"}
    seen = [
        set(spec.params)
        for protocol_name in PROTOCOL_NAMES
        for column in protocol(protocol_name).columns
        for spec in column.attacks
        if spec.name == name and "samples" not in spec.params or spec.name == name == "spsa"
    ]
    assert seen
    for params in seen:
        assert params <= set(known)
        if name != "apgd-dlr":
            assert params == set(known) - free


if __name__ == "__main__":
    PINNED.write_text(json.dumps(identities(), indent=1) + "\n")
