from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipmem_core.audits.store import Audit, write_json, write_table
from clipmem_core.config import InputError
from clipmem_core.review import rows
from clipmem_core.review.rows import (
    audit_root,
    count_pairs,
    find_rows,
    labels,
    pair_ids,
    planted_kinds,
    sample_points,
    score_span,
)
from clipmem_core.review.selection import Range, Selection
from tests.review.slow_selection import selections, slowly

Copy = Callable[..., Audit]
EVERY = 10_000


@given(selection=selections, protocol=st.sampled_from(["ensemble", "paper"]))
@settings(max_examples=150)
def test_any_selection_holds_the_pairs_that_a_slow_look_finds(
    made: dict[str, Audit], selection: Selection, protocol: str
) -> None:
    wanted = slowly(made[protocol], selection, {})
    assert find_rows(made[protocol], selection, page=1, size=EVERY) == wanted
    assert count_pairs(made[protocol], selection) == len(wanted)


def test_pages_put_together_are_the_whole_order(made: dict[str, Audit]) -> None:
    wanted = made["ensemble"].scores.sort_values("clipmem", ascending=False)["pair_id"].tolist()
    pages = [find_rows(made["ensemble"], Selection(), page=page, size=30) for page in (1, 2, 3, 4, 5)]
    assert [len(page) for page in pages] == [30, 30, 30, 10, 0]
    ids = made["ensemble"].pairs["pair_id"]
    assert [ids[row] for page in pages for row in page] == wanted == pair_ids(made["ensemble"], Selection())


def test_ids_come_in_order_however_many_are_asked_for(made: dict[str, Audit], monkeypatch: pytest.MonkeyPatch) -> None:
    few = pair_ids(made["paper"], Selection(order="misfit"))
    monkeypatch.setattr(rows, "_FEW", 0)
    assert pair_ids(made["paper"], Selection(order="misfit")) == few
    assert few == made["paper"].scores.dropna().sort_values("misfit", ascending=False)["pair_id"].tolist()


def test_pairs_without_the_score_that_orders_are_left_out_only_then(copy: Copy) -> None:
    audit = copy()
    write_table(audit.folder / "scores.parquet", audit.scores.assign(misfit=[np.inf, np.nan, None, *[0.5] * 97]))
    assert find_rows(audit, Selection(order="misfit"), page=1, size=EVERY) == list(range(3, 100))
    assert count_pairs(audit, Selection()) == 100


def test_a_score_that_no_pair_has_selects_none(copy: Copy) -> None:
    audit = copy()
    write_table(audit.folder / "scores.parquet", audit.scores.assign(learned=None))  # written as text
    assert count_pairs(audit, Selection(order="learned")) == 0
    assert count_pairs(audit, Selection(ranges=(Range("learned", -1),))) == 0
    assert score_span(audit, "learned") is None


def test_independent_pairs_alone_come_lowest_first_unless_turned_round(made: dict[str, Audit]) -> None:
    lowest = made["paper"].scores.query("group == 'independent'").sort_values("clipmem").index.tolist()
    alone = Selection(group="independent")
    assert find_rows(made["paper"], alone, page=1, size=EVERY) == lowest
    turned = Selection(group="independent", ascending=True)
    assert find_rows(made["paper"], turned, page=1, size=EVERY) == lowest[::-1]


def test_labels_come_by_frequency_and_planted_kinds_too(copy: Copy) -> None:
    audit = copy()
    named = ["b"] * 50 + ["a"] * 30 + ["c"] * 10 + [None] * 10
    kinds = ["vague"] * 2 + ["miscaption"] * 3 + [None] * 95
    write_table(audit.folder / "pairs.parquet", audit.pairs.assign(label=named, planted=kinds))
    assert labels(audit) == ["b", "a", "c"]
    assert planted_kinds(audit) == ["miscaption", "vague"]
    write_table(audit.folder / "pairs.parquet", audit.pairs.assign(label=[f"{n:03d}" for n in range(100)]))
    assert labels(audit) == [f"{n:03d}" for n in range(100)]
    write_table(audit.folder / "pairs.parquet", audit.pairs.assign(label=None, planted=None))
    assert (labels(audit), planted_kinds(audit)) == ([], [])


def test_the_span_of_a_score_is_that_of_its_numbers(copy: Copy) -> None:
    audit = copy()
    write_table(audit.folder / "scores.parquet", audit.scores.assign(se=[np.inf, np.nan, -1, 2, *[0] * 96]))
    assert score_span(audit, "se") == (-1, 2)
    with pytest.raises(ValueError, match="column must be one of .*, not 'label'"):
        score_span(audit, "label")


def test_points_are_drawn_the_same_each_time_and_carry_their_columns(made: dict[str, Audit]) -> None:
    audit = made["ensemble"]
    both = audit.pairs.merge(audit.scores, on="pair_id")
    asked = ["group", "label", "planted", "misfit"]
    some = sample_points(audit, "similarity_out", "misfit", colour_by=asked, limit=50)
    assert list(some.columns) == ["row", "similarity_out", "misfit", "group", "label", "planted"]
    assert len(some) == 50
    for column in some.columns.drop("row"):
        wanted = both.loc[some["row"], column].reset_index(drop=True)
        pd.testing.assert_series_equal(some[column], wanted, check_dtype=False)
    again = sample_points(audit, "similarity_out", "misfit", colour_by=asked, limit=50)
    pd.testing.assert_frame_equal(some, again)
    other = sample_points(audit, "similarity_out", "misfit", limit=50, seed=1)
    assert other["row"].tolist() != some["row"].tolist()
    assert len(sample_points(audit, "similarity_out", "misfit", limit=EVERY)) == 80
    with pytest.raises(ValueError, match="columns must be scores, group, label or planted, not 'captions'"):
        sample_points(audit, "similarity_out", "misfit", colour_by=["captions"], limit=1)


def test_an_audit_that_names_no_folder_shows_no_pictures_of_others(copy: Copy) -> None:
    audit = copy()
    assert audit_root(audit).name == "ensemble"
    write_json(audit.folder / "config.json", {})
    assert audit_root(audit) == audit.folder
    write_json(audit.folder / "config.json", {"root": 3})
    with pytest.raises(InputError, match=r"config.json: root is wrong"):
        audit_root(audit)
