"""COLUMNS and PROTOCOLS as data: what each name measures, immutable and hashed.

"PGD-20" and "CW" are not one thing in the literature, so a number is only comparable with another of
the same column id. Lengths are fractions of eps, so that a column means the same at every radius.
"any" iterate: an image is broken when one of the iterates 1..k fools the model (not the random start);
"last": only iterate k counts, as in the loops of the AWP, TRADES and MART papers.
"""

from __future__ import annotations

from collections.abc import Callable

from bench.catalogue import unknown_name
from bench.schema import AttackSpec, Column, InvalidInput, Norm, Protocol

# PGD step as a fraction of eps: Linf 2/255 at 8/255; L2 15/255 at 128/255 (Rice et al. 2020).
_PGD_STEP = {"linf": 0.25, "l2": 15 / 128, "l1": 0.25}


def _pgd(
    norm: Norm, steps: int, *, iterate: str = "any", loss: str = "cross_entropy"
) -> AttackSpec:
    return AttackSpec(
        name="pgd",
        params={
            "steps": steps,
            "relative_step": 0.25 if loss == "margin" else _PGD_STEP[norm],
            "restarts": 1,
            "start": "uniform",
            "iterate": iterate,
            "loss": loss,
        },
    )


def _apgd(name: str, restarts: int, norm: Norm) -> AttackSpec:
    if norm == "l1":  # Croce & Hein 2021, arXiv 2103.01208
        return AttackSpec(
            name=name, params={"steps": 100, "restarts": max(restarts, 5), "large_steps": True}
        )
    return AttackSpec(name=name, params={"steps": 100, "restarts": restarts})


def _targeted(name: str, classes: int, norm: Norm) -> AttackSpec:
    """A targeted attack tries the most likely wrong classes, nine or as many as there are."""
    targets = min(5 if norm == "l1" and name == "apgd-t" else 9, classes - 1)
    params: dict[str, bool | int | float | str] = {"steps": 100, "restarts": 1, "targets": targets}
    if norm == "l1" and name == "apgd-t":
        params["large_steps"] = True
    return AttackSpec(name=name, params=params)


def _apgd_targeted(classes: int, norm: Norm) -> AttackSpec:
    """The targeted DLR loss needs four classes; below that APGD ascends the margin instead."""
    if classes >= 4:
        return _targeted("apgd-t", classes, norm)
    return AttackSpec(name="apgd-margin", params={"steps": 100, "restarts": 1})


def _fgsm(norm: Norm, classes: int) -> Column:
    spec = AttackSpec(name="fgsm", params={"relative_step": 1.0})
    return Column(name="fgsm", label="FGSM", attacks=(spec,))


def _pgd20(norm: Norm, classes: int) -> Column:
    return Column(name="pgd20", label="PGD-20", attacks=(_pgd(norm, 20),))


def _pgd20_last(norm: Norm, classes: int) -> Column:
    spec = _pgd(norm, 20, iterate="last")
    return Column(name="pgd20-last", label="PGD-20 (last iterate)", attacks=(spec,))


def _pgd100(norm: Norm, classes: int) -> Column:
    return Column(name="pgd100", label="PGD-100", attacks=(_pgd(norm, 100),))


def _cw(norm: Norm, classes: int) -> Column:
    label = "CW-inf (margin PGD-100)" if norm == "linf" else "margin PGD-100"
    return Column(name="cw", label=label, attacks=(_pgd(norm, 100, loss="margin"),))


def _autoattack(norm: Norm, classes: int) -> Column:
    attacks = (
        _apgd("apgd-ce", 1, norm),
        _apgd_targeted(classes, norm),
        _targeted("fab-t", classes, norm),
        AttackSpec(name="square", params={"queries": 5000, "p_init": 0.8, "restarts": 1}),
    )
    return Column(name="autoattack", label="AutoAttack", attacks=attacks)


def _autoattack_lite(norm: Norm, classes: int) -> Column:
    attacks = (_apgd("apgd-ce", 1, norm), _apgd_targeted(classes, norm))
    return Column(name="autoattack-lite", label="APGD-CE + APGD-T (upper bound)", attacks=attacks)


COLUMNS: dict[str, Callable[[Norm, int], Column]] = {
    "fgsm": _fgsm,
    "pgd20": _pgd20,
    "pgd20-last": _pgd20_last,
    "pgd100": _pgd100,
    "cw": _cw,
    "autoattack": _autoattack,
    "autoattack-lite": _autoattack_lite,
}

# name -> (version, columns, what it is for). A change of any of these needs a new version.
_PROTOCOLS: dict[str, tuple[int, tuple[str, ...], str]] = {
    "standard": (
        1,
        ("fgsm", "pgd20", "cw", "autoattack"),
        "The leaderboard's default; rows are ranked by the worst case of its columns.",
    ),
    "gradient": (
        1,
        ("fgsm", "pgd20", "cw"),
        "The gradient columns of standard, cheap enough for whole test sets; never ranked with it.",
    ),
    "autoattack": (1, ("autoattack",), "AutoAttack alone, as RobustBench reports it."),
    "published-pgd": (
        1,
        ("pgd20-last", "pgd100"),
        "The PGD columns that may stand beside published numbers.",
    ),
    "quick": (1, ("pgd20", "autoattack-lite"), "A quick upper bound while developing."),
}
PROTOCOL_NAMES = tuple(_PROTOCOLS)


def protocol_meaning(name: str) -> str:
    """One sentence: what a protocol is for."""
    return _PROTOCOLS[name][2]


def undefined_columns(name: str, norm: Norm) -> list[str]:
    """Columns of a protocol that a norm does not have: PGD and FGSM have no l1 form here."""
    columns = _PROTOCOLS[name][1]
    return [c for c in columns if norm == "l1" and not c.startswith("autoattack")]


def protocol(name: str, *, norm: Norm = "linf", classes: int = 10) -> Protocol:
    """The named protocol for a norm and a class count, with every parameter written out.

    Raises InvalidInput on an unknown name, below two classes, or where a column is undefined.
    """
    if name not in _PROTOCOLS:
        raise unknown_name("protocol", name, _PROTOCOLS)
    if classes < 2:
        raise InvalidInput(f"a classifier has at least 2 classes, got {classes}")
    version, columns, _ = _PROTOCOLS[name]
    undefined = undefined_columns(name, norm)
    if undefined:
        raise InvalidInput(
            f"{name}: the columns {', '.join(undefined)} are defined under linf and l2. "
            "Under l1 use the protocol autoattack"
        )
    return Protocol(
        name=name, version=version, columns=tuple(COLUMNS[c](norm, classes) for c in columns)
    )
