"""Two audits of a data set: how well their scores agree, and the pairs whose scores changed most."""

import streamlit as st

from clipmem_core.dashboard.changed_pairs import draw_changed, draw_points
from clipmem_core.dashboard.comparable import compared
from clipmem_core.dashboard.comparing import draw_choice, draw_numbers, draw_settings
from clipmem_core.dashboard.frame import open_bare_page
from clipmem_core.dashboard.trouble import explained_errors

open_bare_page("Compare audits")
with explained_errors():
    one, other, column = draw_choice()
    with st.spinner("Comparing…"):
        comparison = compared(one, other, column)
    draw_numbers(comparison)
    draw_settings(one, other, comparison)
    draw_points(one, other, comparison)
    draw_changed(one, other, comparison)
