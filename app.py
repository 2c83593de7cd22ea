"""The board: a web page that reads records and shows who withstands attack, and why.

    streamlit run app.py [-- --results DIR] [--intake [FILE]]

It never loads torch and never measures anything.
"""

import sys
import traceback

import streamlit as st

from bench.board import article, head, palette, records, submissions


def show() -> None:
    """A run of the page that the address names."""
    st.set_page_config(page_title=head.SITE, page_icon=str(head.ICON), layout="wide")
    pages = {
        page: st.Page(
            head.FOLDER / f"{page.file}.py",
            title=page.title,
            url_path=page.address,
            default=not page.address,
            visibility="visible" if page.in_menu else "hidden",
        )
        for page in head.PAGES
    }
    chosen = st.navigation([*pages.values()], position="top")
    told = next(page for page in head.PAGES if page.address == chosen.url_path)
    st.set_page_config(page_title=head.title(told, st.query_params.get("name")))
    st.html(f"<style>{palette.css()}</style>")
    st.html(head.FOLDER / "style.css")
    with records.page():
        try:
            chosen.run()
        except Exception:  # a visitor is told kindly; what went wrong is the operator's to read
            traceback.print_exc(file=sys.stderr)
            st.error("This view could not be shown. The reason is in the server's log.")
            article.paragraph("The other pages, and other tables of this page, are not affected.")


if __name__ == "__main__":  # a visitor's run of the script
    show()
else:  # the server, which `streamlit run` finds here
    records.start()
    app = st.App(__file__, **submissions.beside_the_pages())
