"""The dashboard's router: `streamlit run app.py`."""

import streamlit as st

st.navigation([st.Page("pages/overview.py", title="Overview", icon=":material/overview:", default=True)]).run()
