from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from clipmem_core.audits.store import SCORES, write_table
from clipmem_core.columns import CLIPMEM
from clipmem_core.config import InputError
from clipmem_core.exports import write
from clipmem_core.review.cards import cards
from clipmem_core.review.compare import compare
from clipmem_core.review.decisions import open_review
from clipmem_core.review.overview import load_overview, load_score_map, sample_points
from clipmem_core.review.rows import count_pairs, find_rows, score_span
from clipmem_core.review.score_breakdown import mean_terms
from clipmem_core.review.selection import Range, Selection
from clipmem_core.scores.table import BY_NAME
from tests.made_fixtures import Copy


def test_a_score_that_an_audit_does_not_have_yet_is_nan_for_every_pair(copy: Copy, tmp_path: Path) -> None:
    audit, today = copy(), copy(name="today")
    write_table(audit.folder / SCORES, audit.scores[["pair_id", "group", CLIPMEM]])
    assert find_rows(audit, Selection(), page=1, size=5) == find_rows(today, Selection(), page=1, size=5)
    assert set(mean_terms(audit, 3).values()) == {None, today.scores[CLIPMEM][3]}
    for name in set(BY_NAME) - {CLIPMEM}:
        assert count_pairs(audit, Selection(order=name)) == 0
        assert count_pairs(audit, Selection(ranges=(Range(name, -1e9),))) == 0
        assert score_span(audit, name) is None
    (card,) = cards(audit, [3])
    assert (card.scores["misfit"], card.scores[CLIPMEM]) == (None, today.scores[CLIPMEM][3])
    assert load_score_map(audit).count == len(sample_points(audit, CLIPMEM, "misfit", limit=9)) == 0
    assert load_overview(audit).groups["mean"].tolist() == load_overview(today).groups["mean"].tolist()
    assert compare(audit, today, column="misfit", limit=5).n_scored == 0
    open_review(audit).decide([audit.pairs["pair_id"][3]], "remove")
    for format, suffix in (("decisions", "parquet"), ("decisions", "csv"), ("html", "html")):
        write(audit, format, tmp_path / f"it.{suffix}")
    away = pd.read_parquet(tmp_path / "it.parquet").iloc[0]
    assert (away[CLIPMEM], np.isnan(away["misfit"])) == (today.scores[CLIPMEM][3], True)


def test_clipmem_is_in_every_audit(copy: Copy) -> None:
    audit = copy()
    write_table(audit.folder / SCORES, audit.scores.drop(columns=CLIPMEM))
    with pytest.raises(InputError, match=r"scores\.parquet cannot be read \(.*clipmem"):
        count_pairs(audit, Selection())
