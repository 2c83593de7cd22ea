"""COLUMNS and PROTOCOLS as data: what each name measures, immutable and hashed.

"PGD-20" and "CW" are not one thing in the literature, so a number is only comparable with another of
the same column id. Lengths are fractions of eps, so that a column means the same at every radius.
"any" iterate: an image is broken when one of the iterates 1..k fools the model (not the random start);
"last": only iterate k counts, as in the loops of the AWP, TRADES and MART papers.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable

from bench.catalogue import unknown_name
from bench.schema import AttackSpec, AuditRule, Column, InvalidInput, Protocol, Scalar
from bench.schema.threat import Norm

# PGD step as a fraction of eps: Linf 2/255 at 8/255; L2 15/255 at 128/255 (Rice et al. 2020).
_PGD_STEP = {"linf": 0.25, "l2": 15 / 128, "l1": 0.25}
# The step 0.003 of the TRADES and MART papers at their eps of 0.031.
_LEGACY_STEP = 0.003 / 0.031


def _spec(name: str, **params: Scalar) -> AttackSpec:
    return AttackSpec(name=name, params=params)


def _pgd(
    steps: int, relative_step: float, *, iterate: str = "any", loss: str = "cross_entropy"
) -> AttackSpec:
    return _spec(
        "pgd", steps=steps, relative_step=relative_step, restarts=1, start="uniform",
        iterate=iterate, loss=loss,
    )  # fmt: skip


def _apgd(name: str, norm: Norm, restarts: int = 1) -> AttackSpec:
    if norm == "l1":  # Croce & Hein 2021, arXiv 2103.01208
        return _spec(name, steps=100, restarts=5, large_steps=True)
    return _spec(name, steps=100, restarts=restarts)


def _apgd_t(norm: Norm, classes: int, restarts: int = 1) -> AttackSpec:
    """The targeted DLR loss needs four classes; below that APGD ascends the margin instead."""
    if classes < 4:
        return _spec("apgd-margin", steps=100, restarts=restarts)
    if norm == "l1":
        targets = min(5, classes - 1)
        return _spec("apgd-t", steps=100, restarts=restarts, targets=targets, large_steps=True)
    return _spec("apgd-t", steps=100, restarts=restarts, targets=min(9, classes - 1))


def _fab_t(classes: int) -> AttackSpec:
    """The nine most likely wrong classes, or as many as there are."""
    return _spec("fab-t", steps=100, restarts=1, targets=min(9, classes - 1))


def _dlr(classes: int) -> str:
    """The untargeted DLR loss needs three classes; below that APGD ascends the margin instead."""
    return "apgd-dlr" if classes >= 3 else "apgd-margin"


def _autoattack_plus(norm: Norm, classes: int) -> tuple[AttackSpec, ...]:
    untargeted = (_apgd("apgd-ce", norm, 5), _apgd(_dlr(classes), norm, 5))
    fab = _spec("fab", steps=100, restarts=5)
    # Of two classes the margin once more, from the start that the five restarts had already: left out.
    targeted = (_apgd_t(norm, classes),) if classes >= 3 else ()
    return (*untargeted, fab, _SQUARE, *targeted, _fab_t(classes))


def _cascade(classes: int) -> tuple[AttackSpec, ...]:
    """Chosen by tests.cascade.study; what is dear is for images that came near."""
    wrong = min(9, classes - 1)
    return (
        _spec("near-targets", targets=1, candidates=wrong, steps=30),
        _spec("probability-margin", steps=50, restarts=1, spread=10.0),
        _spec(
            "near-boundary", probes=5, opening=7, steps=8, reach=0.1, restarts=7, long_opening=10,
            long_steps=45, close=0.03, again=20, apgd_steps=100, targets=wrong, queries=5000,
        ),
    )  # fmt: skip


_SQUARE = _spec("square", queries=5000, p_init=0.8, restarts=1)

# name -> (norm, classes) -> label, attacks
_COLUMNS: dict[str, Callable[[Norm, int], tuple[str, tuple[AttackSpec, ...]]]] = {
    "fgsm": lambda norm, k: ("FGSM", (_spec("fgsm", relative_step=1.0),)),
    "pgd20": lambda norm, k: ("PGD-20", (_pgd(20, _PGD_STEP[norm]),)),
    "pgd20-last": lambda norm, k: (
        "PGD-20 (last iterate)",
        (_pgd(20, _PGD_STEP[norm], iterate="last"),),
    ),
    "pgd100": lambda norm, k: ("PGD-100", (_pgd(100, _PGD_STEP[norm]),)),
    "cw": lambda norm, k: (
        "CW-inf (margin PGD-100)" if norm == "linf" else "margin PGD-100",
        (_pgd(100, 0.25, loss="margin"),),
    ),
    "autoattack": lambda norm, k: (
        "AutoAttack",
        (_apgd("apgd-ce", norm), _apgd_t(norm, k), _fab_t(k), _SQUARE),
    ),
    "autoattack-lite": lambda norm, k: (
        "APGD-CE + APGD-T (upper bound)",
        (_apgd("apgd-ce", norm), _apgd_t(norm, k)),
    ),
    "autoattack-plus": lambda norm, k: ("AutoAttack plus", _autoattack_plus(norm, k)),
    # Gradients are means over 20 passes, for networks that answer at random.
    "autoattack-rand": lambda norm, k: (
        "AutoAttack rand",
        tuple(_spec(a, steps=100, restarts=1, samples=20) for a in ("apgd-ce", _dlr(k))),
    ),
    "cascade": lambda norm, k: ("Cascade", _cascade(k)),
    "apgd-restarts": lambda norm, k: (
        "APGD-CE + APGD-T, 5 restarts",
        (_apgd("apgd-ce", norm, 5), _apgd_t(norm, k, 5)),
    ),
    # Lengths in pixels, not fractions of eps: the AWP paper's, as recalled.
    "spsa": lambda norm, k: ("SPSA", (_spec("spsa", steps=100, lr=0.01, delta=0.001, samples=256),)),
    "pgd20-trades": lambda norm, k: (
        "PGD-20 (TRADES)",
        (_pgd(20, _LEGACY_STEP, iterate="last"),),
    ),
    "cw30-mart": lambda norm, k: (
        "CW-inf (MART, margin PGD-30)",
        (_pgd(30, _LEGACY_STEP, iterate="last", loss="margin"),),
    ),
    "pgd20-svhn": lambda norm, k: (
        "PGD-20 (SVHN, last iterate)",
        (_pgd(20, 0.125, iterate="last"),),
    ),
    "curve": lambda norm, k: (
        "FMN",
        (_spec("fmn", steps=100, step=1.0, final_step=0.01, gamma=0.05, final_gamma=0.001),),
    ),
}  # fmt: skip


# column -> the one whose attacks audit it
_AUDITED_BY = {"cascade": "autoattack"}


def _column(name: str, norm: Norm, classes: int) -> Column:
    label, attacks = _COLUMNS[name](norm, classes)
    by = _AUDITED_BY.get(name)
    audit = AuditRule(attacks=_COLUMNS[by](norm, classes)[1]) if by else None
    return Column(name=name, label=label, attacks=attacks, audit=audit)


COLUMNS: dict[str, Callable[[Norm, int], Column]] = {
    name: functools.partial(_column, name) for name in _COLUMNS
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
    "fast": (
        1,
        ("fgsm", "pgd20", "cw", "cascade"),
        "The cascade in the place of AutoAttack, for a tenth of its passes; "
        "never ranked with standard.",
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
    "cascade": (1, ("cascade",), "The cascade alone, as the drop-in class runs it."),
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
ONLY = "only-"  # before the name of an attack: a protocol of it alone
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

    `only-ATTACK` is that attack of ATTACKS alone, with the parameters that it has when nothing is said.
    Raises InvalidInput on an unknown name, below two classes, or where a column is undefined.
    """
    if name.startswith(ONLY):
        return _only(name.removeprefix(ONLY))
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


