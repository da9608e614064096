from tests.dashboard.audits_page import calls, leave_check
from tests.dashboard.mitigations.mitigations_page import lab, went_on
from tests.fixtures import copy, data, made

__all__ = ["calls", "copy", "data", "lab", "leave_check", "made", "went_on"]
