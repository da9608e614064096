import numpy as np
import pyarrow.parquet as pq
import pytest

from clipmem_core.audits import checks as of_audits
from clipmem_core.audits.checks import ensure_checks, kept_checks
from clipmem_core.audits.store import CHECK_TABLE, MANIFEST, PAIRS, Audit, broken_files, write_prepared, write_table
from clipmem_core.pairs import checks
from clipmem_core.review.rows import check_counts, count_pairs, failed_checks, find_rows, lookalike_groups, rows_failing
from clipmem_core.review.selection import Selection, from_parameters, to_parameters
from tests.fixtures import Copy

PICTURES = ["dark", "blurred", "uniform"]


@pytest.fixture
def audit(copy: Copy) -> Audit:
    """A made audit without a store of small pictures: those of the data set are looked at instead."""
    made = copy()
    pairs = made.pairs
    pairs.at[3, "captions"] = ["a frog &amp; a toad on a pad"]
    pairs.at[4, "captions"] = ["IMG_0042.jpg", "a frog on a pad"]
    write_table(made.folder / PAIRS, pairs)
    rows = np.arange(len(pairs))
    clusters = rows.copy()
    clusters[[7, 9, 12]] = 5
    clusters[20] = 19
    write_prepared(made.folder, cache_rows=rows, clusters=clusters)
    return made


def test_the_table_is_made_once_and_again_where_it_is_broken_or_of_older_checks(
    audit: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert kept_checks(audit) is None
    assert failed_checks(audit, 3) == []  # a page of one pair does not wait for them
    path = ensure_checks(audit)
    made = path.stat().st_ino
    assert ensure_checks(audit).stat().st_ino == made
    assert failed_checks(audit, 3) == ["markup"]
    path.write_bytes(path.read_bytes()[:-100])
    assert ensure_checks(audit).stat().st_size > 0
    assert pq.read_table(path).num_rows == len(audit.pairs)
    again = path.stat().st_mtime_ns
    monkeypatch.setattr(of_audits, "VERSION", checks.VERSION + 1)  # as a CLIPMem of tomorrow would have it
    assert ensure_checks(audit).stat().st_mtime_ns != again


def test_it_belongs_to_no_manifest(audit: Audit) -> None:
    before = (audit.folder / MANIFEST).read_bytes()
    ensure_checks(audit)
    assert (audit.folder / MANIFEST).read_bytes() == before
    assert CHECK_TABLE not in broken_files(audit.folder)


def test_counts_are_those_of_the_table_and_none_where_it_is_not_known(audit: Audit) -> None:
    counts = check_counts(audit)
    table = pq.read_table(ensure_checks(audit)).to_pandas()
    assert list(counts) == list(checks.CHECKS)
    assert counts == {name: int(table[name].sum()) for name in counts}
    assert counts["file_name"] == 1
    assert counts["lookalike"] == 6
    (audit.folder / ".prepared.npz").unlink()
    (audit.folder / CHECK_TABLE).unlink()
    unknown = check_counts(audit)
    assert {name for name, count in unknown.items() if count is None} == {*PICTURES, "lookalike"}


def test_a_selection_holds_the_pairs_of_a_check_and_its_address_says_so(audit: Audit) -> None:
    selection = Selection(check="lookalike")
    assert sorted(find_rows(audit, selection, page=1, size=50)) == [5, 7, 9, 12, 19, 20]
    assert count_pairs(audit, Selection(check="markup", words="frog")) == 1
    assert from_parameters(to_parameters(selection)) == (selection, [])
    assert from_parameters({"check": "beauty"}) == (from_parameters({})[0], ["check"])
    with pytest.raises(ValueError, match="check must be one of empty_caption"):
        rows_failing(audit, "beauty")


def test_groups_of_lookalikes_come_with_all_their_pairs_the_largest_first(audit: Audit) -> None:
    assert lookalike_groups(audit) == [[5, 7, 9, 12], [19, 20]]