_SAME_FROM = 10  # classes: more change no attack


@functools.lru_cache(maxsize=1000)
def meanings(name: str, norm: Norm, classes: int = 2) -> dict[str, Protocol]:
    """protocol id -> what a name means under a norm, of networks with so many classes or more.

    Empty where the name is none of PROTOCOL_NAMES, or is not defined under that norm.
    """
    if name not in _PROTOCOLS or undefined_columns(name, norm):
        return {}
    counts = range(min(max(classes, 2), _SAME_FROM), _SAME_FROM + 1)
    found = [protocol(name, norm=norm, classes=count) for count in counts]
    return {each.protocol_id: each for each in found}


@functools.lru_cache(maxsize=1000)
def label(name: str, column_id: str, norm: Norm) -> str:
    """How a table heads a column: as the catalogue does where name and id are its, else the name."""
    if name in COLUMNS:
        for classes in range(2, _SAME_FROM + 1):
            column = COLUMNS[name](norm, classes)
            if column.column_id == column_id:
                return column.label
    return name[:60]


def _only(attack: str) -> Protocol:
    from bench.attacks import ATTACKS  # loads torch: pages read this file

    if attack not in ATTACKS:
        raise unknown_name("attack", attack, ATTACKS)
    parameters = inspect.signature(ATTACKS[attack].function).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    column = Column(name=attack, label=attack, attacks=(_spec(attack, **defaults),))
    return Protocol(name=f"{ONLY}{attack}", version=1, columns=(column,))


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
