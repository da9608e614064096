from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from clipmem_core.audits.store import Audit, write_table
from clipmem_core.config import InputError
from clipmem_core.review.rows import (
    PairCard,
    count_rows,
    count_scored,
    group_bins,
    group_summary,
    quarantine_page,
    top_pairs,
)
from tests.made_audit import make_audit

Copy = Callable[..., Audit]


def ids(cards: list[PairCard]) -> list[str]:
    return [card.pair_id for card in cards]


def test_pages_put_together_are_the_whole_order(made: dict[str, Audit]) -> None:
    scores = made["ensemble"].scores
    wanted = scores.sort_values("clipmem", ascending=False)["pair_id"].tolist()
    pages = [top_pairs(made["ensemble"], by="clipmem", group=None, page=page, size=30) for page in (1, 2, 3, 4, 5)]
    assert [len(page) for page in pages] == [30, 30, 30, 10, 0]
    assert [pair_id for page in pages for pair_id in ids(page)] == wanted


def test_pairs_without_a_score_are_neither_listed_nor_counted(copy: Copy) -> None:
    audit = copy()
    scores = audit.scores
    scores.loc[0, "misfit"], scores.loc[1, "misfit"] = np.inf, np.nan
    write_table(audit.folder / "scores.parquet", scores)
    wanted = scores[np.isfinite(scores["misfit"])].sort_values("misfit", ascending=False)["pair_id"].tolist()
    assert ids(top_pairs(audit, by="misfit", group=None, page=1, size=1000)) == wanted
    assert count_scored(audit, by="misfit", group=None) == len(wanted) == 78


def test_a_group_can_be_listed_alone(made: dict[str, Audit]) -> None:
    cards = top_pairs(made["paper"], by="clipmem", group="shared", page=1, size=1000)
    assert {card.group for card in cards} == {"shared"}
    assert len(cards) == count_scored(made["paper"], by="clipmem", group="shared") == 40


def test_independent_pairs_alone_come_lowest_first(made: dict[str, Audit]) -> None:
    cards = top_pairs(made["paper"], by="clipmem", group="independent", page=1, size=20)
    values = [card.clipmem or 0.0 for card in cards]
    assert values == sorted(values)


def test_a_card_holds_the_row_of_both_tables(made: dict[str, Audit]) -> None:
    card = top_pairs(made["ensemble"], by="clipmem", group=None, page=1, size=1)[0]
    pair = made["ensemble"].pairs.set_index("pair_id").loc[card.pair_id]
    score = made["ensemble"].scores.set_index("pair_id").loc[card.pair_id]
    assert (card.image, card.captions, card.planted) == (pair["image"], tuple(pair["captions"]), "miscaption")
    assert (card.clipmem, card.se, card.misfit) == (score["clipmem"], score["se"], score["misfit"])


def test_an_order_that_is_none_is_refused(made: dict[str, Audit]) -> None:
    with pytest.raises(ValueError, match="by must be one of clipmem, misfit, not 'se; DROP'"):
        top_pairs(made["ensemble"], by="se; DROP", group=None, page=1, size=1)


def test_a_hostile_group_name_is_only_a_name(made: dict[str, Audit]) -> None:
    assert count_scored(made["ensemble"], by="clipmem", group="x' OR 1=1 --") == 0


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


def test_a_corrupt_file_is_named(copy: Copy) -> None:
    audit = copy()
    (audit.folder / "pairs.parquet").write_bytes(b"PAR1 not really PAR1")
    with pytest.raises(InputError, match=r"pairs\.parquet cannot be read \(.*\): delete"):
        top_pairs(audit, by="clipmem", group=None, page=1, size=3)


def test_a_table_without_its_column_is_named(copy: Copy) -> None:
    audit = copy()
    write_table(audit.folder / "scores.parquet", audit.scores.drop(columns="clipmem"))
    with pytest.raises(InputError, match=r"scores\.parquet cannot be read \(.*clipmem"):
        group_bins(audit, bins=10)


def test_tables_of_other_pairs_are_refused(copy: Copy) -> None:
    audit = copy()
    write_table(audit.folder / "pairs.parquet", audit.pairs.iloc[::-1])
    with pytest.raises(InputError, match=r"pairs\.parquet and scores\.parquet list other pairs"):
        top_pairs(audit, by="clipmem", group=None, page=1, size=3)


def test_a_folder_may_have_the_signs_of_a_pattern(tmp_path: Path) -> None:
    audit = make_audit(tmp_path / "a[b]*?{c}")
    assert count_rows(audit.folder / "pairs.parquet") == 100
