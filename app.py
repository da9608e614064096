"""The dashboard's router: `streamlit run app.py`."""

import streamlit as st

from clipmem_core.dashboard.frame import PAGES

pages = [st.Page(path, title=title, default=path == "pages/overview.py") for path, (title, _) in PAGES.items()]
st.navigation(pages, position="hidden").run()
