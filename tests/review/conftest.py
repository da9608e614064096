import pytest

from clipmem_core.auditing.folder.store import Audit
from clipmem_core.review.decisions import Review, open_review
from tests.fixtures import Copy, copy, data, made

__all__ = ["copy", "data", "made"]


@pytest.fixture
def audit(copy: Copy) -> Audit:
    return copy()


@pytest.fixture
def review(audit: Audit) -> Review:
    return open_review(audit)
