"""Two audits of one data set: how well their scores agree, and the pairs whose scores changed
most."""

import streamlit as st

from clipmem_core.dashboard import compare as c
from clipmem_core.dashboard.page import open_bare_page
from clipmem_core.review.overview import compare

with open_bare_page("Compare", clears=(c.ONE, c.OTHER)):
    one, other, column = c.draw_choice()
    with st.spinner("Comparing…"):
        comparison = compare(one, other, column)
    c.draw_numbers(comparison)
    c.draw_settings(one, other)
    c.draw_points(one, other, comparison)
    c.draw_changed(one, other, comparison)
