"""The dashboard's router: `streamlit run app.py`."""

import streamlit as st

st.navigation([st.Page("pages/overview.py", title="Overview", default=True)]).run()
