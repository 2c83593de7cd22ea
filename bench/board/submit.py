"""Submit a network: the form where this server takes submissions, three commands where it does not."""

from __future__ import annotations

import streamlit as st
from markupsafe import Markup

from bench.board import submissions, submit_form
from bench.board.article import paragraph, small

_COMMANDS = (
    (
        "Look whether the file is read, and as which network.",
        "python -m bench import net.pt --arch small_cnn --dataset digits --name mine",
    ),
    (
        "Measure it, and say how it was trained.",
        "python -m bench submit net.pt --arch small_cnn --dataset digits --name mine \\\n"
        "    --threat linf:0.15 --objective at --awp gamma=0.01,warm_up=0 --twin TWIN",
    ),
    (
        "Hand the record in as a pull request, with its evidence and weights.",
        "python -m bench verify results/digits/linf-0.15/mine && git add results",
    ),
)


def show() -> None:
    """The page from top to bottom."""
    st.title("Submit a network", anchor=False)
    asked = submissions.settings()
    if asked is None:
        show_commands()
        return
    fast, *later = asked.protocols
    paragraph(
        Markup(
            "A worker measures it under <strong>{}</strong>{}. Your file is read as data, once, in a "
            "locked process: nothing in it runs. Another architecture than the catalogue's comes as a "
            "pull request."
        ).format(fast, f", then {', then '.join(later)}" if later else "")
    )
    submit_form.show(sorted(submissions.names()), token=asked.token is not None)
    small("The same by the command line: python -m bench submit FILE --server ADDRESS --watch")


def show_commands() -> None:
    """How to hand in a network where the server takes none."""
    paragraph("This server takes no submissions. Three steps, on your own machine:")
    for number, (does, command) in enumerate(_COMMANDS, 1):
        paragraph(f"{number}. {does}")
        st.code(command, language="bash", wrap_lines=True)


show()
