"""The board: a web page that reads records and shows who withstands attack, and why.

    streamlit run app.py [-- --results DIR]

It never loads torch and never measures anything.
"""

import sys
import traceback
from pathlib import Path

import streamlit as st

from bench import board
from bench.board import article, palette, records

PAGES = Path(board.__path__[0])

st.set_page_config(page_title="Robustness leaderboard", page_icon="🛡️", layout="wide")
page = st.navigation(
    [
        st.Page(PAGES / "leaderboard.py", title="Leaderboard", default=True),
        st.Page(PAGES / "awp.py", title="Did AWP help?", url_path="did-awp-help"),
        st.Page(PAGES / "compare.py", title="Compare", url_path="compare"),
        st.Page(PAGES / "model.py", title="Model", url_path="model"),
        st.Page(PAGES / "tradeoffs.py", title="Trade-offs", url_path="trade-offs"),
        st.Page(PAGES / "measured.py", title="How it is measured", url_path="how-it-is-measured"),
    ],
    position="top",
)
st.html(f"<style>{palette.css()}</style>")
st.html(PAGES / "style.css")
with records.page():
    try:
        page.run()
    except Exception:  # a visitor is told kindly; what went wrong is the operator's to read
        traceback.print_exc(file=sys.stderr)
        st.error("This view could not be shown. The reason is in the server's log.")
        article.paragraph("The other pages, and other tables of this page, are not affected.")
