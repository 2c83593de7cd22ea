"""COLUMNS and PROTOCOLS as data: what each name measures, immutable and hashed.

"PGD-20" and "CW" are not one thing in the literature, so a number is only comparable with another of
the same column id. Lengths are fractions of eps, so that a column means the same at every radius.
"any" iterate: an image is broken when one of the iterates 1..k fools the model (not the random start);
"last": only iterate k counts, as in the loops of the AWP, TRADES and MART papers.
"""

from __future__ import annotations

from collections.abc import Callable

from bench.catalogue import unknown_name
from bench.schema import AttackSpec, Column, InvalidInput, Protocol, Scalar
from bench.schema.threat import Norm

# PGD step as a fraction of eps: Linf 2/255 at 8/255; L2 15/255 at 128/255 (Rice et al. 2020).
_PGD_STEP = {"linf": 0.25, "l2": 15 / 128, "l1": 0.25}


# The step 0.003 of the TRADES and MART papers at their eps of 0.031.
_LEGACY_STEP = 0.003 / 0.031


def _pgd(
    norm: Norm,
    steps: int,
    *,
    relative_step: float | None = None,
    iterate: str = "any",
    loss: str = "cross_entropy",
) -> AttackSpec:
    if relative_step is None:
        relative_step = 0.25 if loss == "margin" else _PGD_STEP[norm]
    return AttackSpec(
        name="pgd",
        params={
            "steps": steps,
            "relative_step": relative_step,
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


def _targeted(name: str, classes: int, norm: Norm, *, restarts: int = 1) -> AttackSpec:
    """A targeted attack tries the most likely wrong classes, nine or as many as there are."""
    targets = min(5 if norm == "l1" and name == "apgd-t" else 9, classes - 1)
    params: dict[str, Scalar] = {"steps": 100, "restarts": restarts, "targets": targets}
    if norm == "l1" and name == "apgd-t":
        params["large_steps"] = True
    return AttackSpec(name=name, params=params)


def _apgd_targeted(classes: int, norm: Norm, *, restarts: int = 1) -> AttackSpec:
    """The targeted DLR loss needs four classes; below that APGD ascends the margin instead."""
    if classes >= 4:
        return _targeted("apgd-t", classes, norm, restarts=restarts)
    return AttackSpec(name="apgd-margin", params={"steps": 100, "restarts": restarts})


def _untargeted_dlr(classes: int) -> str:
    """The untargeted DLR loss needs three classes; below that APGD ascends the margin instead."""
    return "apgd-dlr" if classes >= 3 else "apgd-margin"


_SQUARE = AttackSpec(name="square", params={"queries": 5000, "p_init": 0.8, "restarts": 1})


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
        _SQUARE,
    )
    return Column(name="autoattack", label="AutoAttack", attacks=attacks)


def _autoattack_lite(norm: Norm, classes: int) -> Column:
    attacks = (_apgd("apgd-ce", 1, norm), _apgd_targeted(classes, norm))
    return Column(name="autoattack-lite", label="APGD-CE + APGD-T (upper bound)", attacks=attacks)


def _autoattack_plus(norm: Norm, classes: int) -> Column:
    attacks = [
        _apgd("apgd-ce", 5, norm),
        _apgd(_untargeted_dlr(classes), 5, norm),
        AttackSpec(name="fab", params={"steps": 100, "restarts": 5}),
        _SQUARE,
        _apgd_targeted(classes, norm),
        _targeted("fab-t", classes, norm),
    ]
    if classes < 3:  # the margin once more, from the start that the five restarts had already
        del attacks[4]
    return Column(name="autoattack-plus", label="AutoAttack plus", attacks=tuple(attacks))


def _autoattack_rand(norm: Norm, classes: int) -> Column:
    """Gradients are means over 20 passes, for networks that answer at random."""
    attacks = tuple(
        AttackSpec(name=name, params={"steps": 100, "restarts": 1, "samples": 20})
        for name in ("apgd-ce", _untargeted_dlr(classes))
    )
    return Column(name="autoattack-rand", label="AutoAttack rand", attacks=attacks)


def _apgd_restarts(norm: Norm, classes: int) -> Column:
    attacks = (_apgd("apgd-ce", 5, norm), _apgd_targeted(classes, norm, restarts=5))
    return Column(name="apgd-restarts", label="APGD-CE + APGD-T, 5 restarts", attacks=attacks)


def _spsa(norm: Norm, classes: int) -> Column:
    """Lengths in pixels, not fractions of eps: the AWP paper's, as recalled."""
    params: dict[str, Scalar] = {"steps": 100, "lr": 0.01, "delta": 0.001, "samples": 256}
    return Column(name="spsa", label="SPSA", attacks=(AttackSpec(name="spsa", params=params),))


def _pgd20_trades(norm: Norm, classes: int) -> Column:
    spec = _pgd(norm, 20, relative_step=_LEGACY_STEP, iterate="last")
    return Column(name="pgd20-trades", label="PGD-20 (TRADES)", attacks=(spec,))


def _cw30_mart(norm: Norm, classes: int) -> Column:
    spec = _pgd(norm, 30, relative_step=_LEGACY_STEP, iterate="last", loss="margin")
    return Column(name="cw30-mart", label="CW-inf (MART, margin PGD-30)", attacks=(spec,))


def _pgd20_svhn(norm: Norm, classes: int) -> Column:
    spec = _pgd(norm, 20, relative_step=0.125, iterate="last")
    return Column(name="pgd20-svhn", label="PGD-20 (SVHN, last iterate)", attacks=(spec,))


def _curve(norm: Norm, classes: int) -> Column:
    params: dict[str, Scalar] = {
        "steps": 100, "step": 1.0, "final_step": 0.01, "gamma": 0.05, "final_gamma": 0.001,
    }  # fmt: skip
    return Column(name="curve", label="FMN", attacks=(AttackSpec(name="fmn", params=params),))


COLUMNS: dict[str, Callable[[Norm, int], Column]] = {
    "fgsm": _fgsm,
    "pgd20": _pgd20,
    "pgd20-last": _pgd20_last,
    "pgd100": _pgd100,
    "cw": _cw,
    "autoattack": _autoattack,
    "autoattack-lite": _autoattack_lite,
    "autoattack-plus": _autoattack_plus,
    "autoattack-rand": _autoattack_rand,
    "apgd-restarts": _apgd_restarts,
    "spsa": _spsa,
    "pgd20-trades": _pgd20_trades,
    "cw30-mart": _cw30_mart,
    "pgd20-svhn": _pgd20_svhn,
    "curve": _curve,
}

_UNDER_L1 = ("autoattack", "autoattack-lite", "curve")
_ONLY_LINF = ("pgd20-trades", "cw30-mart", "pgd20-svhn")

# name -> (version, columns, what it is for). A change of any of these needs a new version.
_PROTOCOLS: dict[str, tuple[int, tuple[str, ...], str]] = {
    "standard": (
        1,
        ("fgsm", "pgd20", "cw", "autoattack"),
        "The leaderboard's default; rows are ranked by the worst case of its columns.",
    ),
    "standard-restarts": (
        1,
        ("fgsm", "pgd20", "cw", "autoattack", "apgd-restarts"),
        "The columns of standard and restarts, which break images that AutoAttack leaves standing; "
        "never ranked with standard.",
    ),
    "awp-table": (
        1,
        ("fgsm", "pgd20-last", "pgd100", "cw", "spsa", "autoattack"),
        "The columns of the AWP paper's tables, to stand beside them.",
    ),
    "gradient": (
        1,
        ("fgsm", "pgd20", "cw"),
        "The gradient columns of standard, cheap enough for whole test sets; never ranked with it.",
    ),
    "autoattack": (1, ("autoattack",), "AutoAttack alone, as RobustBench reports it."),
    "autoattack-plus": (
        1,
        ("autoattack-plus",),
        "AutoAttack's longer version, for a network whose standard number is doubted.",
    ),
    "autoattack-rand": (
        1,
        ("autoattack-rand",),
        "Networks that answer at random: the judge looks 20 times and the majority decides.",
    ),
    "curve": (
        1,
        ("autoattack", "curve"),
        "The nearest misclassified point of every image, AutoAttack's among them: an upper bound of "
        "robust accuracy at any radius.",
    ),
    "published-pgd": (
        1,
        ("pgd20-last", "pgd100"),
        "The PGD columns that may stand beside published numbers.",
    ),
    "published-svhn": (
        1,
        ("pgd20-svhn",),
        "PGD-20 with the smaller step of published SVHN numbers.",
    ),
    "legacy": (
        1,
        ("pgd20-trades", "cw30-mart"),
        "The attacks of the TRADES and MART papers, for a threat of linf:0.031.",
    ),
    "quick": (1, ("pgd20", "autoattack-lite"), "A quick upper bound while developing."),
}
PROTOCOL_NAMES = tuple(_PROTOCOLS)
_PASSES = {"autoattack-rand": 20}  # looks of the judge, where more than one


def protocol_meaning(name: str) -> str:
    """One sentence: what a protocol is for."""
    return _PROTOCOLS[name][2]


def undefined_columns(name: str, norm: Norm) -> list[str]:
    """Columns of a protocol that a norm does not have."""
    columns = _PROTOCOLS[name][1]
    if norm == "l1":
        return [c for c in columns if c not in _UNDER_L1]
    return [c for c in columns if norm == "l2" and c in _ONLY_LINF]


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
        raise InvalidInput(_why_undefined(name, undefined, norm))
    return Protocol(
        name=name,
        version=version,
        columns=tuple(COLUMNS[c](norm, classes) for c in columns),
        passes=_PASSES.get(name, 1),
    )


def _why_undefined(name: str, undefined: list[str], norm: Norm) -> str:
    if norm == "l2":
        why, instead = "their steps were published for linf", "published-pgd"
    elif undefined == [name]:  # the longer versions of AutoAttack
        why, instead = "published for linf and l2", "autoattack"
    else:
        why, instead = "PGD, FGSM and SPSA have no l1 step here", "autoattack"
    return (
        f"{name}: not defined under {norm}: {', '.join(undefined)} ({why}). "
        f"Under {norm} use the protocol {instead}"
    )
