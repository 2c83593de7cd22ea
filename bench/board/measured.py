"""How it is measured: the words of the board, each explained once; protocols and flags as data."""

from __future__ import annotations

from typing import NamedTuple, cast

import streamlit as st
from markupsafe import Markup, escape

from bench import protocols
from bench.board import article, filters
from bench.board.article import code, paragraph, small
from bench.reliability.flags import FLAGS, HOW_READ
from bench.schema import Protocol
from bench.schema.threat import NORMS, Norm
from bench.stats import comparisons
from bench.stats.method_rows import BADGES
from bench.stats.verdicts import RULE


class Term(NamedTuple):
    """A word of the board; other pages link to its anchor on this one."""

    word: str
    anchor: str
    says: str | Markup


TERMS = (
    Term(
        "Robust accuracy",
        "robust-accuracy",
        "The share of all n images that are classified correctly and that no attack broke; clean "
        "errors count as not robust. The untouched float32 network is the judge, inside the ball and "
        "inside [0, 1]; a tie, or a logit that is not finite, counts as broken. A stronger attack can "
        "only lower it: nothing is certified, and another norm or radius is another question.",
    ),
    Term(
        "Protocol",
        "protocol",
        "A fixed list of attacks. Each starts from all correctly classified images; what stands under "
        "all of them ranks the rows. An attack is known by the hash of all its parameters; different "
        "hashes never share a column: PGD-20 is not one thing in the literature.",
    ),
    Term(
        "Interval",
        "interval",
        "95 %. Of one network Wilson's: it covers which images were drawn, for this network, these "
        "attacks and this seed. Of a method Student's t over its seeds: this architecture, schedule, "
        "data set and threat. Neither bounds the true robust accuracy.",
    ),
    Term(
        "Method",
        "method",
        "All that decides a training run but its seed and the epoch kept. Its number is the mean over "
        "seeds. A network alone, with one seed or of somebody else, is marked.",
    ),
    Term(
        "Twin",
        "twin",
        "The network trained with the same data order, start, schedule and seed, without AWP. The "
        "difference is taken on the same images, seed by seed; images are never pooled over seeds.",
    ),
    Term(
        "Rank range",
        "rank-range",
        "The places that the tests leave open: by seed where seeds are shared (paired t, else "
        "Welch's), on the images where a network stands alone (exact McNemar), with Holm's correction "
        "over all pairs of the table. Not separated is not equal: more seeds or images may tell.",
    ),
    Term("Verdict", "verdict", RULE),
    Term(
        "Best and last epoch",
        "best-and-last",
        "Best is chosen on validation images, never on test images. The last epoch includes robust "
        "overfitting, so its comparisons answer another question.",
    ),
    Term(
        "Best known",
        "best-known",
        "What stands under every record of the same weights together. The table shows one of them: our "
        "engine before the reference, float32 before mixed precision, then the lowest attack seed.",
    ),
    Term(
        "Checks",
        "checks",
        Markup("; ").join(Markup("<b>{}</b>: {}").format(*one) for one in BADGES.items()) + ".",
    ),
    Term(
        "Flag",
        "flag",
        "A reason to doubt a high number; a broken image stays broken. Some flags keep a row without a "
        "rank until the reason is gone.",
    ),
    Term(
        "Published number",
        "published",
        "Shown as its source gives it, and not measured here: other images, attacks, seeds and code "
        "stand behind it, and it never has a rank.",
    ),
)
_MAIN = ("standard", "fast", "gradient")  # the protocols that a visitor meets first


def show() -> None:
    """The page from top to bottom."""
    st.title("How it is measured", anchor=False)
    paragraph(
        "A number on this board is a count: of n test images, how many does the network still "
        "classify correctly after every attack of a fixed protocol has tried to change its mind. "
        "Records hold one answer an image; rates, intervals and ranks are derived from them."
    )
    st.header("The words of this board", anchor="words")
    for pair in zip(TERMS[::2], TERMS[1::2], strict=True):
        for column, term in zip(st.columns(2, gap="medium"), pair, strict=True):
            with column:
                st.subheader(term.word, anchor=term.anchor)
                paragraph(term.says)
    st.header("The six comparisons of the first page", anchor="six-comparisons")
    paragraph(comparisons.RULE)
    st.header("Protocols", anchor="protocols")
    article.facts((name, escape(protocols.protocol_meaning(name))) for name in _MAIN)
    with st.expander("Every protocol, written out"):
        show_protocols()
    st.header("Flags", anchor="flags")
    with st.expander(f"The {len(FLAGS)} flags, and what takes each away"):
        small(HOW_READ)
        unranked = Markup("<strong>Unranked.</strong> ")
        article.facts(
            (name, Markup("{} {}{}").format(f.meaning, unranked if f.unrankable else "", f.remedy))
            for name, f in FLAGS.items()
        )
    st.header("Check a number", anchor="check")
    paragraph("The adversarial images behind every broken bit are kept; forward passes prove them.")
    st.code(
        "python -m bench verify RECORD     # proves every broken image again\n"
        "python -m bench table             # derives the leaderboard from the records\n"
        "python -m bench compare A B       # two models on the same images\n"
        "python -m bench doctor CHECKPOINT # examines a model before it is measured",
        language="bash",
        wrap_lines=True,
    )


def show_protocols() -> None:
    """All protocols of the norm that is chosen."""
    missed = "The address asks for a norm that is not known."
    norm = cast(Norm, filters.choice("Norm", NORMS, "norm", missed, width=220))
    small(
        "Steps are fractions of eps, so that a column means the same at every radius. Shown for "
        "ten classes; with fewer, targeted attacks have fewer targets and the ids differ."
    )
    for name in protocols.PROTOCOL_NAMES:
        if not protocols.undefined_columns(name, norm):
            show_protocol(protocols.protocol(name, norm=norm))


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
