"""A ticket: how far a submission has come, live, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urljoin

import streamlit as st
from markupsafe import Markup

from bench.board import article, gallery, pictures, records, submissions
from bench.board.article import paragraph, shown, small
from bench.exports.papers import latex_row
from bench.intake import desk
from bench.intake.refusal import Refusal
from bench.intake.store import Store
from bench.intake.ticket import NEXT, News, State, Ticket, lines
from bench.notation import percent, percent_interval
from bench.records import store as kept
from bench.schema import EvaluationRecord, InvalidInput
from bench.stats.intervals import Interval
from bench.table import CLEAN, WORST_CASE, Group, Row

_LOOK = 3  # seconds between two looks at a ticket that is open
_BROKEN = 5  # images
# State -> what it is to a submitter, in order.
STEPS: Mapping[State, str] = {
    "received": "Received", "checked": "Checked", "waiting": "Waiting", "attacking": "Attacking",
    "verified": "Verified", "ranked": "Ranked",
}  # fmt: skip
_ENDS = {"rejected": "Rejected", "withdrawn": "Withdrawn", "removed": "Removed"}


def show() -> None:
    """The page from top to bottom."""
    asked = submissions.settings()
    if asked is None:
        st.title("Ticket", anchor=False)
        how = Markup('<a href="submit" target="_self">how to hand in a network</a>')
        paragraph(Markup("This server takes no submissions: {}.").format(how))
        return
    store = submissions.store(str(asked.root))
    id = st.query_params.get("id", "")
    try:
        ticket = desk.found(store, id)
    except (desk.Unknown, Refusal) as why:
        st.title("Ticket", anchor=False)
        paragraph(f"{why}." if id else "A ticket's address is shown when a network is submitted.")
        return
    article.title(ticket.form.name)
    closed = ticket.closed is not None
    st.fragment(show_state, run_every=None if closed else _LOOK)(store, ticket.id, closed)
    article.alone("The result", show_result, store, ticket)
    article.alone("The way to withdraw", show_withdrawing, store, ticket)


# ---------------------------------------------------------------- how far it has come


def show_state(store: Store, id: str, closed: bool) -> None:
    """Steps and ten lines, as they are now; where it closed meanwhile, the page is drawn again."""
    ticket = desk.found(store, id)
    if (ticket.closed is not None) != closed:
        st.rerun()
    news = store.news(id)
    st.html(steps(ticket))
    told = lines(ticket, news)
    told.pop("Doctor")
    if ticket.now.state in _ENDS:
        told.pop("State")
        form = '<div class="board-verdict worse" role="status"><strong>{}</strong>: {}. {}</div>'
        why, remedy = shown(ticket.now.reason.rstrip("."), 2000), shown(ticket.now.remedy, 2000)
        st.html(Markup(form).format(_ENDS[ticket.now.state], why, remedy))
    article.facts([(heading, shown(text, 2500)) for heading, text in told.items()])
    st.html(doctor(news))


def steps(ticket: Ticket) -> Markup:
    """The states one after the other: those behind it, the one it is in, those to come."""
    states = [change.state for change in ticket.history]
    states = states[len(states) - 1 - states[::-1].index("received") :]  # since it was asked last
    order, now = list(STEPS), ticket.now.state
    behind = order.index(now) if now in STEPS else sum(state in states for state in order)
    form = '<li class="{}"{}>{}<span class="board-unseen">, {}</span></li>'
    made = []
    for place, state in enumerate(order):
        if state == now != "ranked":
            said = "now", Markup(' aria-current="step"'), STEPS[state], "now"
        else:
            done = place < behind or state == now
            said = "done" if done else "", Markup(), STEPS[state], "done" if done else "to come"
        made.append(Markup(form).format(*said))
    return Markup('<ol class="board-steps">{}</ol>').format(Markup("").join(made))


def doctor(news: News) -> Markup:
    """What the doctor says, beside its colour and the word for it."""
    said = news.doctor
    colour = next((c for c in ("green", "amber", "red") if said.lower().startswith(c)), "")
    rest = said[len(colour) :].lstrip(" :;,") if colour else said
    form = '<p class="board-doctor {}"><strong>Doctor: {}</strong> {}</p>'
    return Markup(form).format(
        colour, colour or ("said" if said else "not asked yet"), shown(rest, 300)
    )


# ---------------------------------------------------------------- what came of it


def show_result(store: Store, ticket: Ticket) -> None:
    """Rank, twin, claims, broken images, a line for a paper, a badge; nothing before there is one."""
    news = store.news(ticket.id)
    if news.robust is None or ticket.now.state not in (
        "attacking",
        "waiting",
        "verified",
        "ranked",
    ):
        return
    st.header("Result", anchor=False)
    found = _row(ticket, news)
    if found is None:
        paragraph("It is measured. The board shows it in a moment.")
        return
    group, row = found
    record = row.record.whole
    article.numbers(_numbers(group, row, ticket))
    if news.twin and ticket.form.twin is not None:
        paragraph(Markup("Minus its twin: <strong>{}</strong>.").format(shown(news.twin, 300)))
    paragraph(
        Markup("{}, with all that was found; {}.").format(
            article.link_to_model(group, row),
            article.link_to_table(group, "all rows of this table"),
        )
    )
    article.alone("The broken images", show_broken, record, row)
    st.header("Show it", anchor=False)
    article.alone("The badge", show_badge, ticket)
    with st.expander("A line for a table in LaTeX"):
        st.code(latex_row(group, row), language="latex", wrap_lines=True)


def _row(ticket: Ticket, news: News) -> tuple[Group, Row] | None:
    form = ticket.form
    for group in records.leaderboard().groups:
        if (group.dataset, group.threat) != (form.dataset, form.threat):
            continue
        if group.protocol.name != (news.protocol or ticket.protocol):
            continue
        for row in group.rows:
            if row.card.name == form.name:
                return group, row
    return None


def _numbers(group: Group, row: Row, ticket: Ticket) -> dict[str, tuple[str, str]]:
    form, n = ticket.form, group.n
    ranked = sum(other.rank is not None for other in group.rows)
    place = f"{row.range_text} of {ranked}" if row.rank is not None else "none"
    return {
        "rank": (place, row.unranked or group.protocol_label),
        "robust": (f"{percent(row.rates[WORST_CASE].estimate, n)} %",
                   _beside(row.rates[WORST_CASE], n, form.claimed_robust)),
        "clean": (f"{percent(row.rates[CLEAN].estimate, n)} %",
                  _beside(row.rates[CLEAN], n, form.claimed_clean)),
        "images": (f"{n:,}", ""),
    }  # fmt: skip


def _beside(measured: Interval, n: int, claimed: float | None) -> str:
    """`48.9 – 55.1; claimed 52.0: inside`."""
    ends = percent_interval(measured, n)
    if claimed is None:
        return f"{ends}; nothing claimed"
    where = "inside"
    if not measured.low <= claimed <= measured.high:
        where = "more than measured" if claimed > measured.high else "less than measured"
    return f"{ends}; claimed {percent(claimed, n)}: {where}"


def show_broken(record: EvaluationRecord, row: Row) -> None:
    """Some images that it withstood least, from the evidence of the last column that has some."""
    evidence = kept.evidence_path(row.path, record)
    if not evidence.exists():
        small("No evidence lies beside the record, so no broken image is shown.")
        return
    names = article.class_names(record)
    for column in reversed(record.columns):
        found = gallery.read_examples(evidence, column, record, most=_BROKEN)
        drawn = [
            (
                one.adversarial,
                f"image {one.index:,}: {names[one.label]}",
                f"taken for {names[one.after]}",
            )
            for one in (found if isinstance(found, list) else ())
            if one.adversarial is not None
        ]
        if drawn:
            st.html(pictures.strip(drawn))
            small(f"Broken under {record.threat}.")
            return
    small(
        "No broken image can be shown: none is in the evidence, or the clean images are not here."
    )


def show_badge(ticket: Ticket) -> None:
    """The badge, and the Markdown that shows it elsewhere."""
    name = ticket.form.name
    st.html(Markup('<p><img src="badge/{0}.svg" alt="badge of {0}" height="20"></p>').format(name))
    here = st.context.url or ""
    image, page = urljoin(here, f"badge/{name}.svg"), urljoin(here, f"model?name={name}")
    st.code(f"[![robust accuracy]({image})]({page})", language=None, wrap_lines=True)


# ---------------------------------------------------------------- withdrawing


def show_withdrawing(store: Store, ticket: Ticket) -> None:
    """Takes a submission back, with its secret; says how to correct it."""
    if "withdrawn" not in NEXT[ticket.now.state]:
        return
    with st.expander("Withdraw or correct"):
        again = Markup('<a href="submit" target="_self">send the form again</a>')
        said = "To correct what you said, {} with the same file and the secret. To withdraw:"
        small(Markup(said).format(again))
        with st.form("withdraw", border=False):
            secret = st.text_input("Secret of this ticket", type="password", max_chars=200)
            sent = st.form_submit_button("Withdraw")
        if sent:
            try:
                desk.withdrawn(store, ticket, secret)
            except InvalidInput as why:
                st.info(f"Not withdrawn: {why}.", icon=None)
            else:
                st.rerun()


show()
