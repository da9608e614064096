from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from clipmem_core.review.score_map import find_corners, load_score_map, pair_density

from clipmem_core.audits.store import Audit, write_table
from clipmem_core.config import InputError
from clipmem_core.review import score_map

Copy = Callable[..., Audit]


@pytest.mark.parametrize("protocol", ["ensemble", "paper"])
def test_corners_are_quantiles_of_the_external_pairs(made: dict[str, Audit], protocol: str) -> None:
    external = made[protocol].scores.query("group == 'external'")
    corners = find_corners(made[protocol])
    assert corners is not None
    assert corners.fits == pytest.approx(np.quantile(external["similarity_out"], 0.25))
    assert corners.high == pytest.approx(np.quantile(external["clipmem"], 0.95))
    assert (corners.low is None) == (protocol == "ensemble")
    assert corners.low is None or corners.low == pytest.approx(np.quantile(external["clipmem"], 0.05))


def test_without_external_pairs_there_are_no_corners(copy: Copy) -> None:
    audit = copy()
    write_table(audit.folder / "scores.parquet", audit.scores.assign(group="scored"))
    assert find_corners(audit) is None


def test_pairs_without_one_of_the_scores_are_not_on_the_map(copy: Copy) -> None:
    audit = copy()
    scores = audit.scores
    scores.loc[:9, "similarity_out"] = np.nan
    scores.loc[10:14, "clipmem"] = np.inf
    write_table(audit.folder / "scores.parquet", scores)
    found = load_score_map(audit)
    assert found.count == 85
    assert found.points["row"].tolist() == list(range(15, 100))
    assert found.points["planted"].dropna().tolist() == ["miscaption"] * 8
    assert found.density.empty


def test_an_audit_without_these_scores_has_an_empty_map(copy: Copy) -> None:
    audit = copy()
    write_table(audit.folder / "scores.parquet", audit.scores.assign(similarity_out=None))
    found = load_score_map(audit)
    assert found.count == 0
    assert found.points.empty
    assert found.corners is None


def test_the_density_counts_every_pair_in_its_cell(made: dict[str, Audit]) -> None:
    scores, cells = made["paper"].scores, pair_density(made["paper"])
    counts, x_edges, y_edges = np.histogram2d(scores["similarity_out"], scores["clipmem"], bins=score_map.CELLS)
    slow = [
        (x_edges[i : i + 2].mean(), y_edges[j : j + 2].mean(), counts[i, j])
        for i, j in zip(*counts.nonzero(), strict=True)
    ]
    np.testing.assert_allclose(cells[["x", "y", "n"]].to_numpy(float), np.array(slow))


def test_a_density_of_equal_scores_is_one_cell(copy: Copy) -> None:
    audit = copy()
    write_table(audit.folder / "scores.parquet", audit.scores.assign(similarity_out=0.5, clipmem=0.25))
    assert pair_density(audit)["n"].tolist() == [100]


def test_a_large_map_is_thinned_and_its_density_is_not(made: dict[str, Audit], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score_map, "LIMIT", 30)
    one, again = load_score_map(made["ensemble"]), load_score_map(made["ensemble"])
    assert len(one.points) == 30
    pd.testing.assert_frame_equal(one.points, again.points)
    assert one.count == one.density["n"].sum() == 100


def test_a_missing_file_is_named(copy: Copy) -> None:
    audit = copy()
    (audit.folder / "scores.parquet").unlink()
    with pytest.raises(InputError, match=r"scores\.parquet is missing"):
        load_score_map(audit)
