"""How it is measured: protocols and columns as data, and what the numbers do not say."""

from __future__ import annotations

from typing import cast

import streamlit as st
from markupsafe import Markup

from bench import protocols
from bench.board import article, filters
from bench.board.article import code, paragraph, small
from bench.reliability.flags import FLAGS, HOW_READ
from bench.schema import Protocol
from bench.schema.threat import NORMS, Norm

_DO_NOT_SAY = (
    "The interval of a row covers the sampling of images for this network, attack suite and seed. "
    "It does not bound the true robust accuracy, which can only be lower: a stronger attack may "
    "exist. Nothing here is proven or certified.",
    "A rank is not a verdict. Rows with overlapping intervals may not be separated; the paired "
    "comparison of two models on the same images is the sharper test.",
    "A difference over seeds speaks of these runs: this architecture, schedule, data set and "
    "threat. Fewer than 6 seeds make an indication, not a headline.",
    "Last-epoch comparisons include robust overfitting; comparisons of epochs chosen on validation "
    "images do not. Nothing is chosen on test images.",
    "A published number is shown as its source gives it. It was not measured here: other images, "
    "attacks, seeds and code stand behind it, and it never has a rank.",
    "Rank ranges say which rows the tests leave unseparated. Not separated is not equal: more images "
    "may tell two models apart.",
    "Robustness to one norm and radius says nothing about another, nor about natural corruptions.",
)
_RULES = (
    "A robust image is one that is classified correctly and that no attack of the column broke. "
    "Clean errors count as not robust.",
    "Every column starts from all correctly classified images. The worst case is the share of "
    "images standing under all columns; it ranks the rows.",
    "The judge is the untouched float32 model. It accepts an adversarial image only inside the "
    "ball and inside [0, 1]; a tie, or logits that are not finite, count as broken.",
    "A column is known by the hash of its attacks with every parameter. Numbers of different ids "
    "never share a table column: PGD-20 is not one thing in the literature.",
    "Records hold one answer an image. Rates and intervals are derived from them, never stored.",
    "Of several records of one model the table shows our engine before the reference, float32 "
    "before mixed precision, then the lowest attack seed, then the newest. Best known is the "
    "intersection of all of them.",
)


def show() -> None:
    """The page from top to bottom."""
    st.title("How it is measured", anchor=False)
    paragraph(
        "A number on this board is a count: of n test images, how many does the network still "
        "classify correctly after every attack of a fixed protocol has tried to change its mind."
    )
    st.header("What the numbers do not say", anchor=False)
    article.bullets(_DO_NOT_SAY)
    st.header("Rules", anchor=False)
    article.bullets(_RULES)
    st.header("Protocols", anchor=False)
    missed = "The address asks for a norm that is not known."
    norm = cast(Norm, filters.choice("Norm", NORMS, "norm", missed, width=220))
    small(
        "Steps are fractions of eps, so that a column means the same at every radius. Shown for "
        "ten classes; with fewer, targeted attacks have fewer targets and the ids differ."
    )
    for name in protocols.PROTOCOL_NAMES:
        if not protocols.undefined_columns(name, norm):
            show_protocol(protocols.protocol(name, norm=norm))
    st.header("Flags", anchor=False)
    paragraph(
        "A flag is a reason to doubt a high number; a broken image stays broken. Some keep a row "
        "without a rank until the reason is gone."
    )
    small(HOW_READ)
    unranked = Markup("<strong>Unranked.</strong> ")
    article.facts(
        (name, Markup("{} {}{}").format(f.meaning, unranked if f.unrankable else "", f.remedy))
        for name, f in FLAGS.items()
    )
    st.header("Check a number", anchor=False)
    paragraph(
        "The adversarial images behind every broken bit are kept. One command proves them again, "
        "with forward passes only; another derives the leaderboard from the records. Every model "
        "page holds the command that asks the same question anew."
    )
    st.code(
        "python -m bench verify RECORD     # proves every broken image again\n"
        "python -m bench table             # derives the leaderboard from the records\n"
        "python -m bench compare A B       # two models on the same images\n"
        "python -m bench doctor CHECKPOINT # examines a model before it is measured\n"
        "make evaluate                     # measures every checkpoint not measured yet",
        language="bash",
    )


def show_protocol(protocol: Protocol) -> None:
    """One protocol: what it is for, then its columns with every attack written out."""
    st.subheader(protocol.name, anchor=False)
    paragraph(protocols.protocol_meaning(protocol.name))
    article.bullets(
        Markup("{} ({}): {}").format(
            Markup("<strong>{}</strong>").format(column.label),
            code(column.column_id),
            Markup(", then ").join(code(spec) for spec in column.attacks),
        )
        for column in protocol.columns
    )
    for column in protocol.columns:
        if (rule := column.audit) is not None:
            small(
                f"{column.label} is audited: {', '.join(spec.name for spec in rule.attacks)} on a "
                f"random sample of the images that it leaves standing, {rule.many} of "
                f"{rule.many_from:,} or more, else {rule.few}. Where a flag says that gradients may "
                "be masked they attack all of them, as a part of the column."
            )
    small(f"Version {protocol.version}, id {protocol.protocol_id}.")


show()
