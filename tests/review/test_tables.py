from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from clipmem_core.audits.store import Audit, write_table
from clipmem_core.config import InputError
from clipmem_core.review.rows import count_pairs, find_rows
from clipmem_core.review.selection import Range, Selection
from clipmem_core.review.tables import count_rows, find_row
from tests.made_audit import make_audit

Copy = Callable[..., Audit]


def test_a_file_that_was_replaced_is_read_again(copy: Copy) -> None:
    audit = copy()
    assert count_pairs(audit, Selection(words="circle", ranges=(Range("clipmem", -50),))) > 0
    write_table(audit.folder / "pairs.parquet", audit.pairs.assign(captions=[["square"]] * 100))
    assert count_pairs(audit, Selection(words="circle", ranges=(Range("clipmem", -50),))) == 0
    write_table(audit.folder / "scores.parquet", audit.scores.assign(clipmem=range(100)))
    assert find_rows(audit, Selection(), page=1, size=2) == [99, 98]
    (audit.folder / "scores.parquet").unlink()
    with pytest.raises(InputError, match=r"scores\.parquet is missing: run the audit again"):
        find_rows(audit, Selection(), page=1, size=2)


def test_tables_of_another_length_are_refused(copy: Copy) -> None:
    audit = copy()
    write_table(audit.folder / "pairs.parquet", audit.pairs.iloc[:-1])
    with pytest.raises(InputError, match=r"pairs\.parquet and scores\.parquet list other pairs"):
        count_pairs(audit, Selection())


@pytest.mark.parametrize("name", ["pairs", "scores"])
@pytest.mark.parametrize("selection", [Selection(), Selection(words="a"), Selection(label="a"), Selection(group="a")])
def test_a_file_broken_after_it_was_read_is_named(copy: Copy, name: str, selection: Selection) -> None:
    audit = copy()
    count_pairs(audit, selection)
    (audit.folder / f"{name}.parquet").write_bytes(b"PAR1 not really PAR1")
    with pytest.raises(InputError, match=rf"{name}\.parquet cannot be read \(.*\): delete"):
        count_pairs(audit, selection)


def test_a_folder_may_have_the_signs_of_a_pattern(tmp_path: Path) -> None:
    audit = make_audit(tmp_path / "a[b]*?{c}")
    assert count_rows(audit.folder / "pairs.parquet") == 100


def test_pages_of_many_threads_get_what_one_gets(copy: Copy) -> None:
    audit = copy("paper")
    asked = [
        Selection(order=order, words=words, decision="undecided", ranges=(Range("clipmem", low),))
        for order in ("clipmem", "misfit", "se")
        for words in ("", "circle", "teal a")
        for low in (-0.3, 0.0)
    ]
    wanted = [find_rows(audit, selection, page=1, size=50) for selection in asked]
    write_table(audit.folder / "scores.parquet", audit.scores)  # nothing that was kept is of use now
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda selection: find_rows(audit, selection, page=1, size=50), asked * 4))
    assert found == wanted * 4


def test_a_pair_is_found_by_its_id(made: dict[str, Audit]) -> None:
    ids = made["ensemble"].pairs["pair_id"]
    assert [find_row(made["ensemble"], pair_id) for pair_id in ids] == list(range(100))
    assert [find_row(made["ensemble"], text) for text in ("", "' OR 1=1", "\ud800")] == [None, None, None]
