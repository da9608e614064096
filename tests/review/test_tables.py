import pytest

from clipmem_core.audits.store import SCORES, write_table
from clipmem_core.columns import CLIPMEM
from clipmem_core.config import InputError
from clipmem_core.review.rows import count_pairs
from clipmem_core.review.selection import Selection
from tests.made_fixtures import Copy


def test_clipmem_is_in_every_audit(copy: Copy) -> None:
    audit = copy()
    write_table(audit.folder / SCORES, audit.scores.drop(columns=CLIPMEM))
    with pytest.raises(InputError, match=r"scores\.parquet cannot be read \(.*clipmem"):
        count_pairs(audit, Selection())
