"""The dashboard's router: `streamlit run app.py`."""

import gc

import streamlit as st

from clipmem_core.dashboard.page import PAGES
from clipmem_core.dashboard.routes import middleware, routes
from clipmem_core.review.search import use_process


def open_first() -> None:
    """Switch to the first page; the default page itself has no address of its own."""
    st.switch_page(next(iter(PAGES)), query_params=st.query_params.to_dict())


if __name__ == "__main__":  # a session runs it
    pages = [st.Page(path, title=title) for path, (title, *_) in PAGES.items()]
    st.navigation(
        [st.Page(open_first, title="CLIPMem", default=True), *pages], position="hidden"
    ).run()
elif __name__ != "__mp_main__":  # the server imports it; so do processes that it starts
    # Streamlit collects garbage after each script: .07 s if it looks at the libraries, too
    gc.freeze()
    use_process()
    app = st.App(__file__, routes=routes(), middleware=middleware())
