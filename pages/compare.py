"""Two audits of one data set: how well their scores agree, and the pairs whose scores changed most."""

import streamlit as st

from clipmem_core.dashboard.compare import (
    ONE,
    OTHER,
    compared,
    draw_changed,
    draw_choice,
    draw_numbers,
    draw_points,
    draw_settings,
)
from clipmem_core.dashboard.page import open_bare_page
from clipmem_core.dashboard.plain import explained_errors

open_bare_page("Compare audits", clears=(ONE, OTHER))
with explained_errors():
    one, other, column = draw_choice()
    with st.spinner("Comparing…"):
        comparison = compared(one, other, column)
    draw_numbers(comparison)
    draw_settings(one, other, comparison)
    draw_points(one, other, comparison)
    draw_changed(one, other, comparison)
