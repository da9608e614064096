import pytest

from clipmem_core.audits.store import Audit
from clipmem_core.review.decisions import Review, open_review
from tests.made_fixtures import copy, data, made

__all__ = ["copy", "data", "made"]


@pytest.fixture
def review(audit: Audit) -> Review:
    return open_review(audit)
