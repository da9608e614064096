"""Detectors of wrong captions: their accuracy on injected errors, and the pairs they differ on."""

from clipmem_core.dashboard.compare import draw_differences, draw_findings
from clipmem_core.dashboard.page import open_page

with open_page("Detectors") as audit:
    draw_findings(audit)
    draw_differences(audit)
