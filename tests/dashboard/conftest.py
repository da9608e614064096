from tests.dashboard.audits_page import calls, leave_check
from tests.made_fixtures import copy, data, made

__all__ = ["calls", "copy", "data", "leave_check", "made"]
