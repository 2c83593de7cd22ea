"""The board: a web page that reads records and shows who withstands attack, and why.

    streamlit run app.py [-- --results DIR]

It never loads torch and never measures anything.
"""

import streamlit as st

from bench.board import article, records

st.set_page_config(page_title="Robustness leaderboard", page_icon="🛡️", layout="wide")
page = st.navigation(
    [
        st.Page("bench/board/leaderboard.py", title="Leaderboard", default=True),
        st.Page("bench/board/model.py", title="Model", url_path="model"),
        st.Page(
            "bench/board/measured.py", title="How it is measured", url_path="how-it-is-measured"
        ),
    ],
    position="top",
)
article.style()
page.run()
records.rerun_when_changed()
