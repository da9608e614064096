from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from clipmem_core.review.groups import group_bins, group_summary, quarantine_page

from clipmem_core.audits.store import Audit, write_table
from clipmem_core.config import InputError
from clipmem_core.review.tables import count_rows

Copy = Callable[..., Audit]


def test_group_summary_agrees_with_pandas(made: dict[str, Audit]) -> None:
    wanted = made["paper"].scores.groupby("group")["clipmem"].agg(["size", "mean", "std"])
    found = group_summary(made["paper"]).set_index("group").loc[wanted.index]
    np.testing.assert_allclose(found.to_numpy(float), wanted.to_numpy(float))


def test_bins_agree_with_numpy(made: dict[str, Audit]) -> None:
    scores = made["paper"].scores
    bins = group_bins(made["paper"], bins=40)
    span = (scores["clipmem"].min(), scores["clipmem"].max())
    for group, rows in scores.groupby("group"):
        counts, edges = np.histogram(rows["clipmem"], bins=40, range=span)
        found = bins[bins["group"] == group]
        np.testing.assert_allclose(found["share"], counts[counts > 0] / len(rows))
        np.testing.assert_allclose(found["low"], edges[:-1][counts > 0])


def test_one_value_everywhere_falls_into_one_bin(copy: Copy) -> None:
    audit = copy()
    write_table(audit.folder / "scores.parquet", audit.scores.assign(clipmem=0.25))
    bins = group_bins(audit, bins=40)
    assert bins["share"].tolist() == [1.0, 1.0]


def test_quarantine_comes_in_pages(made: dict[str, Audit]) -> None:
    assert count_rows(made["paper"].folder / "quarantine.parquet") == 120
    pages = [quarantine_page(made["paper"], page=page, size=50) for page in (1, 2, 3)]
    shown, stored = (
        table.astype(object).where(table.notna(), None)
        for table in (pd.concat(pages, ignore_index=True), made["paper"].quarantine)
    )
    pd.testing.assert_frame_equal(shown, stored)


def test_a_missing_file_is_named(copy: Copy) -> None:
    audit = copy()
    (audit.folder / "scores.parquet").unlink()
    with pytest.raises(InputError, match=r"scores\.parquet is missing: run the audit again"):
        group_summary(audit)


def test_a_table_without_its_column_is_named(copy: Copy) -> None:
    audit = copy()
    write_table(audit.folder / "scores.parquet", audit.scores.drop(columns="clipmem"))
    with pytest.raises(InputError, match=r"scores\.parquet cannot be read \(.*clipmem"):
        group_bins(audit, bins=10)
