"""The form of a submission: its fields, as the HTML of a component that talks to the door by itself.

Streamlit holds what it uploads in memory; this form sends its file to the spool, and its words to the
same addresses as the command line.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, NamedTuple

import streamlit as st
from markupsafe import Markup

from bench.catalogue import DATASETS, OBJECTIVES
from bench.intake.ticket import CONSENTS

_FOLDER = Path(__file__).parent
_CONSENT = {
    "weights and evidence": "Publish weights and evidence: anybody can check the number",
    "hashes only": "Publish hashes only: nobody else can check the number",
}


class Field(NamedTuple):
    """A field of the form."""

    name: str  # in the JSON; awp.gamma is gamma of awp
    label: str
    hint: str = ""
    kind: str = "text"
    choices: tuple[str, ...] = ()
    needed: bool = False


# Heading -> its fields, in the order of the page. A heading with a remark is what nobody here checks.
SECTIONS: dict[tuple[str, str], tuple[Field, ...]] = {
    ("The network", ""): (
        Field("name", "Name", "as the board will call it", needed=True),
        Field("dataset", "Data set", kind="select", choices=tuple(DATASETS), needed=True),
        Field("threat", "Threat", "such as linf:8/255", needed=True),
    ),
    ("How it was trained", "self-declared"): (
        Field("objective", "Method", kind="select", choices=("", *OBJECTIVES)),
        Field("awp.direction", "AWP", kind="select", choices=("", "none", "adversarial", "random")),
        Field("awp.gamma", "gamma", "such as 0.01"),
        Field("awp.warm_up", "Warm-up", "epochs"),
        Field("twin", "Vanilla twin", "trained alike without AWP", kind="list"),
        Field("training_images", "Training images", "which, and how many"),
        Field("extra_data", "Extra data"),
    ),
    ("Where it comes from", "self-declared"): (
        Field("paper", "Paper"),
        Field("authors", "Authors"),
        Field("link", "Link", kind="url"),
        Field("licence", "Licence of the weights"),
        Field("claimed_clean", "Claimed clean accuracy, %"),
        Field("claimed_robust", "Claimed robust accuracy, %"),
    ),
}
_LAST = (
    Field("contact", "Contact", "never shown; deleted 30 days after the ticket closes"),
    Field("secret", "Secret of the ticket to correct", "only to change what you said before"),
)
NOT_STATED = "not stated"


def show(names: list[str], *, token: bool) -> None:
    """The form. names: networks of the board, offered as twins; token: whether one is asked for."""
    thresholds = {name: info.default_threat for name, info in DATASETS.items()}
    _component()(data={"names": names, "token": token, "threats": thresholds}, key="submission")


def html() -> Markup:
    """All of the form; every text in it is ours."""
    sections = [
        Markup("<fieldset><legend>{}{}</legend><div class=fields>{}</div></fieldset>").format(
            heading,
            Markup(" <small>{}</small>").format(remark) if remark else "",
            Markup("").join(map(_field, fields)),
        )
        for (heading, remark), fields in SECTIONS.items()
    ]
    consents = [
        Markup('<label><input type=radio name=consent value="{}" required> {}</label>').format(
            consent, _CONSENT[consent]
        )
        for consent in CONSENTS
    ]
    return Markup((_FOLDER / "submit_form.html").read_text(encoding="utf-8")).format(
        sections=Markup("").join(sections),
        consents=Markup("").join(consents),
        last=Markup("").join(map(_field, _LAST)),
    )


def _field(field: Field) -> Markup:
    """A label, what is typed, a hint and the place of an error, tied together for a screen reader."""
    id, needed = f"f-{field.name.replace('.', '-')}", Markup(" required") if field.needed else ""
    told = Markup('id="{id}" data-field="{field}" aria-describedby="{id}-said"{needed}').format(
        id=id, field=field.name, needed=needed
    )
    if field.kind == "select":
        shown = ("", *field.choices) if field.needed else field.choices
        options = Markup("").join(
            Markup('<option value="{}">{}</option>').format(value, value or _empty(field))
            for value in shown
        )
        control = Markup("<select {}>{}</select>").format(told, options)
    elif field.kind == "list":
        control = Markup(
            '<input {} list="names" autocomplete=off><datalist id=names></datalist>'
        ).format(told)
    else:
        control = Markup('<input {} type="{}" autocomplete=off spellcheck=false>').format(
            told, field.kind
        )
    form = (
        '<div class=field><label for="{id}">{label}{star}</label>{control}'
        '<small class=hint>{hint}</small><p class=error id="{id}-said" aria-live=polite></p></div>'
    )
    star = Markup(' <abbr title="needed">*</abbr>') if field.needed else ""
    return Markup(form).format(
        id=id, label=field.label, star=star, control=control, hint=field.hint
    )


def _empty(field: Field) -> str:
    return "choose" if field.needed else NOT_STATED


@functools.cache
def _component() -> Any:
    style, script = (
        (_FOLDER / f"submit_form.{suffix}").read_text(encoding="utf-8") for suffix in ("css", "js")
    )
    return st.components.v2.component("submission", html=str(html()), css=style, js=script)
